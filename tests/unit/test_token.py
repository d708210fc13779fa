"""The token format: one spelling each, nothing else accepted, and no secret leaked by accident."""

from __future__ import annotations

import re
import string
import traceback
import zlib
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.token import PREFIXES, KeyType, MalformedTokenError, Token, hint
from tests.support.ids import new_key_id

BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
KEY_IDS = st.integers(0, 2**128 - 1).map(lambda number: KeyId(UUID(int=number)))
TOKENS = st.builds(Token, st.sampled_from(KeyType), KEY_IDS, st.binary(min_size=32, max_size=32))
PADDING = st.sampled_from(["", " ", "\n", "\r\n", "\t", "\x00", "\u00a0", "\u200b", "\ufeff", "\x85", "\u2028"])


def base62(number: int, length: int) -> str:
    """Encode a number in base62, big-endian, padded to a length."""
    return base62(number // 62, length - 1) + BASE62[number % 62] if length else ""


def sealed(body: str) -> str:
    """Append the right checksum to any text."""
    return body + base62(zlib.crc32(body.encode()), 6)


def is_refused(text: str) -> bool:
    """Return whether a text is refused, which must happen with the one allowed error."""
    try:
        Token.parse(text)
    except MalformedTokenError:
        return True
    return False


BODIES = st.builds(str.__add__, st.sampled_from(["WSK_", "USK_", "RTK_"]), st.text(BASE62, min_size=65, max_size=65))
TEXTS = st.one_of(
    st.text(),
    st.text(BASE62 + "_", min_size=70, max_size=80),
    st.from_regex(r"(WSK|USK|RTK)_[0-9A-Za-z]{71}", fullmatch=True),
    BODIES.map(sealed),
    st.builds(lambda before, token, after: before + token.reveal() + after, PADDING, TOKENS, PADDING),
    TOKENS.map(lambda token: token.reveal().replace("3", "\u0663").replace("4", "\uff14")),
)


def test_the_spelling_is_the_one_of_the_design() -> None:
    """This test's own implementation and the code spell a token of known values as the design does."""
    key_id, secret = 0x018F_0E5C_7A3B_7C4D_8E5F_6071_8293_A4B5, int.from_bytes(bytes(range(32)), "big")
    text = sealed("USK_" + base62(key_id, 22) + base62(secret, 43))
    assert text == "USK_02wMt00gWvqMmdm8sBnaFR003aUlTJC7tjlCTQj2uNU3MFagCXG9LRKRcwGkBIDlf2bKYFC"
    token = Token(KeyType.USER, KeyId(UUID(int=key_id)), bytes(range(32)))
    assert token.reveal() == text
    assert Token.parse(text) == token


@settings(deadline=None)
@given(TOKENS)
def test_a_token_survives_the_round_trip(token: Token) -> None:
    """Every type, id and secret is read back from a spelling of 75 characters that matches the design's pattern."""
    text = token.reveal()
    assert len(text) == 75
    assert re.fullmatch(r"(WSK|USK|RTK)_[0-9A-Za-z]{71}", text)
    assert Token.parse(text) == token


@settings(deadline=None)
@given(st.sampled_from(KeyType), KEY_IDS)
def test_a_minted_token_has_a_fresh_secret(key_type: KeyType, key_id: KeyId) -> None:
    """Two tokens of one key differ in 32 random bytes and agree in the rest."""
    first, second = Token.mint(key_type, key_id), Token.mint(key_type, key_id)
    assert (first.type, first.key_id) == (second.type, second.key_id) == (key_type, key_id)
    assert len(first.secret) == len(second.secret) == 32
    assert first.secret != second.secret
    assert Token.parse(first.reveal()) == first


@settings(deadline=None)
@given(TOKENS, st.integers(0, 74), st.data())
def test_any_changed_character_is_refused(token: Token, position: int, data: st.DataObject) -> None:
    """The checksum finds every typo at any position."""
    text = token.reveal()
    other = data.draw(st.sampled_from([each for each in BASE62 + "_" if each != text[position]]))
    assert is_refused(text[:position] + other + text[position + 1 :])


@settings(deadline=None)
@given(TOKENS)
def test_any_two_swapped_neighbours_are_refused(token: Token) -> None:
    """The checksum finds this common typo at any position."""
    text = token.reveal()
    for at in range(74):
        if text[at] != text[at + 1]:
            assert is_refused(text[:at] + text[at + 1] + text[at] + text[at + 2 :]), at


@settings(deadline=None)
@given(TOKENS, st.integers(0, 74), st.text(min_size=1))
def test_a_shorter_or_longer_token_is_refused(token: Token, length: int, more: str) -> None:
    """A part of a token is refused, and so is a token with something before, after or inside it."""
    text = token.reveal()
    assert is_refused(text[:length])
    assert is_refused(text[75 - length :])
    assert is_refused(text + more)
    assert is_refused(more + text)
    assert is_refused(text[:26] + more + text[26:])


@settings(deadline=None)
@given(TEXTS)
def test_an_accepted_text_is_the_only_spelling_of_its_token(text: str) -> None:
    """Everything else is refused with the same error."""
    assert is_refused(text) or Token.parse(text).reveal() == text


@settings(deadline=None)
@given(st.sampled_from(["WSK_", "USK_", "RTK_"]), st.integers(2**128, 62**22 - 1), st.integers(0, 2**256 - 1))
def test_an_id_over_128_bits_is_refused(prefix: str, key_id: int, secret: int) -> None:
    """Even with a right checksum: no UUID is that large."""
    assert is_refused(sealed(prefix + base62(key_id, 22) + base62(secret, 43)))


@settings(deadline=None)
@given(st.sampled_from(["WSK_", "USK_", "RTK_"]), st.integers(0, 2**128 - 1), st.integers(2**256, 62**43 - 1))
def test_a_secret_over_256_bits_is_refused(prefix: str, key_id: int, secret: int) -> None:
    """Even with a right checksum."""
    assert is_refused(sealed(prefix + base62(key_id, 22) + base62(secret, 43)))


@settings(deadline=None)
@given(TOKENS, st.integers(1, 12))
def test_a_checksum_over_32_bits_is_refused(token: Token, rounds: int) -> None:
    """A checksum that is right only modulo 2**32 would be a second spelling."""
    body = token.reveal()[:-6]
    assert is_refused(body + base62(zlib.crc32(body.encode()) + rounds * 2**32, 6))


@pytest.mark.parametrize("prefix", ["XSK_", "wsk_", "WSK-", "WSK0", "SKW_", "Wsk_", "PAT_", "ÜSK_"])
def test_another_prefix_is_refused(prefix: str) -> None:
    """Even with a right checksum."""
    body = Token.mint(KeyType.WORKSPACE, new_key_id()).reveal()[4:-6]
    assert not is_refused(sealed("WSK_" + body))
    assert is_refused(sealed(prefix + body))


@settings(deadline=None)
@given(KEY_IDS, KEY_IDS, st.sampled_from(KeyType))
def test_tokens_sort_like_their_ids(one: KeyId, other: KeyId, key_type: KeyType) -> None:
    """The alphabet is in ASCII order, so spellings sort like the numbers."""
    first, second = Token.mint(key_type, one).reveal()[:26], Token.mint(key_type, other).reveal()[:26]
    assert (first < second) == (one < other)


def test_tokens_of_later_ids_sort_later() -> None:
    """Ids are UUIDs of version 7, which increase even within a millisecond."""
    ids = [new_key_id() for _ in range(10_000)]
    assert {each.version for each in ids} == {7}
    tokens = [Token.mint(KeyType.USER, each).reveal() for each in ids]
    assert tokens == sorted(tokens)


@settings(deadline=None)
@given(TOKENS)
def test_a_hint_is_the_prefix_and_the_end_of_the_id(token: Token) -> None:
    """Every token of the key has it before the secret, so it reveals nothing of the secret."""
    text = token.reveal()
    assert hint(token.type, token.key_id) == text[:4] + text[16:26]
    assert text[:4] == PREFIXES[token.type]


def test_hints_of_keys_issued_together_differ() -> None:
    """Even for many keys whose ids were made in the same few milliseconds."""
    key_ids = [new_key_id() for _ in range(10_000)]
    assert len({hint(KeyType.WORKSPACE, key_id) for key_id in key_ids}) == len(key_ids)


@settings(deadline=None)
@given(TOKENS)
def test_printing_a_token_never_shows_its_secret(token: Token) -> None:
    """Only `reveal` spells it out; everything that prints objects shows the hint."""
    safe = f"<Token {token.reveal()[:4]}{token.reveal()[16:26]}…>"
    assert {repr(token), str(token), f"{token}", f"{token!r}", f"{token!s}", format(token)} == {safe}
    assert {"%s" % token, "%r" % token, "{}".format(token)} == {safe}  # noqa: UP031, UP032 - the old ways too
    assert repr([token]) == f"[{safe}]"


def test_a_traceback_with_local_variables_does_not_show_the_secret() -> None:
    """A token in a local variable or in an error's arguments appears as its hint."""
    token = Token.mint(KeyType.WORKSPACE, new_key_id())
    with pytest.raises(RuntimeError) as caught:
        _fail_with(token)
    reported = "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())
    assert reported.count(repr(token)) >= 2
    assert token.reveal()[26:69] not in reported
    assert token.secret.hex() not in reported
    assert repr(token.secret)[2:-1] not in reported


def test_an_error_does_not_show_the_refused_text() -> None:
    """A token with a typo is still nearly a token."""
    text = Token.mint(KeyType.USER, new_key_id()).reveal()
    with pytest.raises(MalformedTokenError) as caught:
        Token.parse(text[:-1] + ("0" if text[-1] != "0" else "1"))
    assert caught.value.args == ()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def _fail_with(token: Token) -> None:
    raise RuntimeError(token)
