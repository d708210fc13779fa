"""The view as lines: the heading, the problems of the sources, the tables, and what the keys do."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from rich.cells import cell_len

from skilder_keys.cli.plots import can_draw, sparkline
from skilder_keys.cli.text import Style, padded, styled, visible
from skilder_keys.cli.top.layout import Line, Piece, arranged, paragraph
from skilder_keys.cli.top.sections import Row, Section, headline, sections

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TextIO

    from skilder_keys.cli.top.reading import Reading
    from skilder_keys.cli.top.sections import Sources

Value = TypeVar("Value")

_MOST_PROBLEM_LINES = 3
_NO_PAGE = "; start the server with --metrics-listen, or name its page with --metrics"
_LEAST_FOR_HISTORY = 20


@dataclass(frozen=True, slots=True)
class View:
    """What does not change while the view runs.

    Attributes:
        server: The address of the service.
        metrics: The URL of the metrics page.
        stream: Where the view is written.
    """

    server: str
    metrics: str
    stream: TextIO

    def screen(self, sources: Sources, width: int, height: int, footer: str) -> list[Line]:
        """Return the view as at most `height` lines of at most `width` cells, with the footer in the last one."""
        head = self._head(sources, width)
        body = arranged(self._sections(sources), width, max(height - len(head) - 3, 0), self._more)
        lines = [*head, [], *body][: height - 1]
        lines += [[] for _ in range(height - 1 - len(lines))]
        return [*lines, paragraph([footer, self.freshness(sources)], width)[0]]

    def page(self, sources: Sources, width: int) -> list[Line]:
        """Return the whole view as lines of at most `width` cells."""
        lines = [*self._head(sources, width), [], *arranged(self._sections(sources), width, None, self._more)]
        return [*lines, [], *paragraph([self.freshness(sources)], width)]

    def table(self, sources: Sources) -> list[str]:
        """Return the whole view for a pipe: lines with tabs between their values, and a blank line between tables."""
        lines = ["\t".join(headline(sources)), *self._problems(sources)]
        for section in self._sections(sources):
            lines += ["", "\t".join(each.name for each in section.columns)]
            lines += ["\t".join(row.cells) for row in section.rows]
        return [*lines, "", self.freshness(sources)]

    def freshness(self, sources: Sources) -> str:
        """Return of which times the numbers are."""
        rates, busiest = sources.metrics.value, sources.busiest.value
        parts = []
        if rates is not None and rates.seconds:
            parts.append(f"rates of {rates.seconds:.1f} s")
        if busiest is not None:
            parts.append(f"keys and tools counted until {busiest.counted_until:%H:%M:%SZ}")
        return ", ".join(parts)

    @property
    def _more(self) -> str:
        return "…" if can_draw(self.stream) else "~"

    def _head(self, sources: Sources, width: int) -> list[Line]:
        title = ["skilder-keys top", visible(self.server, self.stream), f"{datetime.now(UTC):%H:%M:%SZ}"]
        head = [*paragraph(title, width, Style.BOLD)[:2], *paragraph(headline(sources), width)]
        rates = sources.metrics.value
        if rates is not None and width >= _LEAST_FOR_HISTORY and len(rates.history) > 1:
            room = width - cell_len("calls/s ")
            history = [round(each * 1000) for each in rates.history[-room:]]
            head.append([Piece(0, f"calls/s {sparkline(history, room, self.stream)}")])
        for problem in self._problems(sources):
            head += paragraph([problem], width, Style.RED)[:_MOST_PROBLEM_LINES]
        return head

    def _problems(self, sources: Sources) -> list[str]:
        """Return what is wrong with the sources, in words."""
        return [
            *_problem(f"metrics of {self.metrics}", sources.metrics, _NO_PAGE, self.stream),
            *_problem("keys and tools", sources.busiest, "", self.stream),
        ]

    def _sections(self, sources: Sources) -> list[Section]:
        return [
            replace(
                section,
                rows=[Row(tuple(visible(cell, self.stream) for cell in row.cells), row.is_bad) for row in section.rows],
            )
            for section in sections(sources)
        ]


def _problem(name: str, reading: Reading[Value], hint: str, stream: TextIO) -> list[str]:
    """Return what is wrong with a source, if something is, with a hint where it was never read."""
    if not reading.problem:
        return []
    problem = " ".join(reading.problem.split())
    if reading.value is None:
        return [visible(f"{name}: {problem}{hint}", stream)]
    return [visible(f"{name}, {time.monotonic() - reading.at:.0f} s old: {problem}", stream)]


def as_text(line: Sequence[Piece], stream: TextIO, *, exact: bool = False) -> str:
    """Return a line as text, with its styles.

    With `exact`, move the cursor to where each piece begins: terminals disagree on the width of some characters.
    """
    text, at = "", 0
    for piece in line:
        text += padded("", max(piece.at - at, 0))
        if exact and piece.at:
            text += f"\x1b[{piece.at + 1}G"
        text += piece.text if piece.style is None else styled(piece.text, piece.style, stream)
        at = max(at, piece.at) + cell_len(piece.text)
    return text if exact else text.rstrip()
