"""The denials of tokens that proved no key, newest first: table `activity_unproven`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

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


async def read_unproven(
    connection: Connection,
    activity_filter: ActivityFilter,
    outcomes: Mapping[DenialReason, int],
    minutes: range,
    *,
    after: UnprovenPosition | None,
    limit: int,
) -> list[asyncpg.Record]:
    """Return the first denials of the list after a position.

    Args:
        connection: A snapshot, with `activity_search.SETTINGS`.
        activity_filter: The caller and the reasons.
        outcomes: The number by which a denial is counted, by its reason.
        minutes: The minutes since 1970 to look at.
        after: The position where the page before ends; None for the first page.
        limit: The most denials.
    """
    reasons = activity_filter.denial_reasons
    conditions, position = "", [*(after or ())]
    if after is not None:
        conditions = "AND (fact.at, fact.caller, fact.outcome, fact.hint) < ($6, $7, $8, $9)"
    return await connection.fetch(
        f"""
        SELECT fact.at, fact.caller, fact.outcome, fact.hint, fact.count, fact.first_ms, fact.last_ms,
               host(fact.source_ip) AS source_ip, activity_caller.name AS caller_name
        FROM activity_unproven AS fact LEFT JOIN activity_caller ON activity_caller.number = fact.caller
        WHERE fact.at >= $1 AND fact.at < $2 AND ($3::text IS NULL OR activity_caller.name = $3)
          AND ($4::smallint[] IS NULL OR fact.outcome = ANY($4)) {conditions}
        ORDER BY fact.at DESC, fact.caller DESC, fact.outcome DESC, fact.hint DESC LIMIT $5
        """,  # noqa: S608 - no value stands in it
        minutes.start,
        minutes.stop,
        activity_filter.caller,
        None if reasons is None else [outcomes[reason] for reason in reasons],
        limit,
        *position,
    )
