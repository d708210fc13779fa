"""Write tables and named values: aligned for people on a terminal, otherwise separated by tabs for programs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len

from skilder_keys.cli.exits import say
from skilder_keys.cli.text import Style, broken, padded, styled, terminal_width, visible

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

_GAP = 2
_NARROWEST = 14


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: The heading.
        whole: Whether values are never broken into lines, because people copy them: ids and hints.
        drop: The order in which columns are left out if the terminal is too narrow: highest first; 0: never.
    """

    name: str
    whole: bool = False
    drop: int = 0


class Table:
    """Writes rows to standard output, page by page.

    If standard output is not a terminal, each row is one line with tabs between its values, and nothing is left out.
    """

    def __init__(self, columns: Sequence[Column | str]) -> None:
        self._columns = [each if isinstance(each, Column) else Column(each) for each in columns]
        self._width = terminal_width(sys.stdout)
        # The shown columns and their widths. Empty if the terminal is so narrow that each value gets its own line.
        self._layout: list[tuple[int, int]] | None = None
        self._begun = False

    def page(self, rows: Iterable[Sequence[str]]) -> None:
        """Write some rows. Before the first ones, write the heading."""
        shown = [[visible(value, sys.stdout) for value in row] for row in rows]
        if not self._begun:
            self._begin(shown)
        for row in shown:
            self._row(row)
        sys.stdout.flush()

    def end(self) -> None:
        """Write the heading if there were no rows, and report which columns were left out."""
        if not self._begun:
            self._begin([])
        if self._layout:
            kept = {index for index, _ in self._layout}
            left_out = [each.name for index, each in enumerate(self._columns) if index not in kept]
            if left_out:
                say(f"Left out, as the terminal is too narrow: {', '.join(left_out)}. Widen it, or use --json.")

    def _begin(self, rows: Sequence[Sequence[str]]) -> None:
        self._begun = True
        names = [each.name for each in self._columns]
        if self._width is None:
            sys.stdout.write("\t".join(styled(name, Style.BOLD, sys.stdout) for name in names) + "\n")
            return
        self._layout = self._fitted(names, rows, self._width)
        if self._layout:
            line = (" " * _GAP).join(padded(names[index], width) for index, width in self._layout).rstrip()
            sys.stdout.write(styled(line, Style.BOLD, sys.stdout) + "\n")

    def _row(self, row: Sequence[str]) -> None:
        if self._width is None:
            sys.stdout.write("\t".join(row) + "\n")
        elif self._layout:
            cells = [
                [row[index]] if self._columns[index].whole else broken(row[index], width, cut=True)
                for index, width in self._layout
            ]
            for number in range(max(map(len, cells))):
                line = (cell[number] if number < len(cell) else "" for cell in cells)
                places = zip(line, self._layout, strict=True)
                sys.stdout.write((" " * _GAP).join(padded(text, width) for text, (_, width) in places).rstrip() + "\n")
        else:
            named = [(each.name, value) for each, value in zip(self._columns, row, strict=True)]
            sys.stdout.write("".join(f"{line}\n" for line in field_lines(named, self._width or 0, sys.stdout)) + "\n")

    def _fitted(self, names: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[tuple[int, int]]:
        """Return the columns that fit, and their widths, or an empty list if not even the important ones fit."""
        natural = [max(cell_len(row[index]) for row in (names, *rows)) for index in range(len(names))]
        shown = list(range(len(names)))
        while True:
            least = {
                index: natural[index]
                if self._columns[index].whole
                else min(natural[index], max(cell_len(names[index]), _NARROWEST))
                for index in shown
            }
            spare = width - sum(least.values()) - _GAP * (len(shown) - 1)
            if spare >= 0:
                break
            dropped = max(shown, key=lambda index: self._columns[index].drop)
            if not self._columns[dropped].drop:
                return []
            shown.remove(dropped)
        # Widen the columns that need least first, so that one long text does not break all the others.
        waiting = sorted(shown, key=lambda index: natural[index] - least[index])
        for number, index in enumerate(waiting):
            more = min(natural[index] - least[index], spare // (len(waiting) - number))
            least[index] += more
            spare -= more
        return [(index, least[index]) for index in shown]


def write_fields(fields: Iterable[tuple[str, str]], stream: TextIO) -> None:
    """Write named values, without the empty ones: aligned on a terminal, otherwise with a tab after each name."""
    shown = [(name, visible(value, stream)) for name, value in fields if value]
    width = terminal_width(stream)
    if width is None:
        lines = [f"{styled(name, Style.BOLD, stream)}\t{value}" for name, value in shown]
    else:
        lines = field_lines(shown, width, stream)
    stream.write("".join(f"{line}\n" for line in lines))
    stream.flush()


def field_lines(fields: Sequence[tuple[str, str]], width: int, stream: TextIO) -> list[str]:
    """Return named values as lines of a width. Break lines only at spaces, so that every id stays whole."""
    margin = max((cell_len(name) for name, _ in fields), default=0) + _GAP
    lines = []
    for name, value in fields:
        room = max(width - margin, 1)
        if max(map(cell_len, value.split(" "))) > room:
            # A word in it does not fit beside the names, so the value gets lines of the whole width.
            lines += [styled(name, Style.BOLD, stream), *broken(value, width, cut=False)]
            continue
        first, *more = broken(value, room, cut=False)
        lines.append(padded(name, margin).replace(name, styled(name, Style.BOLD, stream), 1) + first)
        lines += [" " * margin + line for line in more]
    return lines
