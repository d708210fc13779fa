"""How secrets are hashed, and how verified tokens are recognized."""

from __future__ import annotations

import re
from dataclasses import replace

import argon2
import pytest

from skilder_keys.domain.hashing import HashParameters, SecretHasher, TokenFingerprint
from skilder_keys.domain.token import KeyType, Token
from tests.support.ids import new_key_id

PHC = re.compile(r"\$argon2id\$v=19\$m=(\d+),t=(\d+),p=(\d+)\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}")
CHEAP = HashParameters(memory_kib=16, passes=2, lanes=2)


def minted() -> Token:
    """Make a token of a new key."""
    return Token.mint(KeyType.WORKSPACE, new_key_id())


def test_the_default_cost_is_the_one_of_the_design() -> None:
    """A quarter of a MiB, one pass, one lane."""
    assert HashParameters() == HashParameters(memory_kib=256, passes=1, lanes=1)
    assert SecretHasher(HashParameters()).hash(minted().secret).startswith("$argon2id$v=19$m=256,t=1,p=1$")


@pytest.mark.parametrize("parameters", [HashParameters(), CHEAP, HashParameters(64, 3, 1)])
def test_a_hash_is_a_phc_string_with_the_given_cost(parameters: HashParameters) -> None:
    """It states how it was made: argon2id, 16 bytes of salt, 32 bytes of hash."""
    match = PHC.fullmatch(SecretHasher(parameters).hash(minted().secret))
    assert match
    assert tuple(map(int, match.groups())) == (parameters.memory_kib, parameters.passes, parameters.lanes)


def test_two_hashes_of_one_token_differ() -> None:
    """Each hash has its own salt, and both verify the token."""
    hasher, token = SecretHasher(CHEAP), minted()
    first, second = hasher.hash(token.secret), hasher.hash(token.secret)
    assert first != second
    assert hasher.verifies(token, first)
    assert hasher.verifies(token, second)


def test_only_the_hashed_secret_verifies() -> None:
    """Another secret of the same key does not, be it random or one bit away."""
    hasher, token = SecretHasher(CHEAP), minted()
    kept = hasher.hash(token.secret)
    assert not hasher.verifies(Token.mint(token.type, token.key_id), kept)
    for at in (0, 31):
        flipped = bytes(byte ^ (index == at) for index, byte in enumerate(token.secret))
        assert not hasher.verifies(replace(token, secret=flipped), kept)


def test_a_hash_holds_nothing_of_the_token() -> None:
    """Neither the token's text nor its secret appears in the hash."""
    token = minted()
    kept = SecretHasher(CHEAP).hash(token.secret)
    assert token.reveal()[26:69] not in kept
    assert token.secret.hex() not in kept


@pytest.mark.parametrize("today", [HashParameters(32, 2, 2), HashParameters(16, 3, 2), HashParameters(16, 2, 1)])
def test_a_hash_of_another_cost_is_outdated_and_still_verifies(today: HashParameters) -> None:
    """Every change of a parameter is noticed, higher or lower, and old hashes still verify."""
    token = minted()
    kept = SecretHasher(CHEAP).hash(token.secret)
    assert not SecretHasher(CHEAP).is_outdated(kept)
    assert SecretHasher(today).is_outdated(kept)
    assert SecretHasher(today).verifies(token, kept)


@pytest.mark.parametrize("kept", ["", "plain", "$argon2id$v=19$m=16,t=2,p=2$short", "$2b$12$" + "a" * 53])
def test_a_broken_hash_is_an_error_and_no_decision(kept: str) -> None:
    """A broken hash is our fault and must not look like a wrong token."""
    with pytest.raises((argon2.exceptions.InvalidHashError, argon2.exceptions.VerificationError)) as caught:
        SecretHasher(CHEAP).verifies(minted(), kept)
    assert not isinstance(caught.value, argon2.exceptions.VerifyMismatchError)


def test_a_fingerprint_stands_for_one_token() -> None:
    """The same token has the same 32 bytes; another secret, id or type has others."""
    fingerprint, token = TokenFingerprint(), minted()
    others = [
        replace(token, secret=minted().secret),
        replace(token, key_id=new_key_id()),
        replace(token, type=KeyType.USER),
    ]
    digests = {fingerprint.digest(each.reveal()) for each in [token, Token.parse(token.reveal()), *others]}
    assert len(digests) == 4
    assert {len(each) for each in digests} == {32}


def test_another_process_has_other_fingerprints() -> None:
    """A fingerprint says nothing outside the process that made it."""
    text = minted().reveal()
    assert TokenFingerprint().digest(text) != TokenFingerprint().digest(text)


def test_any_text_has_a_fingerprint() -> None:
    """Callers may present any text. Different texts have different fingerprints."""
    fingerprint = TokenFingerprint()
    texts = ["", "x", "X", "x" * 100_000, "\N{KEY}", "\ud800", "a\x00b"]
    assert len({fingerprint.digest(text) for text in texts}) == len(texts)
