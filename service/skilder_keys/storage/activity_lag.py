"""How far behind the facts of activity are, and how far back they go."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.storage.database import Connection

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SILENT = timedelta(seconds=30)
"""A writer that has something to append and was not seen for so long has ended, or cannot reach the database."""


class Step(Enum):
    """The length of time that a fact is about. The value is the name of the table."""

    MINUTE = "activity_minute"
    HOUR = "activity_hour"
    DAY = "activity_day"

    @property
    def span(self) -> timedelta:
        """The length of time."""
        return _SPANS[self]

    def number(self, at: datetime) -> int:
        """Return the number of the span that a time is in, counted since 1970-01-01 UTC."""
        return (at - _EPOCH) // self.span

    def start(self, number: int) -> datetime:
        """Return when the span with a number starts."""
        return _EPOCH + number * self.span


_SPANS = {Step.MINUTE: timedelta(minutes=1), Step.HOUR: timedelta(hours=1), Step.DAY: timedelta(days=1)}


class Backlog(NamedTuple):
    """What waits in the journal: how many rows, and how many seconds ago the oldest was begun."""

    rows: int
    age: float


async def counted_until(connection: Connection) -> datetime:
    """Return a time before which all calls are in the facts.

    Left out are calls that a process counted and did not write before it ended, or while it cannot reach the database.
    Call this before the facts are read, or in the same snapshot.
    """
    found: datetime = await connection.fetchval(
        """
        SELECT least(now(),
                     (SELECT min(CASE WHEN idle THEN now() - make_interval(secs => interval) ELSE counted_until END)
                      FROM activity_writer WHERE idle OR seen_at > now() - $1::interval),
                     (SELECT min(began_at) FROM activity_journal))
        """,
        _SILENT,
    )
    return found


async def kept_from(connection: Connection) -> Mapping[Step, datetime]:
    """Return for each step from when on its facts are kept; a step without facts is left out."""
    rows = await connection.fetch(
        """
        SELECT inhparent::regclass::text AS name,
               min((regexp_match(bound, 'FROM \\(''?(\\d+)''?\\)'))[1]::integer) AS first
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid, pg_get_expr(relpartbound, inhrelid) AS bound
        WHERE inhparent = ANY($1::text[]::regclass[]) GROUP BY inhparent
        """,
        [step.value for step in Step],
    )
    return {step: step.start(row["first"]) for row in rows for step in Step if step.value == row["name"]}


async def backlog(connection: Connection) -> Backlog:
    """Return what waits in the journal."""
    row = await connection.fetchrow(
        """
        SELECT count(*) AS rows,
               coalesce(extract(epoch FROM now() - min(began_at)), 0)::double precision AS age
        FROM activity_journal
        """
    )
    if row is None:
        raise LookupError("an aggregate always has a row")
    return Backlog(row["rows"], max(0.0, row["age"]))
