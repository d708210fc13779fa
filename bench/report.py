"""The results: printed as they come, then written as JSON, into the pages, and as pictures."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from operator import attrgetter
from statistics import median
from typing import TYPE_CHECKING, Literal

from bench.changes_table import ChangesTable
from bench.load import ROOT, percentile
from bench.machine import machine
from bench.plot import Bar, Curve, plot
from bench.rounds import medians, ratios
from bench.sides import EMPTY_ASGI, EMPTY_GRPCIO, ENVOY, GRPCIO, NAIVE, NOTHING
from bench.stack import picture
from bench.timeline_plot import picture as around_change
from tests.docs.pages import replace_part

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.load import Sample
    from bench.rounds import Spread
    from bench.stack import Stack

RESULTS = ROOT / "build" / "bench.json"
PAGE = ROOT / "docs" / "performance.md"
"""The page with what most readers want: the limits, and the cost of calls with each transport."""
DETAILS = ROOT / "docs" / "design" / "performance-results.md"
"""The page with all other tables."""
MARKS = "results"
"""The name of the part of these pages that is written here, as in `tests.docs.pages`."""
CHANGES_MARKS = "changes"
"""The name of the part of the first page with the table of changes."""
CHANGE_PICTURE = ROOT / "docs" / "performance-change.svg"
PLOT = ROOT / "docs" / "performance.svg"
PARTS_PICTURE = ROOT / "docs" / "performance-parts.svg"

PERCENTS = (50, 90, 99, 99.9)

Unit = Literal["ratio", "per second", "ms", "bytes"]

_FORMATS: Mapping[Unit, str] = {"ratio": "{:.2f}", "per second": "{:,.0f}/s", "ms": "{:.1f} ms", "bytes": "{:,.0f} B"}
_LIMITS_HEAD = f"""\
| what | limit | measured | least to greatest | met | {NAIVE} |
|---|---|---|---|---|---|"""
_PAIRS_HEAD = """\
| grpcio, loaded by ghz | bytes | CPU µs a call | Postgres's part | empty | ratio | p50 µs | empty | ratio \
| p99 µs | empty | ratio | calls/s | empty |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|"""


TRANSPORTS = (GRPCIO, ENVOY, EMPTY_GRPCIO, EMPTY_ASGI, NAIVE)


_COSTS, _LATENCIES, _SENT_LATENCIES = ("cpu", "rate"), ("p50", "p99"), ("sent_p50", "sent_p99")


@dataclass(frozen=True)
class Row:
    """A result that has a limit.

    Attributes:
        name: What was measured.
        value: The value; where it is a median, `spread` has the extremes.
        unit: The unit of the value.
        bound: On which side of the limit the value must be.
        limit: The limit in the same unit.
        spread: The least and the greatest value of the rounds.
        results: The measurements that it was computed from, by name.
    """

    name: str
    value: float
    unit: Unit
    bound: Literal["at most", "at least"]
    limit: float
    spread: Spread | None = None
    results: Mapping[str, float] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        """Return whether the value is on the right side of its limit."""
        return self.value <= self.limit if self.bound == "at most" else self.value >= self.limit

    def line(self, naive: str = NOTHING) -> str:
        """Return the row of the table of limits, with the value of the naive application."""
        formatted = _FORMATS[self.unit].format
        spread = f"{formatted(self.spread.least)} to {formatted(self.spread.greatest)}" if self.spread else ""
        met = "yes" if self.met else "**no**"
        limit = f"{self.bound} {formatted(self.limit)}"
        return _line(self.name, limit, f"**{formatted(self.value)}**", spread, met, naive)

    def record(self) -> dict[str, object]:
        """Return the record for the file of results."""
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
        return record | {"results": dict(self.results)}


def ratio_row(
    name: str,
    spread: Spread,
    limit: float,
    results: Mapping[str, float],
    bound: Literal["at most", "at least"] = "at most",
) -> Row:
    """Return the row of a ratio: the median of the ratios of each round."""
    return Row(name, spread.median, "ratio", bound, limit, spread, results)


@dataclass
class Report:
    """All results.

    Attributes:
        rows: The results that have limits.
        naive: Values of the naive application, by the names of the rows.
        pairs: Rows of the table of calls through grpcio beside the empty method, loaded by ghz.
        costs: Rows of the table of CPU time and rates, with a column for each transport.
        latencies: Rows of the table of latencies, with a column for each transport.
        records: More records for the file of results.
        stacks: The parts of the CPU time of calls, for the second picture.
        parts: The names of those parts, in order.
        notes: Sentences about the measurement that only the run knows.
        curves: Latencies, for the plot.
        bars: CPU time of calls, for the plot.
        changes: What changes and restarts cost.
        timeline: Latency around a change, for the third picture: seconds, p50 and p99 in ms.
    """

    rows: list[Row] = field(default_factory=list)
    naive: dict[str, str] = field(default_factory=dict)
    pairs: list[str] = field(default_factory=list)
    costs: list[str] = field(default_factory=list)
    latencies: list[str] = field(default_factory=list)
    records: list[Mapping[str, object]] = field(default_factory=list)
    stacks: Sequence[Stack] = ()
    parts: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    bars: list[Bar] = field(default_factory=list)
    changes: ChangesTable = field(default_factory=lambda: ChangesTable(_say))
    timeline: Sequence[tuple[float, float, float]] = ()

    def add(self, row: Row) -> None:
        """Add and print a row."""
        self.rows.append(row)
        _say(row.line())

    def compare(self, name: str, unit: Unit, value: float) -> None:
        """Add what the naive application has in the row of this name, whichever of both comes first."""
        self.naive[name] = _FORMATS[unit].format(value)
        self.records.append({"name": f"{name}: {NAIVE}", "value": value, "unit": unit})
        _say(f"{NAIVE}: {name}: {self.naive[name]}")

    def note(self, sentence: str) -> None:
        """Add a sentence about the measurement."""
        self.notes.append(sentence)
        _say(sentence)

    def add_pair(self, name: str, size: int, rounds: Sequence[tuple[Sample, ...]]) -> None:
        """Add the rounds of a call and of the empty method: medians, and the ratios with their extremes."""
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

    def add_transports(self, name: str, rounds: Sequence[Mapping[str, Sample]]) -> None:
        """Add the rounds of a case, with or without each transport: medians."""

        def row(suffix: str, quantities: Sequence[str]) -> str:
            found = [results[quantity].get(transport) for quantity in quantities for transport in TRANSPORTS]
            return _line(name + suffix, *(NOTHING if each is None else f"{each:,.0f}" for each in found))

        by_transport = {
            transport: [each[transport] for each in rounds if transport in each] for transport in TRANSPORTS
        }
        results = {
            quantity: {
                transport: median(getattr(each, quantity) for each in found)
                for transport, found in by_transport.items()
                if found
            }
            for quantity in (_COSTS if not rounds[0][ENVOY].latencies else _COSTS + _LATENCIES + _SENT_LATENCIES)
        }
        lines = [row("", _COSTS)]
        self.costs += lines
        if "p50" in results:
            lines = [row("", _LATENCIES)]
            if results["p50"] != results["sent_p50"]:
                lines.append(row(", since sending", _SENT_LATENCIES))
            self.latencies += lines
            lines.insert(0, self.costs[-1])
        _say("\n".join(lines))
        self.records.append({"name": f"{name}, by h2load", "results": results})

    def add_stacks(self, stacks: Sequence[Stack], parts: Sequence[str]) -> None:
        """Add the parts of the CPU time of calls."""
        self.stacks, self.parts = stacks, parts
        for stack in stacks:
            self.records.append(
                {"name": f"CPU time of one call: {stack.name}", "unit": "µs", "results": dict(stack.parts)}
            )
        _say(self._parts_table())

    def _parts_table(self) -> str:
        head = _line("CPU µs a call", *(stack.name for stack in self.stacks))
        lines = [head, "|---" * (1 + len(self.stacks)) + "|"]
        for part in self.parts:
            cells = [dict(stack.parts).get(part) for stack in self.stacks]
            lines.append(_line(part, *(NOTHING if cell is None else f"{cell:.1f}" for cell in cells)))
        return "\n".join([*lines, _line("in all", *(f"**{stack.whole:.1f}**" for stack in self.stacks))])

    def summary(self, rounds: int) -> str:
        """Return what goes into the page, of so many rounds."""
        limits = "\n".join([_LIMITS_HEAD, *(row.line(self.naive.get(row.name, NOTHING)) for row in self.rows)])
        costs = _transports_table(("CPU µs a call", "calls/s"), self.costs)
        return "\n\n".join((_head(rounds), limits, costs))

    def details(self, rounds: int) -> str:
        """Return what goes into the page of details, of so many rounds."""
        pairs = "\n".join([_PAIRS_HEAD, *self.pairs])
        latencies = _transports_table(("p50 µs", "p99 µs"), self.latencies)
        percents = [f"{percent:g} % µs" for percent in PERCENTS]
        curves = "\n".join(
            [_line("case", *percents), "|---" * (1 + len(percents)) + "|", *(_curve_line(each) for each in self.curves)]
        )
        plotted = "![Latency by percentile, and CPU time by call](../performance.svg)"
        return "\n\n".join((_head(rounds), latencies, self._parts_table(), pairs, plotted, curves, *self.notes))

    def write_results(self) -> None:
        """Write the rows as JSON."""
        RESULTS.parent.mkdir(exist_ok=True)
        records = [*(row.record() for row in self.rows), *self.changes.records(), *self.records]
        RESULTS.write_text(json.dumps(records, indent=2, ensure_ascii=False) + "\n", "utf-8")
        _say(f"written to {RESULTS.relative_to(ROOT)}")

    def write_changes(self) -> None:
        """Write the table of changes into the first page and draw its picture, if they were measured."""
        if self.changes.values:
            table = f"{machine()}\n\n{self.changes.text()}"
            PAGE.write_text(replace_part(PAGE.read_text("utf-8"), CHANGES_MARKS, table), "utf-8")
            CHANGE_PICTURE.write_text(around_change(self.timeline, self.changes.values["rate", ENVOY]), "utf-8")
            _say(f"written to {PAGE.relative_to(ROOT)} and {CHANGE_PICTURE.relative_to(ROOT)}")

    def write_picture(self) -> None:
        """Draw the parts of a call, if they were measured."""
        if self.stacks:
            PARTS_PICTURE.write_text(picture(self.stacks, self.parts), "utf-8")
            _say(f"written to {PARTS_PICTURE.relative_to(ROOT)}")

    def write_pages(self, rounds: int) -> None:
        """Write the results of so many rounds into both pages, and the plot beside them."""
        for page, text in ((PAGE, self.summary(rounds)), (DETAILS, self.details(rounds))):
            page.write_text(replace_part(page.read_text("utf-8"), MARKS, text), "utf-8")
            _say(f"written to {page.relative_to(ROOT)}")
        PLOT.write_text(plot(self.curves, self.bars, PERCENTS), "utf-8")
        _say(f"written to {PLOT.relative_to(ROOT)}")


def _head(rounds: int) -> str:
    return f"{machine()} Of {rounds} rounds."


def _transports_table(quantities: Sequence[str], lines: Sequence[str]) -> str:
    heads = [
        f"{quantity}: {transport}" if transport == TRANSPORTS[0] else transport
        for quantity in quantities
        for transport in TRANSPORTS
    ]
    return "\n".join([_line("loaded by h2load", *heads), "|---" * (1 + len(heads)) + "|", *lines])


def _line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _curve_line(curve: Curve) -> str:
    return _line(curve.name, *(f"{percentile(curve.latencies, percent):,.0f}" for percent in PERCENTS))


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201 - the progress of a command for people
