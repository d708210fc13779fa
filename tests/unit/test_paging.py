"""Page tokens: sealed, valid for one listing only, and always refused with the same error."""

from __future__ import annotations

import base64
import string

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.key_filter import KeyFilter
from skilder_keys.domain.paging import PageTokens, listing
from skilder_keys.domain.token import KeyType

PAGES = PageTokens(b"0123456789abcdef0123456789abcdef")
LISTINGS = st.text(max_size=50)
POSITIONS = st.text(max_size=64)
BASE64URL = string.ascii_letters + string.digits + "-_"


def is_refused(listing: str, token: str, pages: PageTokens = PAGES) -> bool:
    """Return whether a token is refused, which must happen with the one allowed error."""
    try:
        pages.open(listing, token)
    except InvalidRequestError as error:
        return [violation.field for violation in error.violations] == ["page_token"]
    return False


@settings(deadline=None)
@given(LISTINGS, POSITIONS)
def test_a_position_survives_the_round_trip(listing: str, position: str) -> None:
    """The token is URL-safe and holds the position. Every process seals it the same way."""
    token = PAGES.seal(listing, position)
    assert set(token) <= set(BASE64URL)
    assert PAGES.open(listing, token) == position
    assert PageTokens(b"0123456789abcdef0123456789abcdef").seal(listing, position) == token


def test_no_token_asks_for_the_first_page() -> None:
    """The empty token is valid with any filters."""
    assert PAGES.open("anything", "") is None


@settings(deadline=None)
@given(LISTINGS, POSITIONS, st.data())
def test_any_changed_character_is_refused(listing: str, position: str, data: st.DataObject) -> None:
    """Even where the change is in bits that base64 ignores."""
    token = PAGES.seal(listing, position)
    at = data.draw(st.integers(0, len(token) - 1))
    other = data.draw(st.sampled_from(BASE64URL) | st.characters())
    assume(other != token[at])
    assert is_refused(listing, token[:at] + other + token[at + 1 :])


@settings(deadline=None)
@given(LISTINGS, POSITIONS, st.sampled_from([*BASE64URL, *"=+/ \n\x00é\u200b"]) | st.characters())
def test_any_added_character_is_refused(listing: str, position: str, more: str) -> None:
    """Also padding and white space, which base64 decoders skip."""
    token = PAGES.seal(listing, position)
    assert is_refused(listing, token + more)
    assert is_refused(listing, more + token)
    assert is_refused(listing, token[:5] + more + token[5:]) or more == token[5]


@settings(deadline=None)
@given(LISTINGS, POSITIONS, st.data())
def test_a_part_of_a_token_is_refused(listing: str, position: str, data: st.DataObject) -> None:
    """Cut at either end, at any length."""
    token = PAGES.seal(listing, position)
    length = data.draw(st.integers(1, len(token) - 1))
    assert is_refused(listing, token[:length])
    assert is_refused(listing, token[length:])


@settings(deadline=None)
@given(LISTINGS, LISTINGS, POSITIONS)
def test_a_token_is_valid_for_its_listing_only(listing: str, other: str, position: str) -> None:
    """With other filters it is refused."""
    assume(listing != other)
    assert is_refused(other, PAGES.seal(listing, position))


def test_a_listing_has_a_text_of_its_own() -> None:
    """It is different for each method, actor and filter, and no value can look like another one."""
    acme = KeyFilter(WorkspaceId("acme"))
    listings = [
        listing("ListKeys", None),
        listing("ListWorkspaces", None),
        listing("ListKeys", None, acme),
        listing("ListKeys", None, KeyFilter(WorkspaceId("acme"), types=(KeyType.USER,))),
        listing("ListKeys", "ada", acme),
        listing("ListKeys", "null", acme),
        listing("ListKeys", 'ada" ["acme"]', acme),
        listing("ListKeys", 'ada" ["acme"]'),
    ]
    assert len(set(listings)) == len(listings)


def test_the_seal_separates_the_listing_from_the_position() -> None:
    """Where both concatenate to the same bytes, the seals (the first 128 bits) still differ."""
    assert PAGES.seal("ab", "c")[:21] != PAGES.seal("a", "bc")[:21]


@settings(deadline=None)
@given(LISTINGS, POSITIONS, st.binary(min_size=16, max_size=64))
def test_a_token_of_another_key_is_refused(listing: str, position: str, key: bytes) -> None:
    """Without the signing key nobody can make a token."""
    assert is_refused(listing, PageTokens(key).seal(listing, position))


@settings(deadline=None)
@given(LISTINGS, st.text(min_size=1) | st.text(BASE64URL, min_size=1) | st.binary(min_size=16).map(str))
def test_any_other_text_is_refused(listing: str, text: str) -> None:
    """Always with the same error."""
    assert is_refused(listing, text)


@settings(deadline=None)
@given(LISTINGS, st.binary(min_size=1, max_size=100))
def test_any_other_bytes_in_base64_are_refused(listing: str, body: bytes) -> None:
    """Also bytes whose position is not valid UTF-8."""
    assert is_refused(listing, base64.urlsafe_b64encode(body).decode().rstrip("="))


@pytest.mark.parametrize(
    "token", ["A" * 10_000, "é" * 10_000, "A" * 513, "日本語", "=", "====", "\x00", "A\n", "-", "."]
)
def test_odd_texts_are_refused(token: str) -> None:
    """Too long, without content, or not ASCII."""
    assert is_refused("listing", token)
