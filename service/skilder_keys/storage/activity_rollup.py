"""Roll activity up: minutes into hours, hours into days, when these are over. Late rows make it be done again."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from skilder_keys.storage.plans import prefer_indexes

if TYPE_CHECKING:
    from skilder_keys.storage.database import Connection

PART_MINUTES = 10
"""How many minutes of the present hour there must be to sum up, for its sum to be made or made again."""

TIME_LIMIT = 120.0
"""The most seconds for an hour or a day: there may be millions of facts."""


class Roll(Enum):
    """What is rolled up: the number of its step in `activity_stale`."""

    HOUR = 1
    DAY = 2


# $1 is the number of the hour or day, of which the parts before $2 are summed up. What is there is replaced, so to do
# it twice changes nothing; no fact goes away.
_ROLL_UP = """
    INSERT INTO {target} AS fact (at, workspace, key, tool, caller, outcome, count, first_ms, last_ms, source_ip)
    SELECT $1, workspace, key, tool, caller, outcome, sum(count),
           min(first_ms + (at - $1 * {parts}) * {part_ms}), max(last_ms + (at - $1 * {parts}) * {part_ms}),
           (array_agg(source_ip ORDER BY at DESC, last_ms DESC) FILTER (WHERE source_ip IS NOT NULL))[1]
    FROM {source} WHERE at >= $1 * {parts} AND at < least($2, ($1 + 1) * {parts})
    GROUP BY workspace, key, tool, caller, outcome
    ORDER BY workspace, key, tool, caller, outcome
    ON CONFLICT (at, workspace, key, tool, caller, outcome) DO UPDATE
    SET count = excluded.count, first_ms = excluded.first_ms, last_ms = excluded.last_ms,
        source_ip = excluded.source_ip
    WHERE fact.count <> excluded.count
"""
_STATEMENTS = {
    Roll.HOUR: _ROLL_UP.format(target="activity_hour", source="activity_minute", parts=60, part_ms=60_000),
    Roll.DAY: _ROLL_UP.format(target="activity_day", source="activity_hour", parts=24, part_ms=3_600_000),
}


async def oldest_closed(connection: Connection) -> tuple[Roll, int] | None:
    """Return the oldest hour that is over and not rolled up, or a day all of whose hours are; None if there is none."""
    row = await connection.fetchrow(
        """
        SELECT step, at FROM activity_stale AS stale
        WHERE step = 1 AND (at + 1) * 3600::bigint <= extract(epoch FROM clock_timestamp()) - $1
           OR step = 2 AND (at + 1) * 86400::bigint <= extract(epoch FROM clock_timestamp()) - $1
              AND NOT EXISTS (SELECT FROM activity_stale AS hour WHERE hour.step = 1 AND hour.at / 24 = stale.at)
        ORDER BY step, at LIMIT 1
        """,
        _GRACE_SECONDS,
    )
    return None if row is None else (Roll(row["step"]), row["at"])


_GRACE_SECONDS = 60.0
"""How long after its end an hour is rolled up, so that what came in its last seconds is folded."""


async def roll_up(connection: Connection, roll: Roll, at: int) -> None:
    """Make the facts of an hour or a day, inside a transaction with the lock of the fold."""
    await _sum_up(connection, roll, at, _EVER)
    await connection.execute(_UP_TO_DATE, roll.value, at)


async def part_to_sum_up(connection: Connection) -> tuple[int, int] | None:
    """Return the present hour, and the minute before which its facts can be summed up; None if that is not due.

    It is not while there is a writer of an older version: it may add to minutes that are summed up, and not say so.
    """
    row = await connection.fetchrow(
        """
        SELECT stale.at, closed.minute
        FROM (SELECT floor((extract(epoch FROM clock_timestamp()) - $1) / 60)::integer AS minute) AS closed
        JOIN activity_stale AS stale ON stale.step = 1 AND stale.at = closed.minute / 60
        WHERE closed.minute - coalesce(stale.summed_until, stale.at * 60) >= $2
          AND NOT EXISTS (SELECT FROM activity_writer WHERE NOT knows_parts)
        """,
        _GRACE_SECONDS,
        PART_MINUTES,
    )
    return None if row is None else (row["at"], row["minute"])


async def sum_up_part(connection: Connection, hour: int, minute: int) -> None:
    """Make the facts of an hour from its minutes before one, inside a transaction with the lock of the fold.

    The hour stays in `activity_stale`, with that minute.
    """
    await _sum_up(connection, Roll.HOUR, hour, minute)
    await connection.execute(_UP_TO_DATE, Roll.HOUR.value, hour)
    await connection.execute("INSERT INTO activity_stale (step, at, summed_until) VALUES (1, $1, $2)", hour, minute)


_UP_TO_DATE = "DELETE FROM activity_stale WHERE step = $1 AND at = $2"
_EVER = 2**31 - 1


async def _sum_up(connection: Connection, roll: Roll, at: int, end: int) -> None:
    await prefer_indexes(connection)
    await connection.execute(f"SET LOCAL statement_timeout = {round(TIME_LIMIT * 1000)}")
    await connection.execute(_STATEMENTS[roll], at, end, timeout=TIME_LIMIT)


async def prune_writers(connection: Connection) -> None:
    """Remove writers that were not seen for a week. None of them still sends a row again."""
    await connection.execute("DELETE FROM activity_writer WHERE seen_at < now() - interval '7 days'")
