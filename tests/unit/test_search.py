"""Searches find what people mean: in any case and form, and no character is special."""

from __future__ import annotations

import pytest

from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.search import Words, check_search, folded


def found(text: str, *texts: str) -> bool:
    """Return whether a search finds texts."""
    words = Words.of(text)
    assert words is not None
    return words.occur(*texts)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("slack HISTORY", "slack_get_channel_History"),
        ("history slack", "slack.history"),
        ("STRASSE", "Goethestraße 5"),
        ("straße", "GOETHESTRASSE"),
        ("ÉQUIPE", "e\u0301quipe Produit"),
        ("e\u0301quipe", "\u00c9QUIPE"),
        ("ΟΔΥΣΣΕΥΣ", "Οδυσσευς"),
        ("\uff53\uff4c\uff41\uff43\uff4b", "Slack"),
        ("slack", "\uff33\uff4c\uff41\uff43\uff4b"),
        ("ﬁle", "FILE"),
        ("サーバ", "ｻｰﾊﾞｰ"),
        ("co\u00adoperate", "Cooperate"),
        ("दरूद", "दरू\u200dद"),
        ("o'brien", "Pat O'Brien"),
        ("100%_x", "is 100%_X"),
        ("auth0|5f", "auth0|5F7c"),
        ("a\u00a0b\u3000c", "cab"),
        ("\\", "ACME\\ann"),
        ("ПРИВЕТ", "привет"),
        ("👩\u200d🚀", "crew 👩\u200d🚀"),
    ],
)
def test_words_are_found(text: str, name: str) -> None:
    """Case, composition, width, ligatures and joiners do not matter; each word may be a part of a word."""
    assert found(text, name)


@pytest.mark.parametrize(
    ("text", "name"),
    [("%", "100"), ("_", "slack.history"), ("a.c", "abc"), ("[a]", "a"), ("ab", "a b"), ("jose", "José"), ("*", "x")],
)
def test_no_character_stands_for_another(text: str, name: str) -> None:
    """Neither those of LIKE nor those of regular expressions; an accent counts."""
    assert not found(text, name)


def test_each_word_may_be_in_another_text() -> None:
    """But all of them must occur, and none over the end of a text."""
    assert found("slack reply", "slack.post", "Reply to a thread")
    assert not found("slack missing", "slack.post", "Reply")
    assert not found("postreply", "slack.post", "reply")


def test_a_text_without_words_is_no_search() -> None:
    """Only white space and what cannot be seen."""
    assert Words.of("") is Words.of(" \t\u3000 ") is Words.of("\u200b") is None


def test_folding_is_stable() -> None:
    """A folded text is its own folded form, so the order in which texts are stored and searched does not matter."""
    for number in (*range(0x20, 0xD800), *range(0xE000, 0x30000, 7)):
        once = folded(f"x{chr(number)}y")
        assert folded(once) == once, hex(number)


@pytest.mark.parametrize("text", ["x" * 256, " ", "\u200b", "a\nb", "\u202e", "\x00"])
def test_a_text_to_search_for_is_one_visible_line(text: str) -> None:
    """Of at most 255 characters, as many as the longest id has; or it is empty."""
    violations = Violations()
    check_search(violations, "text", "")
    check_search(violations, "text", "x" * 255)
    violations.raise_if_any()
    check_search(violations, "text", text)
    with pytest.raises(InvalidRequestError):
        violations.raise_if_any()
