"""What was found: printed as it comes, then written as JSON, into the document, and as a plot."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Literal

from tests.bench.load import ROOT, percentile
from tests.bench.machine import machine
from tests.bench.plot import Bar, Curve, plot
from tests.bench.rounds import medians, ratios

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.bench.load import Sample
    from tests.bench.rounds import Spread

RESULTS = ROOT / "build" / "bench.json"
DOCUMENT = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "performance.svg"

PERCENTS = (50, 90, 99, 99.9)

Unit = Literal["ratio", "per second", "ms", "bytes"]

_FIGURES = re.compile(r"(<!-- figures: .*? -->\n).*?(<!-- end of figures -->)", re.DOTALL)
_FORMATS: Mapping[Unit, str] = {"ratio": "{:.2f}", "per second": "{:,.0f}/s", "ms": "{:.1f} ms", "bytes": "{:,.0f} B"}
_LIMITS_HEAD = """\
| what | limit | measured | least to greatest | met |
|---|---|---|---|---|"""
_PAIRS_HEAD = """\
| case | bytes | CPU µs a call | of it Postgres | empty | ratio | p50 µs | empty | ratio | p99 µs | empty | ratio \
| calls/s | empty |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


@dataclass(frozen=True)
class Row:
    """A figure that has a limit.

    Attributes:
        name: What it is of.
        value: The figure; where it is a median, `spread` tells of what.
        unit: Its unit.
        bound: On which side of the limit it must be.
        limit: The limit, in the same unit.
        spread: The least and the greatest of the rounds.
        figures: What it was reckoned from, by name.
    """

    name: str
    value: float
    unit: Unit
    bound: Literal["at most", "at least"]
    limit: float
    spread: Spread | None = None
    figures: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Whether it is on the right side of its limit."""
        return self.value <= self.limit if self.bound == "at most" else self.value >= self.limit

    def line(self) -> str:
        """Answers its line in the table of limits."""
        told = _FORMATS[self.unit].format
        apart = f"{told(self.spread.least)} to {told(self.spread.greatest)}" if self.spread else ""
        met = "yes" if self.met else "**no**"
        return _line(self.name, f"{self.bound} {told(self.limit)}", f"**{told(self.value)}**", apart, met)

    def record(self) -> dict[str, object]:
        """Answers it for the file of results."""
        record: dict[str, object] = {
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "bound": self.bound,
            "limit": self.limit,
            "met": self.met,
        }
        if self.spread is not None:
            record |= {"least": self.spread.least, "greatest": self.spread.greatest}
        return record | {"figures": dict(self.figures)}


def ratio_row(
    name: str,
    spread: Spread,
    limit: float,
    figures: Mapping[str, float],
    bound: Literal["at most", "at least"] = "at most",
) -> Row:
    """Answers the row of a ratio, which is the median of those of each round."""
    return Row(name, spread.median, "ratio", bound, limit, spread, figures)


@dataclass
class Report:
    """All that was found.

    Attributes:
        rows: The figures that have limits.
        pairs: Lines of the table of calls beside the empty method.
        notes: What is to be said of how the figures came about that only the run knows.
        curves: Latencies, for the plot.
        bars: CPU time of calls, for the plot.
    """

    rows: list[Row] = field(default_factory=list)
    pairs: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)

    def add(self, row: Row) -> None:
        """Takes a row."""
        self.rows.append(row)
        _say(row.line())

    def note(self, sentence: str) -> None:
        """Takes a sentence on how the figures came about."""
        self.notes.append(sentence)
        _say(sentence)

    def add_pair(self, name: str, size: int, rounds: Sequence[tuple[Sample, ...]]) -> None:
        """Takes the rounds of a call, first, and the empty method: medians, and the ratios with their extremes."""
        cells = [name, f"{size:,}"]
        postgres = medians(rounds, attrgetter("database_cpu"))[0]
        for quantity in ("cpu", "p50", "p99"):
            ours, empty = medians(rounds, attrgetter(quantity))
            spread = ratios(rounds, attrgetter(quantity))
            cells.append(f"{ours:,.0f}")
            if quantity == "cpu":
                cells.append(f"{postgres:,.0f}")
            cells += [f"{empty:,.0f}", f"**{spread.median:.2f}** ({spread.least:.2f} to {spread.greatest:.2f})"]
        cells += [f"{rate:,.0f}" for rate in medians(rounds, attrgetter("rate"))]
        self.pairs.append(_line(*cells))
        _say(self.pairs[-1])

    def markdown(self, rounds: int) -> str:
        """Answers what goes into the document, of so many rounds."""
        limits = "\n".join([_LIMITS_HEAD, *(row.line() for row in self.rows)])
        pairs = "\n".join([_PAIRS_HEAD, *self.pairs])
        percents = [f"{percent:g} % µs" for percent in PERCENTS]
        curves = "\n".join(
            [_line("case", *percents), "|---" * (1 + len(percents)) + "|", *(_curve_line(each) for each in self.curves)]
        )
        picture = "![Latency by percentile, and CPU time by call](performance.svg)"
        head = f"{machine()} Of {rounds} rounds."
        return "\n\n".join((head, limits, pairs, picture, curves, *self.notes))

    def write_results(self) -> None:
        """Writes the rows as JSON."""
        RESULTS.parent.mkdir(exist_ok=True)
        records = [row.record() for row in self.rows]
        RESULTS.write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n", "utf-8")
        _say(f"written to {RESULTS.relative_to(ROOT)}")

    def write_document(self, rounds: int) -> None:
        """Writes the figures of so many rounds into the document, and the plot beside it."""
        text = DOCUMENT.read_text("utf-8")
        DOCUMENT.write_text(_FIGURES.sub(lambda match: f"{match[1]}{self.markdown(rounds)}\n{match[2]}", text), "utf-8")
        PLOT.write_text(plot(self.curves, self.bars, PERCENTS), "utf-8")
        _say(f"written to {DOCUMENT.relative_to(ROOT)} and {PLOT.relative_to(ROOT)}")


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _curve_line(curve: Curve) -> str:
    return _line(curve.name, *(f"{percentile(curve.latencies, percent):,.0f}" for percent in PERCENTS))


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the progress of a command for people
