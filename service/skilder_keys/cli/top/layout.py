"""Arrange the tables of the view on a screen of any size. No line is ever wider or the screen higher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size

from skilder_keys.cli.text import Style, broken

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skilder_keys.cli.top.sections import Section

_GAP = 2
_NARROWEST = 36
"""The cells that a table needs, at least, to stand beside another."""
_MOST_BESIDE = 3
_SHORTEST_NAME = 14


@dataclass(frozen=True, slots=True)
class Piece:
    """A text on a line.

    Attributes:
        at: The cells before it.
        text: The text.
        style: Its style; None for none.
    """

    at: int
    text: str
    style: Style | None = None


Line = list[Piece]


def paragraph(texts: Sequence[str], width: int, style: Style | None = None) -> list[Line]:
    """Return texts side by side, each whole if it fits, on as many lines as they need."""
    lines = [""]
    for text in texts:
        for piece in broken(text, width, cut=True):
            longer = f"{lines[-1]}{' ' * _GAP}{piece}" if lines[-1] else piece
            if cell_len(longer) <= width:
                lines[-1] = longer
            else:
                lines.append(piece)
    return [[Piece(0, line, style)] for line in lines]


def arranged(tables: Sequence[Section], width: int, height: int | None, more: str) -> list[Line]:
    """Return tables as lines: as many side by side as the width has room for.

    Args:
        tables: The tables, in order. Their texts are safe to print.
        width: The most cells of a line.
        height: The most lines; None for as many as the tables need.
        more: Ends a text that is cut.
    """
    beside = max(1, min(_MOST_BESIDE, (width + _GAP) // (_NARROWEST + _GAP)))
    bands = [tables[at : at + beside] for at in range(0, len(tables), beside)]
    room = _shares([max(len(each.rows) or 1 for each in band) for band in bands], height)
    each_width = (width + _GAP) // beside - _GAP
    lines: list[Line] = []
    for band, rows in zip(bands, room, strict=True):
        if not rows:
            continue
        columns = [_table(table, each_width, rows, more) for table in band]
        if lines:
            lines.append([])
        for number in range(max(map(len, columns))):
            line: Line = []
            for index, column in enumerate(columns):
                if number < len(column):
                    piece = column[number]
                    line.append(Piece(index * (each_width + _GAP), piece.text, piece.style))
            lines.append(line)
    return lines if height is None else lines[:height]


def _shares(wanted: Sequence[int], height: int | None) -> list[int]:
    """Return how many rows each band gets, besides its heading and a blank line: all, or as evenly as possible."""
    if height is None:
        return list(wanted)
    shares = [0] * len(wanted)
    left = height + 1  # no blank line before the first band
    for index in range(len(wanted)):
        if left >= 3:  # noqa: PLR2004 - a blank line, the heading and a row
            shares[index] = 1
            left -= 3
    while left and any(has < wants for has, wants in zip(shares, wanted, strict=True) if has):
        for index, wants in enumerate(wanted):
            if left and 0 < shares[index] < wants:
                shares[index] += 1
                left -= 1
    return shares


def _table(table: Section, width: int, rows: int, more: str) -> list[Piece]:
    """Return a table as lines: the heading and at most so many rows."""
    shown = table.rows[:rows]
    names = [each.name for each in table.columns]
    numbers = list(range(len(names) - 1))
    sizes = [max(cell_len(cells[index]) for cells in (names, *(row.cells for row in shown))) for index in numbers]

    def room() -> int:
        return width - sum(sizes[index] + _GAP for index in numbers)

    while room() < min(_SHORTEST_NAME, width) and numbers:
        dropped = max(reversed(numbers), key=lambda index: table.columns[index].drop)
        numbers.remove(dropped)

    def line(cells: Sequence[str], end: str = "") -> str:
        left = "".join(f"{cells[index]:>{sizes[index]}}{' ' * _GAP}" for index in numbers)
        return left + _cut(cells[-1], max(room() - len(end), 0), more) + end[: room()]

    left_out = len(table.rows) - len(shown)
    lines = [Piece(0, line(names, f" +{left_out}" if left_out else ""), Style.BOLD)]
    lines += [Piece(0, line(row.cells), Style.RED if row.is_bad else None) for row in shown]
    if not shown:
        lines.append(Piece(0, _cut(table.note, width, more)))
    return lines


def _cut(text: str, width: int, more: str) -> str:
    if cell_len(text) <= width:
        return text
    return set_cell_size(text, max(width - cell_len(more), 0)).rstrip() + more if width else ""
