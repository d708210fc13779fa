"""The table of what one core does in a second, from the tables of docs/performance.md."""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from bench.changes_table import LINES
from bench.sides import EMPTY_GRPCIO, ENVOY, GRPCIO, NAIVE, NOTHING

if TYPE_CHECKING:
    from collections.abc import Mapping

    Table = Mapping[str, Mapping[str, str]]

_PERFORMANCE = Path(__file__).parents[2] / "docs" / "performance.md"
_COSTS, _LIMITS, _CHANGES = "loaded by h2load", "what | limit | measured", f"what | limit | {ENVOY}"
_COLUMNS = (ENVOY, GRPCIO, EMPTY_GRPCIO, NAIVE)
_NUMBER = re.compile(r"[\d,.]+")


def table() -> str:
    """Return the table: calls a second and core of each kind, rounded."""
    text = _PERFORMANCE.read_text("utf-8")
    costs, limits, changes = (_table(text, head) for head in (_COSTS, _LIMITS, _CHANGES))
    batch = limits["tokens a second and core in batches of 100, by Envoy"]
    first_use = limits["first uses a second and core, Postgres included"]
    rows = {
        "Authorize from memory, about one tool": _per_second(costs["one tool, 64 at a time"]),
        "Authorize from memory, with a tool set of 96 tools": _per_second(costs["hundred-tool set, 64 at a time"]),
        "tokens in batches of 100": {ENVOY: _value(batch["measured"]), NAIVE: _value(batch.get(NAIVE, ""))},
        "first use of a key, with Postgres": _values(changes[LINES["first use"].name])
        | {GRPCIO: _value(first_use["measured"])},
        "first call about a key after a restart, with Postgres": _values(changes[LINES["first sight"].name]),
    }
    lines = [f"| a second and core | {' | '.join(_COLUMNS)} |", "|---" * (1 + len(_COLUMNS)) + "|"]
    for name, values in rows.items():
        cells = (_rounded(values.get(column)) for column in _COLUMNS)
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _table(text: str, head: str) -> Table:
    """Return the cells of the table whose head begins so, by row and column; the first of columns with one name."""
    found = re.search(rf"^\| {re.escape(head)}.*?(?=\n\n|\n<!--)", text, re.MULTILINE | re.DOTALL)
    if found is None:
        raise ValueError(f"docs/performance.md has no table that begins with {head}")
    names, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in found[0].splitlines())
    columns = [name.rpartition(": ")[2] for name in names]
    return {row[0]: dict(reversed(list(zip(columns, row, strict=True)))) for row in rows}


def _per_second(row: Mapping[str, str]) -> dict[str, float | None]:
    """Return how many calls fit into a second, given the microseconds of each column."""
    return {column: value and 1e6 / value for column, value in _values(row).items()}


def _values(row: Mapping[str, str]) -> dict[str, float | None]:
    return {column: _value(row.get(column, "")) for column in _COLUMNS}


def _value(cell: str) -> float | None:
    found = _NUMBER.search(cell)
    return None if found is None else float(found[0].replace(",", ""))


def _rounded(value: float | None) -> str:
    """Return a number with two digits that are not zero."""
    return NOTHING if value is None else f"{round(value, 1 - math.floor(math.log10(value))):,.0f}"
