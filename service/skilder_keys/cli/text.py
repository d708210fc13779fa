"""Prepare texts for a terminal or a pipe: escape, measure, break into lines, and colour.

Most texts come from outside. A control character in one could hide a line, forge another or type on the terminal.
"""

from __future__ import annotations

import os
import re
from enum import StrEnum
from typing import TYPE_CHECKING

from rich.cells import cell_len, chop_cells

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import TextIO

# C0, DEL and C1; separators of lines and paragraphs; bidi embeddings, overrides and isolates; surrogates.
UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
UNREADABLE = re.compile("[\ud800-\udfff]")
_SHORT = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}


class Style(StrEnum):
    """ANSI codes (ECMA-48 SGR)."""

    BOLD = "1"
    RED = "31"
    DENIED = "1;31"
    GRANTED = "1;32"


def visible(text: str, stream: TextIO, *, lines: bool = False) -> str:
    """Escape the characters that could control a terminal or break a line, or that the stream cannot encode.

    With `lines`, keep line feeds.
    """
    text = UNSAFE.sub(lambda match: "\n" if lines and match[0] == "\n" else _escaped(match[0]), text)
    encoding = getattr(stream, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def _escaped(character: str) -> str:
    number = ord(character)
    return _SHORT.get(character) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")  # noqa: PLR2004 - as Python escapes


def has_colour(stream: TextIO) -> bool:
    """Return whether to use colours: never with NO_COLOR, always with FORCE_COLOR, otherwise on a terminal."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR", "").lower() not in ("", "0", "false"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def styled(text: str, style: Style, stream: TextIO) -> str:
    """Return a text with a style, or unchanged if the stream has no colours."""
    return f"\x1b[{style}m{text}\x1b[0m" if text and has_colour(stream) else text


def terminal_width(stream: TextIO) -> int | None:
    """Return the number of columns of the stream's terminal, or None if the stream is not a terminal."""
    if not stream.isatty():
        return None
    given = os.environ.get("COLUMNS", "")
    if given.isascii() and given.isdigit() and int(given) > 0:
        return int(given)
    try:
        # A terminal whose size was never set has zero columns.
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def padded(text: str, width: int) -> str:
    """Return a text with spaces up to a width in cells. A wide character has two cells, a combining mark none."""
    return text + " " * (width - cell_len(text))


def broken(text: str, width: int, *, cut: bool) -> list[str]:
    """Break a text at spaces into lines of at most `width` cells. With `cut`, also cut words that are longer."""
    lines = [""]
    for word in _pieces(text, width, cut=cut):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if cell_len(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _pieces(text: str, width: int, *, cut: bool) -> Iterator[str]:
    for word in text.split(" "):
        if cut and cell_len(word) > width:
            yield from chop_cells(word, width)
        else:
            yield word
