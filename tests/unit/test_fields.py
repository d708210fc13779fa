"""The bounds of single fields, at the bound and one beyond it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from service.domain.errors import InvalidRequestError
from service.domain.fields import Violations

if TYPE_CHECKING:
    from collections.abc import Callable

REQUIRED = "is required"
BLANK = "is blank"
UNPRINTABLE = "has a character that cannot be printed"
NO_IDENTIFIER = "may hold letters, digits and ._:@/+|- only, a letter or digit first"


def said(check: Callable[[Violations], object]) -> str | None:
    """Answers what is said of the one field that a check looks at, or None where it passes."""
    violations = Violations()
    check(violations)
    try:
        violations.refuse()
    except InvalidRequestError as error:
        (violation,) = error.violations
        assert violation.field == "field"
        return violation.description
    return None


@pytest.mark.parametrize(
    "value",
    ["a", "7", "Z", "a" * 64, "ada@acme.example", "A.b_c:d@e/f+g|h-i", "0" * 64, "auth0|5f7c", "9-"],
)
def test_good_identifiers_pass(value: str) -> None:
    """Up to 64 letters, digits and a few signs."""
    assert said(lambda violations: violations.identifier("field", value)) is None


@pytest.mark.parametrize("character", list(" \n\t\x00,;\\\"'%*<>()é日٣\u200b\u202e\u2028\uff21\u0301\u017f\u212a🤖"))
def test_other_characters_are_refused_in_identifiers(character: str) -> None:
    """ASCII only and nothing invisible, wherever it stands."""
    assert said(lambda violations: violations.identifier("field", f"{character}ab")) == NO_IDENTIFIER
    assert said(lambda violations: violations.identifier("field", f"a{character}b")) == NO_IDENTIFIER
    assert said(lambda violations: violations.identifier("field", f"ab{character}")) == NO_IDENTIFIER


@pytest.mark.parametrize("character", list("._:@/+|-"))
def test_an_identifier_begins_with_a_letter_or_digit(character: str) -> None:
    """So that none looks like a flag, a path or a comment."""
    assert said(lambda violations: violations.identifier("field", f"{character}a")) == NO_IDENTIFIER
    assert said(lambda violations: violations.identifier("field", f"a{character}")) is None


def test_the_length_of_an_identifier_is_bounded() -> None:
    """By 64, or by what is asked."""
    told = "has 65 characters; at most 64 are allowed"
    assert said(lambda violations: violations.identifier("field", "a" * 65)) == told
    assert said(lambda violations: violations.identifier("field", "a" * 128, maximum=128)) is None
    told = "has 129 characters; at most 128 are allowed"
    assert said(lambda violations: violations.identifier("field", "a" * 129, maximum=128)) == told


def test_an_identifier_is_required_unless_told_otherwise() -> None:
    """An empty one that is not required passes; a bad one does not."""
    assert said(lambda violations: violations.identifier("field", "")) == REQUIRED
    assert said(lambda violations: violations.identifier("field", "", required=False)) is None
    assert said(lambda violations: violations.identifier("field", " ", required=False)) == NO_IDENTIFIER


@pytest.mark.parametrize("value", [None, "", "ada", "u" * 128])
def test_an_actor_may_be_missing(value: str | None) -> None:
    """A call on nobody's behalf has none."""
    violations = Violations()
    violations.actor(value)
    violations.refuse()


@pytest.mark.parametrize("value", ["u" * 129, "a b", "é"])
def test_a_bad_actor_is_named(value: str) -> None:
    """Its field is `actor`."""
    violations = Violations()
    violations.actor(value)
    with pytest.raises(InvalidRequestError, match=r"^actor "):
        violations.refuse()


@pytest.mark.parametrize(
    "value", ["x", "a\\b'", "Café", "Cafe\u0301", "日本語", "🤖", "❤\ufe0f", "🇩🇪", "Ελληνικά", "עברית", "हिन्दी"]
)
@pytest.mark.parametrize("lines", [False, True])
def test_words_of_any_script_pass(value: str, *, lines: bool) -> None:
    """Names are written as their owners write them."""
    assert said(lambda violations: violations.text("field", value, maximum=20, lines=lines)) is None


@pytest.mark.parametrize(
    "character",
    list("\x00\x07\r\x1b\x7f\x85\x9b\u00ad\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2066\u2069\ufeff\ufff9\ue000"),
)
@pytest.mark.parametrize("form", ["a{}b", "{}ab", "ab{}"])
@pytest.mark.parametrize("lines", [False, True])
def test_characters_nobody_sees_are_refused(character: str, form: str, *, lines: bool) -> None:
    """Control characters, those of width zero and those that turn the writing around, with and without lines."""
    value = form.format(character)
    assert said(lambda violations: violations.text("field", value, maximum=20, lines=lines)) == UNPRINTABLE


@pytest.mark.parametrize("value", ["a\nb", "a\tb", "\na", "a\n"])
def test_line_breaks_and_tabs_are_for_long_texts(value: str) -> None:
    """They pass where lines are asked for, and nowhere else."""
    assert said(lambda violations: violations.text("field", value, maximum=20, lines=True)) is None
    assert said(lambda violations: violations.text("field", value, maximum=20)) == UNPRINTABLE


@pytest.mark.parametrize("character", ["x", "é", "日", "🤖"])
def test_the_length_of_a_text_is_counted_in_characters(character: str) -> None:
    """Not in bytes: at the bound it passes, one beyond it is refused."""
    assert said(lambda violations: violations.text("field", character * 200, maximum=200)) is None
    told = "has 201 characters; at most 200 are allowed"
    assert said(lambda violations: violations.text("field", character * 201, maximum=200)) == told


@pytest.mark.parametrize("value", ["", " ", "   ", "\n", "\t \n", "\u00a0", "\u3000", "\u2028"])
def test_a_blank_text_is_no_text(value: str) -> None:
    """It is refused where one is required; where none is, it must be quite empty."""
    assert said(lambda violations: violations.text("field", value, maximum=20)) == REQUIRED
    told = said(lambda violations: violations.text("field", value, maximum=20, required=False))
    assert told == (BLANK if value else None)


def test_the_number_of_elements_is_bounded() -> None:
    """At the bound it passes, one beyond it is refused."""
    assert said(lambda violations: violations.count("field", [""] * 3, maximum=3)) is None
    told = "has 4 elements; at most 3 are allowed"
    assert said(lambda violations: violations.count("field", [""] * 4, maximum=3)) == told


@pytest.mark.parametrize(("asked", "answered"), [(0, 100), (1, 1), (100, 100), (1000, 1000)])
def test_a_page_has_1_to_1000_elements_and_100_unless_told(asked: int, answered: int) -> None:
    """Zero asks for the default."""
    violations = Violations()
    assert violations.page_size(asked) == answered
    violations.refuse()


@pytest.mark.parametrize("asked", [-1, 1001, 2**31 - 1, -(2**31)])
def test_other_sizes_of_pages_are_refused(asked: int) -> None:
    """They are named, not cut to fit."""
    violations = Violations()
    violations.page_size(asked)
    with pytest.raises(InvalidRequestError, match=rf"^page_size is {asked}; 1 to 1000 are allowed"):
        violations.refuse()


def test_every_field_at_fault_is_told_in_order() -> None:
    """The error holds them all."""
    violations = Violations()
    violations.identifier("one", "")
    violations.identifier("good", "good")
    violations.text("two", "", maximum=5)
    violations.add("three", "is odd")
    with pytest.raises(InvalidRequestError) as caught:
        violations.refuse()
    found = [(each.field, each.description) for each in caught.value.violations]
    assert found == [("one", REQUIRED), ("two", REQUIRED), ("three", "is odd")]


@pytest.mark.parametrize(
    ("number", "sentence"),
    [
        (1, "f0 is bad"),
        (3, "f0 is bad; f1 is bad; f2 is bad"),
        (4, "f0 is bad; f1 is bad; f2 is bad; and 1 more"),
        (100, "f0 is bad; f1 is bad; f2 is bad; and 97 more"),
    ],
)
def test_the_sentence_tells_the_first_three(number: int, sentence: str) -> None:
    """And how many more there are."""
    violations = Violations()
    for at in range(number):
        violations.add(f"f{at}", "is bad")
    with pytest.raises(InvalidRequestError) as caught:
        violations.refuse()
    assert str(caught.value) == sentence
    assert len(caught.value.violations) == number
