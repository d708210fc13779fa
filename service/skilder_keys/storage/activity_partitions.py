"""The partitions of activity: made before they are needed, and removed when all that they have is old.

A role that does not own the tables may do so by functions of migration 32.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.storage.activity_lag import Step, kept_from

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.storage.database import Connection

UNPROVEN = "activity_unproven"
_DAY = timedelta(days=1)


class Retention(NamedTuple):
    """For how many days facts are kept at least, by their step."""

    minutes: int = 2
    hours: int = 90
    days: int = 730


async def make(connection: Connection) -> int:
    """Make the partitions that are missing for yesterday, today and tomorrow; return the first minute that is kept.

    A minute before the oldest partition is not kept: the hours of that day may have been made of minutes that are gone.
    """
    now: datetime = await connection.fetchval("SELECT clock_timestamp()")
    days = (now - _DAY, now, now + _DAY)
    wanted = {(step.value, step.number(day)) for step in Step for day in days}
    wanted |= {(UNPROVEN, Step.MINUTE.number(day)) for day in days}
    ordered = sorted(wanted)
    await connection.execute(
        "SELECT make_activity_partition(parent, at) FROM unnest($1::text[], $2::integer[]) AS wanted (parent, at)",
        [parent for parent, _ in ordered],
        [at for _, at in ordered],
    )
    oldest = (await kept_from(connection))[Step.MINUTE]
    return Step.MINUTE.number(oldest)


async def drop_old(connection: Connection, retention: Retention) -> Mapping[str, int]:
    """Remove partitions that are older than is kept; return how many, by table.

    Minutes of an hour that is not rolled up stay, and so do hours of such a day. Call it inside a transaction, with the
    lock of the fold. It waits for others for a moment only.

    Raises:
        UnavailableError: Somebody uses a partition. Nothing is removed then.
    """
    today: datetime = await connection.fetchval("SELECT date_trunc('day', clock_timestamp())")
    bounds = {
        Step.MINUTE.value: Step.MINUTE.number(today - retention.minutes * _DAY),
        Step.HOUR.value: Step.HOUR.number(today - retention.hours * _DAY),
        Step.DAY.value: Step.DAY.number(today - retention.days * _DAY),
        UNPROVEN: Step.MINUTE.number(today - retention.hours * _DAY),
    }
    stale = {row["step"]: row["at"] for row in await connection.fetch(_OLDEST_STALE)}
    if 1 in stale:
        bounds[Step.MINUTE.value] = min(bounds[Step.MINUTE.value], stale[1] * 60)
    if 2 in stale:  # noqa: PLR2004 - the step of days, as activity_stale has it
        bounds[Step.HOUR.value] = min(bounds[Step.HOUR.value], stale[2] * 24)
    dropped = {
        parent: await connection.fetchval("SELECT drop_activity_partitions($1, $2)", parent, oldest)
        for parent, oldest in bounds.items()
    }
    return {parent: count for parent, count in dropped.items() if count}


_OLDEST_STALE = "SELECT step, min(at) AS at FROM activity_stale GROUP BY step"
