"""Activity: rows of the journal, and the facts that are made of them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from skilder_keys.storage import activity_fold, activity_journal, activity_partitions
from skilder_keys.storage.activity_journal import Appended, JournalRow

if TYPE_CHECKING:
    import asyncpg

    from skilder_keys.storage.database import Database

GRANTED, REVOKED, TOOL_NOT_ALLOWED, UNKNOWN = 0, 3, 6, 2


@dataclass(frozen=True)
class Cell:
    """A cell of the journal, or a fact with the names in place of the numbers."""

    key: UUID | None
    tool: str | None = ""
    caller: str = "gateway"
    outcome: int = GRANTED
    count: int = 1
    first: int = 0
    last: int = 0
    source: str = ""
    hint: str = ""


class Writer:
    """A process that appends rows to the journal."""

    def __init__(self, database: Database) -> None:
        self.id = uuid4()
        self._database = database
        self._seq = count(1)

    async def register(self) -> None:
        """Register it."""
        async with self._database.connection() as connection:
            now = await activity_journal.database_time(connection)
            await activity_journal.register(connection, self.id, 0, 4.0, now)

    def row(self, minute: int, *cells: Cell, began_at: float = 0.0, counted_until: float | None = None) -> JournalRow:
        """Return the next row."""
        return JournalRow(
            seq=next(self._seq),
            began_at=began_at or time.time(),
            counted_until=counted_until,
            minute=minute,
            keys=[each.key for each in cells],
            tools=[each.tool for each in cells],
            callers=[each.caller for each in cells],
            outcomes=[each.outcome for each in cells],
            counts=[each.count for each in cells],
            firsts=[each.first for each in cells],
            lasts=[each.last for each in cells],
            sources=[each.source for each in cells],
            hints=[each.hint for each in cells],
        )

    async def send(self, row: JournalRow) -> Appended:
        """Append a row."""
        async with self._database.connection() as connection:
            return (await activity_journal.append(connection, self.id, row))[0]

    async def append(self, minute: int, *cells: Cell, **times: Any) -> None:
        """Append the next row."""
        assert await self.send(self.row(minute, *cells, **times)) is Appended.YES


async def fold_all(database: Database) -> activity_fold.Folded | None:
    """Fold what is in the journal; return None if another process does so."""
    async with database.transaction() as connection:
        row_ids = await activity_fold.oldest_rows(connection, 1000)
        await activity_fold.note_uses(connection, row_ids)
    async with database.transaction() as connection:
        if not await activity_fold.try_lock(connection):
            return None
        oldest = await activity_partitions.make(connection)
        return await activity_fold.fold(connection, row_ids, oldest)


async def present_minute(sql: asyncpg.Connection[Any]) -> int:
    """Return the present minute, by the clock of the database."""
    return int(await sql.fetchval("SELECT floor(extract(epoch FROM clock_timestamp()) / 60)::integer"))


async def facts(sql: asyncpg.Connection[Any], table: str = "activity_minute") -> dict[tuple[int, str], set[Cell]]:
    """Return the facts of a table, by their `at` and their workspace."""
    rows = await sql.fetch(
        f"""
        SELECT fact.*, key_id, workspace_name.id AS workspace_id, tool_name.id AS tool_id, name AS caller_name
        FROM {table} AS fact
        LEFT JOIN activity_key ON activity_key.number = fact.key
        LEFT JOIN activity_workspace AS workspace_name ON workspace_name.number = fact.workspace
        LEFT JOIN activity_tool AS tool_name ON tool_name.number = fact.tool
        LEFT JOIN activity_caller ON activity_caller.number = fact.caller
        """  # noqa: S608 - a table of ours
    )
    found: dict[tuple[int, str], set[Cell]] = {}
    for row in rows:
        tool = {0: "", -1: None}.get(row["tool"], row["tool_id"])
        source = "" if row["source_ip"] is None else str(row["source_ip"])
        cell = Cell(
            row["key_id"],
            tool,
            row["caller_name"],
            row["outcome"],
            row["count"],
            row["first_ms"],
            row["last_ms"],
            source,
        )
        found.setdefault((row["at"], row["workspace_id"]), set()).add(cell)
    return found
