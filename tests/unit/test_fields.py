"""The bounds of single fields, tested at the bound and one beyond."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.fields import Violations, quoted

if TYPE_CHECKING:
    from collections.abc import Callable

REQUIRED = "is required"


def message_of(check: Callable[[Violations], object]) -> str | None:
    """Return the error about the one field that a check tests, or None where it passes."""
    violations = Violations()
    check(violations)
    try:
        violations.raise_if_any()
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
    assert message_of(lambda violations: violations.identifier("field", value)) is None


@pytest.mark.parametrize("character", list(" \n\t\x00,;\\\"'%*<>()é日٣\u200b\u202e\u2028\uff21\u0301\u017f\u212a🤖"))
def test_other_characters_are_refused_in_identifiers(character: str) -> None:
    """Only visible ASCII is allowed. The error names the character and its position."""
    for value in (f"{character}ab", f"a{character}b", f"ab{character}"):
        message = message_of(lambda violations: violations.identifier("field", value))  # noqa: B023 - called at once
        place = f"character {value.index(character) + 1} is U+{ord(character):04X}"
        assert message is not None
        assert f": {place}" in message
        assert message.endswith("; letters, digits and ._:@/+|- are allowed, a letter or digit first")


@pytest.mark.parametrize("character", list("._:@/+|-"))
def test_an_identifier_begins_with_a_letter_or_digit(character: str) -> None:
    """So that no id looks like a flag, a path or a comment."""
    message = message_of(lambda violations: violations.identifier("field", f"{character}a"))
    assert message is not None
    assert message.startswith(f"is '{character}a': character 1 is U+00")
    assert message_of(lambda violations: violations.identifier("field", f"a{character}")) is None


def test_the_length_of_an_identifier_is_bounded() -> None:
    """Our ids have up to 64 characters, foreign ids up to 255. The error quotes the value."""
    message = f"has 65 characters; at most 64 are allowed: '{'a' * 65}'"
    assert message_of(lambda violations: violations.identifier("field", "a" * 65)) == message
    for character in "aé日🤖":
        assert message_of(lambda violations: violations.foreign_id("field", character * 255)) is None  # noqa: B023
        message = message_of(lambda violations: violations.foreign_id("field", character * 256)) or ""  # noqa: B023
        assert message.startswith(f"has 256 characters; at most 255 are allowed: '{character * 20}")
        assert len(message) < 150


def test_an_identifier_is_required_by_default() -> None:
    """An optional id may be empty, but not invalid."""
    assert message_of(lambda violations: violations.identifier("field", "")) == REQUIRED
    assert message_of(lambda violations: violations.foreign_id("field", "")) == REQUIRED
    assert message_of(lambda violations: violations.identifier("field", "", required=False)) is None
    assert message_of(lambda violations: violations.foreign_id("field", "", required=False)) is None
    assert message_of(lambda violations: violations.identifier("field", " ", required=False)) is not None
    assert message_of(lambda violations: violations.foreign_id("field", " ", required=False)) is not None


@pytest.mark.parametrize("space", list(" \xa0\u1680\u2003\u202f\u205f\u3000\u200b\ufeff"))
def test_a_foreign_id_has_no_space_at_its_ends(space: str) -> None:
    """Of any kind or width, since it would look like another id. Spaces inside are allowed."""
    assert message_of(lambda violations: violations.foreign_id("field", f"a{space}b")) is None
    number = f"U+{ord(space):04X}"
    message = message_of(lambda violations: violations.foreign_id("field", f"{space}ab")) or ""
    assert f": character 1 is {number} " in message
    message = message_of(lambda violations: violations.foreign_id("field", f"ab{space}")) or ""
    assert f": character 3 is {number} " in message


@pytest.mark.parametrize("value", [None, "", "ada", "u" * 255, "Alice Smith", "é", "caller:a"])
def test_an_actor_may_be_missing(value: str | None) -> None:
    """A call that acts for nobody has no actor."""
    violations = Violations()
    violations.actor(value)
    violations.raise_if_any()


@pytest.mark.parametrize("value", ["u" * 256, " a", "a\tb", "\u200d"])
def test_a_bad_actor_is_refused_by_its_field(value: str) -> None:
    """The field is `actor`."""
    violations = Violations()
    violations.actor(value)
    with pytest.raises(InvalidRequestError, match=r"^actor "):
        violations.raise_if_any()


@pytest.mark.parametrize(
    "value", ["x", "a\\b'", "Café", "Cafe\u0301", "日本語", "🤖", "❤\ufe0f", "🇩🇪", "Ελληνικά", "עברית", "हिन्दी"]
)
@pytest.mark.parametrize("lines", [False, True])
def test_names_in_any_script_pass(value: str, *, lines: bool) -> None:
    """Names are written as their owners write them."""
    assert message_of(lambda violations: violations.text("field", value, maximum=20, lines=lines)) is None


@pytest.mark.parametrize("value", ["a\nb", "a\tb", "\na", "a\n"])
def test_only_long_texts_may_have_line_breaks_and_tabs(value: str) -> None:
    """Every other text is one line."""
    assert message_of(lambda violations: violations.text("field", value, maximum=20, lines=True)) is None
    message = message_of(lambda violations: violations.text("field", value, maximum=20)) or ""
    assert message.endswith(", which is not allowed in a single line: leave it out")


@pytest.mark.parametrize("character", ["x", "é", "日", "🤖"])
def test_the_length_of_a_text_is_counted_in_characters(character: str) -> None:
    """Not in bytes. At the bound a text passes, one beyond it is refused."""
    assert message_of(lambda violations: violations.text("field", character * 200, maximum=200)) is None
    message = message_of(lambda violations: violations.text("field", character * 201, maximum=200)) or ""
    assert message.startswith(f"has 201 characters; at most 200 are allowed: '{character * 20}")


@pytest.mark.parametrize("value", [" ", "   ", "\n", "\t \n", "\u00a0", "\u3000", "\u2028", "\u200b\u200d", "\u3164"])
@pytest.mark.parametrize("required", [False, True])
def test_a_text_without_visible_characters_is_refused(value: str, *, required: bool) -> None:
    """An optional text must be empty instead. The error gives the characters by number."""
    message = message_of(lambda violations: violations.text("field", value, maximum=20, required=required, lines=True))
    shown = "".join(f"<U+{ord(character):04X}>" for character in value)
    assert message == f"is '{shown}', which has no visible character: write a text"
    empty = message_of(lambda violations: violations.text("field", "", maximum=20, required=required))
    assert empty == (REQUIRED if required else None)


@pytest.mark.parametrize(
    ("value", "at", "quote"),
    [
        ("alice", 0, "'alice'"),
        ("o'neill", 0, '"o\'neill"'),
        ("BANK\\alice", 0, "'BANK\\alice'"),
        ("\U0001fae9 new", 0, "'\U0001fae9 new'"),
        ("a\nb\x1b[31m\u202e", 0, "'a<U+000A>b<U+001B>[31m<U+202E>'"),
        ("a\ud800", 0, "'a<U+D800>'"),
        ("\u2066", 0, "'<U+2066>'"),
        ("x" * 100, 0, f"'{'x' * 80}…'"),
        ("x" * 100 + "\x07" + "y" * 100, 100, f"'…{'x' * 10}<U+0007>{'y' * 62}…'"),
        ("a WSK_" + "0" * 71, 0, "'…'"),
        ("WSK_" + "0" * 40, 0, "'…'"),
        ("WSK_" + "0" * 12 + "…", 0, f"'WSK_{'0' * 12}…'"),
    ],
)
def test_errors_quote_the_value_safely(value: str, at: int, quote: str) -> None:
    """Shortened around the bad character, harmful characters by number, and never what may be a secret."""
    assert quoted(value, at) == quote


def test_the_number_of_elements_is_bounded() -> None:
    """At the bound a list passes, one beyond it is refused."""
    assert message_of(lambda violations: violations.count("field", [""] * 3, maximum=3)) is None
    message = "has 4 elements; at most 3 are allowed"
    assert message_of(lambda violations: violations.count("field", [""] * 4, maximum=3)) == message


@pytest.mark.parametrize(
    ("asked", "size"), [(0, 100), (1, 1), (100, 100), (1000, 1000), (1001, 1000), (2**31 - 1, 1000)]
)
def test_a_page_has_1_to_1000_elements_and_100_by_default(asked: int, size: int) -> None:
    """A size of zero asks for the default, and one over the maximum for the maximum (AIP-158)."""
    violations = Violations()
    assert violations.page_size(asked) == size
    violations.raise_if_any()


@pytest.mark.parametrize("asked", [-1, -(2**31)])
def test_a_negative_size_of_a_page_is_refused(asked: int) -> None:
    """It is a mistake of the caller."""
    violations = Violations()
    violations.page_size(asked)
    with pytest.raises(InvalidRequestError, match=rf"^page_size is {asked}; a size is 0 for 100, or 1 or more"):
        violations.raise_if_any()


def test_an_error_holds_every_field_at_fault_in_order() -> None:
    """None is left out."""
    violations = Violations()
    violations.identifier("one", "")
    violations.identifier("good", "good")
    violations.text("two", "", maximum=5)
    violations.add("three", "is odd")
    with pytest.raises(InvalidRequestError) as caught:
        violations.raise_if_any()
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
def test_the_message_names_the_first_three_faults(number: int, sentence: str) -> None:
    """And how many more there are."""
    violations = Violations()
    for at in range(number):
        violations.add(f"f{at}", "is bad")
    with pytest.raises(InvalidRequestError) as caught:
        violations.raise_if_any()
    assert str(caught.value) == sentence
    assert len(caught.value.violations) == number
