"""Roll activity up: minutes into hours, hours into days, when these are over. Late rows make it be done again."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.storage.plans import prefer_indexes

if TYPE_CHECKING:
    from skilder_keys.storage.database import Connection

PART_MINUTES = 5
"""How many minutes of the present hour there must be to sum up, for them to be added to its sum."""

TIME_LIMIT = 120.0
"""The most seconds for an hour or a day: there may be millions of facts."""


class Roll(Enum):
    """What is rolled up: the number of its step in `activity_stale`."""

    HOUR = 1
    DAY = 2


class Part(NamedTuple):
    """A part of the present hour or day that can be summed up.

    Attributes:
        roll: Whether it is of an hour or of a day.
        at: The number of the hour or day.
        begin: Its first minute or hour; what is before it is summed up.
        end: The minute or hour after its last one.
    """

    roll: Roll
    at: int
    begin: int
    end: int


# $1 is the number of the hour or day, of which the parts from $2 on and before $3 are summed up.
_SUM_UP = """
    INSERT INTO {target} AS fact (at, workspace, key, tool, caller, outcome, count, first_ms, last_ms, source_ip)
    SELECT $1, workspace, key, tool, caller, outcome, sum(count),
           min(first_ms + (at - $1 * {parts}) * {part_ms}), max(last_ms + (at - $1 * {parts}) * {part_ms}),
           (array_agg(source_ip ORDER BY at DESC, last_ms DESC) FILTER (WHERE source_ip IS NOT NULL))[1]
    FROM {source} WHERE at >= greatest($2, $1 * {parts}) AND at < least($3, ($1 + 1) * {parts})
    GROUP BY workspace, key, tool, caller, outcome
    ORDER BY workspace, key, tool, caller, outcome
    ON CONFLICT (at, workspace, key, tool, caller, outcome) DO UPDATE
"""
# What is there is replaced, so to do it twice changes nothing; no fact goes away.
_REPLACE = """
    SET count = excluded.count, first_ms = excluded.first_ms, last_ms = excluded.last_ms,
        source_ip = excluded.source_ip
    WHERE fact.count <> excluded.count
"""
# What is there is of earlier parts.
_ADD = """
    SET count = fact.count + excluded.count, first_ms = least(fact.first_ms, excluded.first_ms),
        last_ms = greatest(fact.last_ms, excluded.last_ms), source_ip = coalesce(excluded.source_ip, fact.source_ip)
"""
_PARTS = {Roll.HOUR: 60, Roll.DAY: 24}
"""How many minutes an hour has, and how many hours a day."""
_STATEMENTS = {
    Roll.HOUR: _SUM_UP.format(target="activity_hour", source="activity_minute", parts=60, part_ms=60_000),
    Roll.DAY: _SUM_UP.format(target="activity_day", source="activity_hour", parts=24, part_ms=3_600_000),
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
    await _sum_up(connection, roll, at, 0, _EVER, _REPLACE)
    await connection.execute(_UP_TO_DATE, roll.value, at)


async def parts_to_sum_up(connection: Connection) -> list[Part]:
    """Return the parts of the present hour and day for which it is time.

    There is none while there is a writer of an older version: it may add to what is summed up, and not say so.
    """
    rows = await connection.fetch(
        """
        WITH closed AS MATERIALIZED (
            SELECT floor((extract(epoch FROM clock_timestamp()) - $1) / 60)::integer AS minute
        )
        SELECT step, at, coalesce(summed_until, at * 60) AS begin, closed.minute AS end
        FROM closed JOIN activity_stale AS stale ON step = 1 AND at = closed.minute / 60
        WHERE closed.minute - coalesce(summed_until, at * 60) >= $2
          AND NOT EXISTS (SELECT FROM activity_writer WHERE NOT knows_parts)
        UNION ALL
        SELECT step, at, coalesce(summed_until, at * 24), hours.end
        FROM closed JOIN activity_stale AS stale ON step = 2 AND at = closed.minute / 1440
        CROSS JOIN LATERAL (
            SELECT least(closed.minute / 60, min(hour.at)) AS end
            FROM activity_stale AS hour WHERE hour.step = 1 AND hour.at / 24 = stale.at
        ) AS hours
        WHERE hours.end > coalesce(summed_until, at * 24)
          AND NOT EXISTS (SELECT FROM activity_writer WHERE NOT knows_day_parts)
        """,
        _GRACE_SECONDS,
        PART_MINUTES,
    )
    return [Part(Roll(row["step"]), row["at"], row["begin"], row["end"]) for row in rows]


async def sum_up_part(connection: Connection, part: Part) -> None:
    """Add a part to the facts of its hour or day, inside a transaction with the lock of the fold that found the part.

    The hour or day stays in `activity_stale`, with the end of the part.
    """
    roll, at, begin, end = part
    change = _REPLACE if begin == at * _PARTS[roll] else _ADD
    await _sum_up(connection, roll, at, begin, end, change)
    await connection.execute(_UP_TO_DATE, roll.value, at)
    await connection.execute(
        "INSERT INTO activity_stale (step, at, summed_until) VALUES ($1, $2, $3)", roll.value, at, end
    )


_UP_TO_DATE = "DELETE FROM activity_stale WHERE step = $1 AND at = $2"
_EVER = 2**31 - 1


async def _sum_up(connection: Connection, roll: Roll, at: int, begin: int, end: int, change: str) -> None:
    await prefer_indexes(connection)
    await connection.execute(f"SET LOCAL statement_timeout = {round(TIME_LIMIT * 1000)}")
    await connection.execute(_STATEMENTS[roll] + change, at, begin, end, timeout=TIME_LIMIT)


async def prune_writers(connection: Connection) -> None:
    """Remove writers that were not seen for a week. None of them still sends a row again."""
    await connection.execute("DELETE FROM activity_writer WHERE seen_at < now() - interval '7 days'")
