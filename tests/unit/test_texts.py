"""Which characters texts may hold, decided by our own lists and not by Python's tables, for every character."""

from __future__ import annotations

import subprocess
import unicodedata

import pytest

from skilder_keys.domain.texts import find_outer_space, find_rejected, is_visible, named, shown, with_line_feeds

CONTROLS = {*range(0x20), *range(0x7F, 0xA0)}
SURROGATES = set(range(0xD800, 0xE000))
DIRECTION = {*range(0x202A, 0x202F), *range(0x2066, 0x206A)}
LINE_ENDS = {0x2028, 0x2029}
EVERY_CHARACTER = range(0x110000)


@pytest.mark.parametrize(
    ("lines", "refused"),
    [
        (False, CONTROLS | SURROGATES | DIRECTION | LINE_ENDS),
        (True, (CONTROLS - {0x0A, 0x09}) | SURROGATES | DIRECTION),
    ],
)
def test_these_characters_are_refused_and_no_other(lines: bool, refused: set[int]) -> None:  # noqa: FBT001
    """The position is found, wherever the character is in a text."""
    found = {code for code in EVERY_CHARACTER if find_rejected(f"ab{chr(code)}c", lines=lines) is not None}
    assert found == refused
    for code in refused:
        assert find_rejected(f"ab{chr(code)}c", lines=lines) == 2
        assert find_rejected(chr(code), lines=lines) == 0


@pytest.mark.parametrize(
    "text",
    [
        "\U0001fae9", "\uf8ff", "\U000f0000", "\U0001f3f4\U000e0067\U000e0062\U000e0073\U000e0063\U000e0074\U000e007f",
        "1\ufe0f\u20e3", "\U0001f469\u200d\U0001f4bb", "\u0645\u06cc\u200c\u062e\u0648", "क्\u200dष",
        "שָׁלוֹם\u200f!", "\u061c5", "\u200e-5",
        "Z\u0351\u036b\u0343a\u0363l\u0349g\u0348o", "ภาษาไทย", "\ufeffx", "a\u2060b", "\ufff9a\ufffab\ufffb",
        "\ufffc", "\ufffd", "\U0003ffff",
        "\uffff", "\U000e0100a", "Donau\xaddampf", "e\u0301", "\xe9", "a\u2028b",
        "\u0301", "\U000323b0",
    ],
)  # fmt: skip
def test_every_other_character_is_accepted_and_visible(text: str) -> None:
    """New emoji, private use, tags, joiners, marks, decomposed letters and unassigned characters."""
    assert find_rejected(text, lines=True) is None
    assert is_visible(text)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "\xa0", "\u3000 ", "\u200b\u200b", "\u200d", "\xad", "\ufe0f", "\u3164", "\uffa0",
        "\u115f\u1160", "\u2800", "\u034f", "\u180e", "\u200f", "\u2060", "\u2064", "\ufeff", "\ufff9\ufffb",
        "\U000e0020",
        "\U000e0fff", "\U0001d173", "\U0001bca0", "\u17b4", "\n\t", "\u2028", "\u061c", "\U0001d159",
        "\ufff0", "\U000e01ef", "\u1680",
    ],
)  # fmt: skip
def test_texts_without_visible_characters_are_recognized(text: str) -> None:
    """Spaces of every kind, fillers, joiners, selectors and marks alone; with a letter the text is visible."""
    assert not is_visible(text)
    assert is_visible(f"{text}x")


def test_most_characters_are_visible() -> None:
    """The lists hold nothing with a glyph by mistake: no letter, digit, punctuation or symbol."""
    blank = {0x115F, 0x1160, 0x3164, 0xFFA0, 0x2800, 0x1D159}
    unseen = {code for code in EVERY_CHARACTER if not is_visible(chr(code))}
    assert {code for code in unseen if unicodedata.category(chr(code))[0] in "LNPS"} == blank
    assert not unseen & set(range(0xE000, 0xF900))


def test_the_lists_are_those_of_unicode() -> None:
    """Perl knows the two properties; our lists hold white space and default ignorable code points."""
    script = r'no warnings; for (0..0x10FFFF) { print "$_\n" if chr($_) =~ /\p{White_Space}|\p{DI}/ }'
    try:
        done = subprocess.run(["perl", "-e", script], capture_output=True, text=True, check=True)  # noqa: S607
    except FileNotFoundError:
        pytest.skip("Perl is not installed: apt-get install perl")
    unseen = {code for code in EVERY_CHARACTER if not is_visible(chr(code))}
    ours = {0x2800, 0xFFF9, 0xFFFA, 0xFFFB, 0x16FE4, 0x1D159, *range(0x13430, 0x13440)}
    assert unseen - CONTROLS - ours == {int(line) for line in done.stdout.split()} - CONTROLS


def test_outer_spaces_are_found() -> None:
    """At the first or last character, and not inside."""
    assert [find_outer_space(text) for text in ("", "a", "a b", "\u3000a", "a\xa0", "a\u200b", " ", "❤\ufe0f")] == [
        None, None, None, 0, 1, 1, 0, None,
    ]  # fmt: skip


def test_line_breaks_become_line_feeds() -> None:
    """Those of Windows and of old Macs; other text stays the same."""
    assert with_line_feeds("a\r\nb\rc\n\r\nd\r\r\n") == "a\nb\nc\n\nd\n\n"
    assert with_line_feeds("a\nb\u2028") == "a\nb\u2028"


@pytest.mark.parametrize(
    ("character", "name"),
    [
        ("\u202e", "U+202E RIGHT-TO-LEFT OVERRIDE"),
        ("\x00", "U+0000 NULL"),
        ("\t", "U+0009 TAB"),
        ("\x85", "U+0085 NEXT LINE"),
        ("\x9b", "U+009B"),
        ("\ud800", "U+D800"),
        ("\u2028", "U+2028 LINE SEPARATOR"),
        ("\U000e0020", "U+E0020 TAG SPACE"),
    ],
)
def test_characters_are_named(character: str, name: str) -> None:
    """By number, and by name where they have one."""
    assert named(character) == name


def test_invisible_characters_are_shown_by_number() -> None:
    """Visible characters are shown as they are."""
    assert shown("👩\u200d💻 a\u200bb\x07") == "👩\u200d💻 a<U+200B>b<U+0007>"
    assert shown("\u3164\u200d") == "<U+3164><U+200D>"
    assert shown("") == ""
