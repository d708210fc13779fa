"""The table of what a change and a restart cost, with a column for each transport and one for the naive application."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from bench.sides import ENVOY, GRPCIO, NAIVE, NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable

COLUMNS = (ENVOY, GRPCIO, NAIVE)

Key = Literal[
    "peak",
    "rate",
    "cpu",
    "p50",
    "p99",
    "a member added",
    "a tool switched off",
    "a hat moved",
    "longest",
    "statements",
    "every second",
    "refused",
    "team sets rate",
    "team sets",
    "team sets refused",
    "others before",
    "others after",
    "held",
    "update",
    "first use",
    "first sight",
    "seen elsewhere",
    "restart rate",
    "restart",
    "busy",
    "others",
    "cut off",
    "key memory",
    "snapshot memory",
]


@dataclass(frozen=True)
class Line:
    """A line of the table.

    Attributes:
        name: What was measured.
        form: The format of a value.
        limit: What the service promises, if anything.
        bound: On which side of the limit a value must be.
    """

    name: str
    form: str
    limit: float | None = None
    bound: Literal["at most", "at least"] = "at most"

    def goal(self) -> str:
        """Return the limit in words."""
        return "" if self.limit is None else f"{self.bound} {self.form.format(self.limit)}"

    def meets(self, value: float) -> bool:
        """Return whether a value is on the right side of the limit, or has none."""
        return self.limit is None or (value <= self.limit if self.bound == "at most" else value >= self.limit)


_AFTER = "p99 of the second after, to p99 before"
LINES: dict[Key, Line] = {
    "peak": Line(
        "**50,000 keys of one workspace in use, two workers:** calls a second, 64 at a time, not by the clock",
        "{:,.0f}",
    ),
    "rate": Line("calls a second by the clock, for the lines that follow", "{:,.0f}"),
    "cpu": Line("CPU of a call, with Postgres", "{:,.0f} µs"),
    "p50": Line("p50 before a change", "{:.2f} ms"),
    "p99": Line("p99 before a change", "{:.2f} ms"),
    "a member added": Line(f"a member added: {_AFTER}", "{:.2f}", 3),
    "a tool switched off": Line(f"a tool switched off: {_AFTER}", "{:.2f}", 3),
    "a hat moved": Line(f"a hat moved: {_AFTER}", "{:.2f}", 3),
    "longest": Line("the longest call in those seconds", "{:.0f} ms", 100),
    "statements": Line("statements of a process because of such a change", "{:.1f}", 5),
    "every second": Line("a change every second for a minute: p50, to p50 without", "{:.2f}", 1.5),
    "refused": Line("calls that were not granted, or changes that failed, in all that time", "{:,.0f}", 0),
    "team sets rate": Line(
        "**2,000 user keys of 300 team sets, a workspace of 20,000 tools, two workers:** calls a second", "{:,.0f}"
    ),
    "team sets": Line("p99 of the second after such changes, the largest", "{:.1f} ms", 250),
    "team sets refused": Line("calls that were not granted, or changes that failed, in all that time", "{:,.0f}", 0),
    "others before": Line("the longest call about another workspace before the changes", "{:.1f} ms"),
    "others after": Line("the same in those seconds", "{:.1f} ms"),
    "held": Line("the longest that such changes held the event loop of a process, CPU time", "{:.1f} ms", 20),
    "update": Line("UpdateWorkspace of one member, no other calls, p50", "{:.1f} ms", 20),
    "first use": Line(
        "**First calls:** first uses ever, a second and core, with Postgres", "{:,.0f}", 1000, "at least"
    ),
    "first sight": Line(
        "first sights after a restart of the server, a second and core, with Postgres", "{:,.0f}", 1500, "at least"
    ),
    "seen elsewhere": Line(
        "first sights of keys that another worker has seen, a second and core, with Postgres",
        "{:,.0f}",
        1500,
        "at least",
    ),
    "restart rate": Line("**All workers restarted, 50,000 keys in use:** calls a second", "{:,.0f}"),
    "restart": Line("until p99 is normal", "{:.0f} s", 30),
    "busy": Line("calls that got BUSY meanwhile", "{:,.0f}"),
    "others": Line("calls that were neither granted nor got BUSY", "{:,.0f}", 0),
    "cut off": Line("calls under way in a worker that ended, and not granted", "{:,.0f}"),
    "key memory": Line("**Memory** of a key, in each worker", "{:,.0f} B", 1024),
    "snapshot memory": Line("memory of a workspace of 20,000 tools, in each worker", "{:.1f} MiB"),
}


@dataclass
class ChangesTable:
    """The values that were measured so far.

    Attributes:
        values: By line and column.
        say: Called with each value, for people who wait.
    """

    say: Callable[[str], None]
    values: dict[tuple[Key, str], float] = field(default_factory=dict)

    def add(self, key: Key, column: str, value: float) -> None:
        """Add a value."""
        self.values[key, column] = value
        line = LINES[key]
        goal = f" ({line.goal()})" if line.limit is not None else ""
        self.say(f"{column}: {line.name.replace('**', '')}: {self._cell(key, column)}{goal}")

    def text(self) -> str:
        """Return the table, as it stands in the document; values beyond their limit are bold."""
        head = [f"| what | limit | {' | '.join(COLUMNS)} |", "|---" * (2 + len(COLUMNS)) + "|"]
        lines = [
            f"| {line.name} | {line.goal()} | {' | '.join(self._cell(key, column) for column in COLUMNS)} |"
            for key, line in LINES.items()
        ]
        return "\n".join(head + lines)

    def records(self) -> list[dict[str, object]]:
        """Return the records for the file of results."""
        return [
            {
                "name": LINES[key].name.replace("**", ""),
                "column": column,
                "value": value if math.isfinite(value) else None,
                "limit": LINES[key].limit,
                "met": LINES[key].meets(value),
            }
            for (key, column), value in self.values.items()
        ]

    def _cell(self, key: Key, column: str) -> str:
        value = self.values.get((key, column))
        if value is None:
            return NOTHING
        # The limits are those of the service.
        missed = column != NAIVE and not LINES[key].meets(value)
        text = "longer" if math.isinf(value) else LINES[key].form.format(value)
        return f"**{text}**" if missed else text
