"""The journal of activity: what processes have counted, until it is folded into the facts.

A process appends rows in order of a sequence number. So a row whose commit was not confirmed is sent again without
counting twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from skilder_keys.storage.database import Connection

MAX_ROWS = 10_000
"""The most rows in the journal. Without a limit it would grow for as long as nobody can fold it."""


@dataclass(frozen=True, slots=True)
class JournalRow:
    """Counts of one minute. Each sequence has one element for each cell.

    Attributes:
        seq: The number of the row among those of its writer, from 1.
        began_at: A time before all that it counts, in seconds since 1970, by the clock of the database.
        counted_until: All calls before this time are in this row or in an earlier one; None if later rows have some.
        minute: The minute, counted since 1970-01-01 UTC.
        keys: The keys; None for tokens that prove no key.
        tools: The tools by id; empty for none, None for one whose id is not known.
        callers: The names of the callers.
        outcomes: 0 for a grant, else the number of the denial's reason in the API.
        counts: How many calls.
        firsts: When the first of them was, in milliseconds of the minute.
        lasts: When the last of them was.
        sources: The last address from which the token was presented; empty for none.
        hints: The hints of tokens that prove no key; empty for none.
    """

    seq: int
    began_at: float
    counted_until: float | None
    minute: int
    keys: Sequence[UUID | None]
    tools: Sequence[str | None]
    callers: Sequence[str]
    outcomes: Sequence[int]
    counts: Sequence[int]
    firsts: Sequence[int]
    lasts: Sequence[int]
    sources: Sequence[str]
    hints: Sequence[str]


class Appended(Enum):
    """What became of a row."""

    YES = "it is in the journal, or was there before"
    FULL = "the journal is full"
    UNKNOWN_WRITER = "the writer is not registered, or not any more"


async def database_time(connection: Connection) -> float:
    """Return the seconds since 1970 by the clock of the database."""
    return float(await connection.fetchval("SELECT extract(epoch FROM clock_timestamp())::double precision"))


async def register(connection: Connection, writer: UUID, seq: int, interval: float, counted_until: float) -> None:
    """Register a writer, unless it is registered.

    Args:
        connection: The connection.
        writer: The id that the process has chosen.
        seq: The number of the last row that it has appended, or does not append any more.
        interval: The most seconds between a call and its row in the journal.
        counted_until: A time before which the process has nothing to append, in seconds since 1970.
    """
    await connection.execute(
        """
        INSERT INTO activity_writer (id, seq, counted_until, idle, interval, seen_at, knows_parts, knows_day_parts)
        VALUES ($1, $2, to_timestamp($3), true, $4, now(), true, true) ON CONFLICT (id) DO NOTHING
        """,
        writer,
        seq,
        counted_until,
        interval,
    )


async def append(connection: Connection, writer: UUID, row: JournalRow) -> tuple[Appended, float]:
    """Append a row, in one statement; return what became of it, and the time of the database in seconds since 1970.

    If the result is lost, append the same row again.
    """
    found = await connection.fetchrow(
        """
        WITH room AS MATERIALIZED (
            SELECT count(*) < $15 AS is_left FROM (SELECT FROM activity_journal LIMIT $15) AS rows
        ), turn AS (
            UPDATE activity_writer
            SET seq = $2, counted_until = coalesce(to_timestamp($3), counted_until), idle = false, seen_at = now()
            FROM room WHERE id = $1 AND seq < $2 AND is_left
            RETURNING id
        ), added AS (
            INSERT INTO activity_journal (began_at, minute, keys, tools, callers, outcomes, counts, firsts, lasts,
                                          sources, hints)
            SELECT to_timestamp($4), $5, $6::uuid[], $7::text[], $8::text[], $9::smallint[], $10::bigint[],
                   $11::integer[], $12::integer[], $13::text[], $14::text[]
            FROM turn
        )
        SELECT EXISTS (SELECT FROM turn) AS is_added, is_left,
               (SELECT seq FROM activity_writer WHERE id = $1) AS seq_before,
               extract(epoch FROM clock_timestamp())::double precision AS now
        FROM room
        """,
        writer,
        row.seq,
        row.counted_until,
        row.began_at,
        row.minute,
        row.keys,
        row.tools,
        row.callers,
        row.outcomes,
        row.counts,
        row.firsts,
        row.lasts,
        row.sources,
        row.hints,
        MAX_ROWS,
    )
    if found is None:
        raise LookupError("an aggregate always has a row")
    if found["is_added"] or (found["seq_before"] is not None and found["seq_before"] >= row.seq):
        outcome = Appended.YES
    else:
        outcome = Appended.UNKNOWN_WRITER if found["is_left"] else Appended.FULL
    return outcome, float(found["now"])


async def rest(connection: Connection, writer: UUID, counted_until: float) -> float | None:
    """Note that a writer has nothing to append, and will have it in the journal within its interval when it has.

    Return the time of the database in seconds since 1970; None if the writer is not registered.
    """
    now = await connection.fetchval(
        """
        UPDATE activity_writer SET idle = true, counted_until = to_timestamp($2), seen_at = now() WHERE id = $1
        RETURNING extract(epoch FROM clock_timestamp())::double precision
        """,
        writer,
        counted_until,
    )
    return None if now is None else float(now)


async def leave(connection: Connection, writer: UUID) -> None:
    """Remove a writer that has nothing to append, and does not come back."""
    await connection.execute("DELETE FROM activity_writer WHERE id = $1", writer)
