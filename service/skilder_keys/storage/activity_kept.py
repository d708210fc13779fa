"""How far back activity goes, and until when it is counted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.activity import Kept, Span
from skilder_keys.storage import activity_lag
from skilder_keys.storage.activity_lag import Step
from skilder_keys.storage.activity_search import TABLES

if TYPE_CHECKING:
    from datetime import datetime

    from skilder_keys.storage.database import Connection


async def read(connection: Connection) -> Kept:
    """Return what the service has of the counts. Call it in the snapshot in which facts are read, before them."""
    counted_until = await activity_lag.counted_until(connection)
    now: datetime = await connection.fetchval("SELECT now()")
    kept = await activity_lag.kept_from(connection)
    oldest: dict[Span, datetime] = {}
    earliest = Span.DAY.floor(now)
    for span in Span:
        # Where nothing is kept of a span, its part of the past is empty.
        earliest = oldest[span] = min(earliest, kept.get(Step[span.name], earliest))
    removed = set()
    for span, longer in ((Span.MINUTE, Span.HOUR), (Span.HOUR, Span.DAY), (Span.MINUTE, Span.DAY)):
        # What was counted before is still there in longer spans, so the shorter ones were removed.
        before = longer.number(oldest[span])
        if await connection.fetchval(f"SELECT EXISTS (SELECT FROM {TABLES[longer]} WHERE at < $1)", before):  # noqa: S608 - a constant
            removed.add(span)
    return Kept(now, oldest, frozenset(removed), counted_until)
