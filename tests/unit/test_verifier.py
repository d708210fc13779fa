"""Verifying tokens: argon2 once for each, a fingerprint afterwards, and a bound on what is remembered."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import TYPE_CHECKING

import argon2
import pytest

from skilder_keys.app.authorization.verifier import Verifier
from skilder_keys.domain.hashing import HashParameters, SecretHasher, TokenFingerprint
from skilder_keys.domain.token import KeyType, Token
from tests.support.ids import new_key_id

if TYPE_CHECKING:
    from collections.abc import Iterator


class CountingHasher(SecretHasher):
    """A hasher that counts its argon2 checks, and records their threads."""

    def __init__(self, parameters: HashParameters) -> None:
        super().__init__(parameters)
        self.checks = 0
        self.threads: set[str] = set()

    def verifies(self, token: Token, secret_hash: str) -> bool:
        """Count, then verify."""
        self.checks += 1
        self.threads.add(threading.current_thread().name)
        return super().verifies(token, secret_hash)


@pytest.fixture
def hasher() -> CountingHasher:
    """A cheap hasher."""
    return CountingHasher(HashParameters(memory_kib=16))


@pytest.fixture
def verifier(hasher: CountingHasher) -> Iterator[Verifier]:
    """A verifier that remembers at most two checks."""
    made = Verifier(hasher, TokenFingerprint(), threads=1, capacity=2)
    yield made
    made.close()


def minted() -> Token:
    """Make a token of a new key."""
    return Token.mint(KeyType.WORKSPACE, new_key_id())


async def verifies(verifier: Verifier, token: Token, kept: str) -> bool:
    """Return whether a token verifies against a hash."""
    return await verifier.verifies(token, verifier.digest(token), kept)


async def test_a_right_token_is_verified_once_and_recognized_afterwards(
    verifier: Verifier, hasher: CountingHasher
) -> None:
    """Only the first check uses argon2, in a thread."""
    token = minted()
    kept = await verifier.hash(token.secret)
    for _ in range(3):
        assert await verifies(verifier, Token.parse(token.reveal()), kept)
    assert hasher.checks == 1
    assert [name.startswith("argon2") for name in hasher.threads] == [True]


async def test_a_wrong_token_is_refused_and_not_remembered(verifier: Verifier, hasher: CountingHasher) -> None:
    """Wrong guesses at a key that was not used here cost one check each and do not affect the right token."""
    token = minted()
    kept = await verifier.hash(token.secret)
    for _ in range(2):
        assert not await verifies(verifier, Token.mint(token.type, token.key_id), kept)
    assert hasher.checks == 2
    assert await verifies(verifier, token, kept)


async def test_a_wrong_token_after_the_right_one_costs_no_argon2(verifier: Verifier, hasher: CountingHasher) -> None:
    """Once the right token is known, all others are known to be wrong."""
    token = minted()
    kept = await verifier.hash(token.secret)
    assert await verifies(verifier, token, kept)
    flipped = replace(token, secret=bytes([token.secret[0] ^ 1]) + token.secret[1:])
    for wrong in (flipped, Token.mint(token.type, token.key_id)):
        assert not await verifies(verifier, wrong, kept)
    assert await verifies(verifier, token, kept)
    assert hasher.checks == 1


async def test_a_new_hash_of_the_same_key_is_verified_again(verifier: Verifier, hasher: CountingHasher) -> None:
    """A check belongs to one hash: after the secret was replaced, the old token is not recognized."""
    old, new = minted(), minted()
    old_hash, new_hash = await verifier.hash(old.secret), await verifier.hash(new.secret)
    assert await verifies(verifier, old, old_hash)
    assert not await verifies(verifier, old, new_hash)
    assert await verifies(verifier, new, new_hash)
    assert hasher.checks == 3


async def test_the_least_recently_used_check_is_forgotten_first(verifier: Verifier, hasher: CountingHasher) -> None:
    """With room for two, the third check drops the least recently used one, which is then verified again."""
    known = [(token, await verifier.hash(token.secret)) for token in (minted(), minted(), minted())]
    first, second, third = known
    for token, kept in (first, second, first, third):
        assert await verifies(verifier, token, kept)
    assert hasher.checks == 3
    for token, kept in (first, third):
        assert await verifies(verifier, token, kept)
    assert hasher.checks == 3
    assert await verifies(verifier, *second)
    assert hasher.checks == 4


async def test_a_hash_of_todays_cost_is_not_renewed(verifier: Verifier) -> None:
    """There is nothing to renew."""
    token = minted()
    assert await verifier.renewed(token, await verifier.hash(token.secret)) is None


async def test_a_hash_of_another_cost_is_renewed(verifier: Verifier, hasher: CountingHasher) -> None:
    """The new hash has today's cost and verifies the same token and no other."""
    token = minted()
    renewed = await verifier.renewed(token, SecretHasher(HashParameters(memory_kib=32)).hash(token.secret))
    assert renewed is not None
    assert not hasher.is_outdated(renewed)
    assert await verifies(verifier, token, renewed)
    assert not await verifies(verifier, Token.mint(token.type, token.key_id), renewed)


async def test_a_broken_hash_is_an_error_each_time(verifier: Verifier) -> None:
    """Argon2's error is raised to the caller, and nothing is remembered."""
    for _ in range(2):
        with pytest.raises(argon2.exceptions.InvalidHashError):
            await verifies(verifier, minted(), "no hash")


async def test_closing_ends_the_threads(hasher: CountingHasher) -> None:
    """A closed verifier has no threads and accepts no work."""
    before = set(threading.enumerate())
    verifier = Verifier(hasher, TokenFingerprint(), threads=2)
    kept = await verifier.hash(minted().secret)
    started = set(threading.enumerate()) - before
    assert started
    verifier.close()
    assert not any(thread.is_alive() for thread in started)
    with pytest.raises(RuntimeError):
        await verifies(verifier, minted(), kept)
