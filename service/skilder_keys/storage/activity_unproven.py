"""The denials of tokens that proved no key, newest first: table `activity_unproven`."""

from __future__ import annotations

import json
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.storage.activity_looks import Looks

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import asyncpg

    from skilder_keys.domain.activity import ActivityFilter
    from skilder_keys.domain.denial import DenialReason
    from skilder_keys.storage.database import Connection


class UnprovenPosition(NamedTuple):
    """The place of a denial in the list."""

    at: int
    caller: int
    outcome: int
    hint: str

    def __str__(self) -> str:
        """Return the position as a text, for a page token."""
        return json.dumps(list(self))

    @classmethod
    def parse(cls, text: str) -> UnprovenPosition:
        """Return the position that a text stands for."""
        return cls(*json.loads(text))


_FIRST = UnprovenPosition(2**31 - 1, 0, 0, "")
"""Before all denials."""


class UnprovenPage(NamedTuple):
    """Denials, and the position where the search stopped; None if nothing is left."""

    rows: list[asyncpg.Record]
    stopped: UnprovenPosition | None


async def read_unproven(
    connection: Connection,
    activity_filter: ActivityFilter,
    outcomes: Mapping[DenialReason, int],
    minutes: range,
    *,
    after: UnprovenPosition | None,
    limit: int,
) -> UnprovenPage:
    """Return the first denials of the list after a position.

    Args:
        connection: A snapshot, with `activity_search.SETTINGS`.
        activity_filter: The caller and the reasons.
        outcomes: The number by which a denial is counted, by its reason.
        minutes: The minutes since 1970 to look at.
        after: The position where the page before ends; None for the first page.
        limit: The most denials.
    """
    looks = await Looks.begin(connection)
    waiting = range((minutes.stop if after is None else min(minutes.stop, after.at + 1)) - 1, minutes.start - 1, -1)
    rows: list[asyncpg.Record] = []
    while waiting and len(rows) < limit:
        read = partial(
            _read, connection, activity_filter, outcomes=outcomes, after=after or _FIRST, limit=limit - len(rows)
        )
        found, count = await looks.look("unproven", waiting, read, largest=len(waiting))
        rows += found
        last, waiting = waiting[count - 1], waiting[count:]
        if waiting and looks.over():
            return UnprovenPage(rows, UnprovenPosition(last, -1, 0, ""))
    return UnprovenPage(rows, None)


async def _read(
    connection: Connection,
    activity_filter: ActivityFilter,
    minutes: Sequence[int],
    *,
    outcomes: Mapping[DenialReason, int],
    after: UnprovenPosition,
    limit: int,
) -> list[asyncpg.Record]:
    """Return the first denials of successive minutes after a position."""
    reasons = activity_filter.denial_reasons
    return await connection.fetch(
        """
        SELECT fact.at, fact.caller, fact.outcome, fact.hint, fact.count, fact.first_ms, fact.last_ms,
               host(fact.source_ip) AS source_ip, activity_caller.name AS caller_name
        FROM activity_unproven AS fact LEFT JOIN activity_caller ON activity_caller.number = fact.caller
        WHERE fact.at BETWEEN $1 AND $2 AND ($3::text IS NULL OR activity_caller.name = $3)
          AND ($4::smallint[] IS NULL OR fact.outcome = ANY($4))
          AND (fact.at, fact.caller, fact.outcome, fact.hint) < ($6, $7, $8, $9)
        ORDER BY fact.at DESC, fact.caller DESC, fact.outcome DESC, fact.hint DESC LIMIT $5
        """,
        minutes[-1],
        minutes[0],
        activity_filter.caller,
        None if reasons is None else [outcomes[reason] for reason in reasons],
        limit,
        *after,
    )
