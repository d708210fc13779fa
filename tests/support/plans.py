"""The plans that Postgres makes for the statements of the code."""

from __future__ import annotations

import asyncio
import json
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    import asyncpg
    from asyncpg.connection import LoggedQuery

    Sql = asyncpg.Connection[Any]

_CALL = re.compile(r"SELECT [\w, ]+ FROM (\w+)\(\$1, \$2\)")
_RETURNED = re.compile(r"RETURN QUERY\s+([^;]+);")

Mode = Literal["custom", "generic"]
"""A custom plan is for given values; a generic one is for any, after five runs of a statement on a connection."""


@dataclass(frozen=True)
class Plan:
    """A plan, as `EXPLAIN (FORMAT JSON)` reports it."""

    query: str
    root: dict[str, Any]

    def nodes(self) -> Iterator[dict[str, Any]]:
        """Yield every node, starting at the root."""
        waiting = [self.root]
        while waiting:
            node = waiting.pop()
            yield node
            waiting += node.get("Plans", ())

    @property
    def cost(self) -> float:
        """The cost that Postgres estimates. From `jit_above_cost` (100,000) on, Postgres would compile each run."""
        return float(self.root["Total Cost"])

    def kinds(self) -> set[str]:
        """Return the kinds of nodes, e.g. `Index Scan`."""
        return {node["Node Type"] for node in self.nodes()}

    def scans(self, table: str) -> list[str]:
        """Return how a table is read, e.g. `Index Scan key_pkey` or `Seq Scan`; nodes that only write are left out."""
        return [
            " ".join(filter(None, (node["Node Type"], node.get("Index Name"))))
            for node in self.nodes()
            if node.get("Relation Name") == table and node["Node Type"] != "ModifyTable"
        ]

    def whole_indexes(self) -> list[str]:
        """Return the indexes that are read from end to end, e.g. a partial one to find all rows that it has."""
        return [node["Index Name"] for node in self.nodes() if "Index Name" in node and "Index Cond" not in node]

    def rows_read(self, table: str) -> int:
        """Return how many rows of a table were read; only for a plan that was run."""
        return sum(
            (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
            for node in self.nodes()
            if node.get("Relation Name") == table
        )

    def blocks_read(self, table: str) -> int:
        """Return how many blocks of a table and its indexes were looked at; only for a plan that was run."""
        return sum(
            node["Shared Hit Blocks"] + node["Shared Read Blocks"]
            for node in self.nodes()
            if node.get("Relation Name") == table
        )

    def rows_sorted(self) -> int:
        """Return how many rows the largest sort took; only for a plan that was run."""
        sorts = (node for node in self.nodes() if node["Node Type"] in {"Sort", "Incremental Sort"})
        return max((rows["Actual Rows"] * rows["Actual Loops"] for node in sorts for rows in node["Plans"]), default=0)


async def plans(sql: Sql, run: Callable[[Sql], Awaitable[object]], mode: Mode, *, analyze: bool = False) -> list[Plan]:
    """Return the plans of all statements that `run` runs on a connection, and undo its changes.

    Args:
        sql: The connection.
        run: Calls functions of `skilder_keys.storage` with it.
        mode: Which kind of plan.
        analyze: Whether to run them as well, which fills in the rows that were read.
    """
    logged: list[LoggedQuery] = []
    async with undone(sql):
        # The driver looks up types that it does not know yet; that is no statement of the code.
        await run(sql)
    async with undone(sql):
        with sql.query_logger(logged.append):
            await run(sql)
            # The driver reports a statement on the event loop's next turn.
            await asyncio.sleep(0)
        assert logged, "no statement was run"
        options = "ANALYZE, BUFFERS, FORMAT JSON" if analyze else "FORMAT JSON"
        explain = _explain_custom if mode == "custom" else _explain_generic
        found = []
        for each in logged:
            if each.query.startswith(("SET LOCAL ", "DISCARD PLANS")):
                await sql.execute(each.query)
                continue
            if each.query.startswith(("SAVEPOINT ", "RELEASE ", "ROLLBACK TO ")):
                continue
            query = await _inside(sql, each.query)
            text = await explain(sql, options, query, each.args)
            found.append(Plan(query, json.loads(text)[0]["Plan"]))
        return found


@asynccontextmanager
async def undone(sql: Sql) -> AsyncIterator[None]:
    """Undo all changes of the block."""
    transaction = sql.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def _inside(sql: Sql, query: str) -> str:
    """Return a query or, for one that only calls a function, the query in that function, under its settings."""
    call = _CALL.fullmatch(query)
    if call is None:
        return query
    (function,) = await sql.fetch("SELECT prosrc, proconfig FROM pg_proc WHERE proname = $1", call[1])
    for name, value in (setting.split("=") for setting in function["proconfig"]):
        await sql.execute(f"SET LOCAL {name} = {value}")
    (statement,) = _RETURNED.findall(function["prosrc"])
    return str(statement)


async def _explain_custom(sql: Sql, options: str, query: str, values: Any) -> str:
    return str(await sql.fetchval(f"EXPLAIN ({options}) {query}", *values))


async def _explain_generic(sql: Sql, options: str, query: str, values: Any) -> str:
    types = [parameter.name for parameter in (await sql.prepare(query)).get_parameters()]
    await sql.execute("SET LOCAL plan_cache_mode = force_generic_plan")
    await sql.execute(
        f"PREPARE explained ({', '.join(types)}) AS {query}" if types else f"PREPARE explained AS {query}"
    )
    try:
        literals = f"({', '.join(map(_literal, values))})" if values else ""
        return str(await sql.fetchval(f"EXPLAIN ({options}) EXECUTE explained {literals}"))
    finally:
        await sql.execute("DEALLOCATE explained")


def _literal(value: Any) -> str:
    if value is None:
        return "NULL"
    if isinstance(value, list):
        text = "{" + ",".join(json.dumps(str(each)) for each in value) + "}"
    elif isinstance(value, bytes):
        text = f"\\x{value.hex()}"
    elif isinstance(value, datetime):
        text = value.isoformat()
    else:
        text = str(value)
    return "'" + text.replace("'", "''") + "'"
