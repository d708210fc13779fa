"""The characters that a text of people may contain. The rules are the same with every version of Python.

A text is rejected if it has no visible character, or if it contains a character that can do harm where the text is
shown or stored:

- control characters, which control terminals;
- characters that change the direction of the writing, which can also affect what is shown beside the text;
- halves of surrogate pairs, which UTF-8 cannot encode.

All other characters are accepted unchanged, including those that this Python's Unicode tables do not know yet: new
emoji, private use, joiners, marks of every script.

The lists are from Unicode 17 (DerivedCoreProperties.txt, PropList.txt). Unicode reserves the ranges of
Default_Ignorable_Code_Point permanently, so they are valid for later versions too.
"""

import re
import unicodedata

_CONTROLS = "\x00-\x1f\x7f-\x9f"
_SURROGATES = "\ud800-\udfff"
# Embeddings, overrides and isolates (UAX #9). The marks of direction (U+200E, U+200F, U+061C) are harmless, and needed.
_DIRECTION = "\u202a-\u202e\u2066-\u2069"
_LINE_ENDS = "\u2028\u2029"
_WHITE_SPACE = "\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000"
DEFAULT_IGNORABLE = (
    "\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f"
    "\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
)
# Fonts have empty glyphs for these: the blank of braille, marks of annotations, fillers, controls of hieroglyphs.
_BLANK = "\u2800\ufff9-\ufffb\U00013430-\U0001343f\U00016fe4\U0001d159"

_REJECTED = re.compile(f"[{_CONTROLS}{_SURROGATES}{_DIRECTION}{_LINE_ENDS}]")
_REJECTED_IN_LINES = re.compile(f"(?![\n\t])[{_CONTROLS}{_SURROGATES}{_DIRECTION}]")
_VISIBLE = re.compile(f"[^{_CONTROLS}{_WHITE_SPACE}{DEFAULT_IGNORABLE}{_BLANK}]")
# White space, and the two characters of zero width whose names say "space".
_SPACE = re.compile(f"[{_WHITE_SPACE}\u200b\ufeff]")
# Spaces of zero width are shown as numbers too: an id that ends in one looks like the id without it.
_SHOWN_AS_NUMBER = re.compile(f"[{_CONTROLS}{_SURROGATES}{_DIRECTION}{_LINE_ENDS}\u200b\u2060\ufeff]")

_NAMES = {0x00: "NULL", 0x09: "TAB", 0x0A: "LINE FEED", 0x0D: "CARRIAGE RETURN", 0x1B: "ESCAPE", 0x7F: "DELETE"}
_NAMES |= {0x85: "NEXT LINE"}


def find_rejected(text: str, *, lines: bool) -> int | None:
    """Return the index of the first character that is not allowed, or None; `lines` allows line feeds and tabs."""
    match = (_REJECTED_IN_LINES if lines else _REJECTED).search(text)
    return match and match.start()


def is_visible(text: str) -> bool:
    """Return whether a text has a visible character."""
    return _VISIBLE.search(text) is not None


def find_outer_space(text: str) -> int | None:
    """Return the index of a space of any kind at the beginning or the end of a text, or None."""
    if text and _SPACE.match(text):
        return 0
    return len(text) - 1 if text and _SPACE.match(text, len(text) - 1) else None


def with_line_feeds(text: str) -> str:
    """Return a text in which the line breaks of Windows and of old Macs are line feeds."""
    return text.replace("\r\n", "\n").replace("\r", "\n") if "\r" in text else text


def named(character: str) -> str:
    """Return the number of a character, and its name if it has one, e.g. `U+202E RIGHT-TO-LEFT OVERRIDE`."""
    number = ord(character)
    return f"U+{number:04X} {_NAMES.get(number) or unicodedata.name(character, '')}".rstrip()


def shown(text: str) -> str:
    """Return a text for a message, with characters that are harmful or invisible as numbers, e.g. `<U+202E>`."""
    if text and not is_visible(text):
        return "".join(f"<U+{ord(character):04X}>" for character in text)
    return _SHOWN_AS_NUMBER.sub(lambda match: f"<U+{ord(match[0]):04X}>", text)
