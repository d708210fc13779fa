"""Activity for tests: facts written into Postgres, and a plain model of what is listed and summed up."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1.activity_service_pb2 import (
    VERDICT_DENIED,
    Activity,
    GetUsageRequest,
    GetUsageResponse,
    ListActivityRequest,
    ListActivityResponse,
    UsageSeries,
)
from skilder_keys.storage import activity_rollup
from skilder_keys.storage.activity_rollup import Roll

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence
    from uuid import UUID

    import asyncpg

    from tests.support.service import Client

HOUR, DAY = 60, 1440
"""In minutes."""


@dataclass(frozen=True, slots=True)
class Fact:
    """Calls of a minute with the same key, tool, caller and outcome.

    Attributes:
        minute: Since 1970.
        tool: Its id; empty for none, `*` for one that is not recorded.
        outcome: 0 for a grant, else the number of the reason.
    """

    minute: int
    key_id: UUID
    tool: str = "web.search"
    caller: str = "gateway"
    outcome: int = 0
    count: int = 1
    first_ms: int = 1_000
    last_ms: int = 59_000
    source: str | None = None
    workspace: str = "acme"


_PARTITIONS = """
SELECT make_activity_partition(parent, at / length)
FROM (SELECT DISTINCT at / 1440 * 1440 AS at FROM unnest($1::integer[]) AS at) AS days,
     (VALUES ('activity_minute', 1), ('activity_hour', 60), ('activity_day', 1440), ('activity_unproven', 1))
         AS tables (parent, length)
"""
_NUMBERS = {
    "workspace": "INSERT INTO activity_workspace (id) SELECT DISTINCT unnest($1::text[]) ON CONFLICT DO NOTHING",
    "tool": "INSERT INTO activity_tool (id) SELECT DISTINCT unnest($1::text[]) ON CONFLICT DO NOTHING",
    "caller": "INSERT INTO activity_caller (name) SELECT DISTINCT unnest($1::text[]) ON CONFLICT DO NOTHING",
}
_KEYS = """
INSERT INTO activity_key (key_id, workspace)
SELECT DISTINCT given.key_id, activity_workspace.number FROM unnest($1::uuid[], $2::text[]) AS given (key_id, workspace)
JOIN activity_workspace ON activity_workspace.id = given.workspace ON CONFLICT DO NOTHING
"""
_FACTS = """
INSERT INTO activity_minute (at, key, tool, caller, outcome, count, first_ms, last_ms, source_ip, workspace)
SELECT fact.at, activity_key.number, CASE tool WHEN '' THEN 0 WHEN '*' THEN -1 ELSE activity_tool.number END,
       activity_caller.number, outcome, fact.count, first_ms, last_ms, source_ip, activity_workspace.number
FROM unnest($1::integer[], $2::uuid[], $3::text[], $4::text[], $5::smallint[], $6::bigint[], $7::integer[],
            $8::integer[], $9::inet[], $10::text[])
         AS fact (at, key_id, tool, caller, outcome, count, first_ms, last_ms, source_ip, workspace)
JOIN activity_workspace ON activity_workspace.id = fact.workspace
JOIN activity_key ON activity_key.key_id = fact.key_id
LEFT JOIN activity_tool ON activity_tool.id = fact.tool
JOIN activity_caller ON activity_caller.name = fact.caller
"""
_STALE = """
INSERT INTO activity_stale SELECT DISTINCT step, at / length
FROM unnest($1::integer[]) AS at, (VALUES (1, 60), (2, 1440)) AS steps (step, length)
-- A service may have summed up these minutes already.
ON CONFLICT (step, at) DO UPDATE SET summed_until = NULL WHERE activity_stale.summed_until IS NOT NULL
"""


async def insert_facts(sql: asyncpg.Connection[Any], facts: Sequence[Fact]) -> None:
    """Write facts of minutes, as the fold does: their hours and days are to be rolled up."""
    columns = {name: [getattr(fact, name) for fact in facts] for name in Fact.__slots__}
    await sql.execute(_PARTITIONS, columns["minute"])
    for name, statement in _NUMBERS.items():
        await sql.execute(statement, sorted(set(columns[name]) - {"", "*"}))
    await sql.execute(_KEYS, columns["key_id"], columns["workspace"])
    await sql.execute(_FACTS, *columns.values())
    await sql.execute(_STALE, columns["minute"])


async def insert_unproven(
    sql: asyncpg.Connection[Any], minute: int, callers: Sequence[str], outcome: int, hint: str = ""
) -> None:
    """Write denials of tokens that proved no key, one call of each caller."""
    await sql.execute(_PARTITIONS, [minute])
    await sql.execute(_NUMBERS["caller"], callers)
    await sql.execute(
        """
        INSERT INTO activity_unproven (at, caller, outcome, hint, count, first_ms, last_ms)
        SELECT $1, number, $3, $4, 1, 5000, 5000 FROM activity_caller WHERE name = ANY($2::text[])
        """,
        minute,
        callers,
        outcome,
        hint,
    )


async def roll_up(sql: asyncpg.Connection[Any], but: Collection[tuple[int, int]] = ()) -> None:
    """Roll everything up but some hours and days, given as in `activity_stale`; a day needs all of its hours."""
    for row in await sql.fetch("SELECT step, at FROM activity_stale ORDER BY step, at"):
        if (row["step"], row["at"]) not in but:
            await activity_rollup.roll_up(sql, Roll(row["step"]), row["at"])


Listed = tuple[int, int, str, str, str, int, int, int, int, str]
"""An element of a list: minute, length, key, tool, caller, outcome, count, first and last (milliseconds), source."""


def listed(facts: Iterable[Fact], minutes_from: int, hours_from: int) -> list[Listed]:
    """Return what is listed of some facts, in order of time, where minutes and hours before a minute are removed."""
    found: dict[tuple[int, int, str, str, str, int], list[Fact]] = defaultdict(list)
    for fact in facts:
        length = 1 if fact.minute >= minutes_from else HOUR if fact.minute >= hours_from else DAY
        start = fact.minute - fact.minute % length
        found[start, length, str(fact.key_id), fact.tool, fact.caller, fact.outcome].append(fact)
    return [(*place, *_merged(place[0], same)) for place, same in sorted(found.items(), reverse=True)]


def _merged(start: int, facts: list[Fact]) -> tuple[int, int, int, str]:
    def in_ms(fact: Fact, ms: int) -> int:
        return (fact.minute - start) * 60_000 + ms

    sources = sorted((in_ms(fact, fact.last_ms), fact.source) for fact in facts if fact.source is not None)
    return (
        sum(fact.count for fact in facts),
        min(in_ms(fact, fact.first_ms) for fact in facts),
        max(in_ms(fact, fact.last_ms) for fact in facts),
        sources[-1][1] if sources else "",
    )


def seen(activity: Activity) -> Listed:
    """Return an element of a response as `listed` has it."""
    start = activity.start_at
    assert (activity.verdict == VERDICT_DENIED) is bool(activity.denial_reason)
    return (
        start.seconds // 60,
        activity.span.seconds // 60,
        activity.key_id,
        activity.tool_id,
        activity.caller,
        activity.denial_reason,
        activity.count,
        activity.first_at.ToMilliseconds() - start.ToMilliseconds(),
        activity.last_at.ToMilliseconds() - start.ToMilliseconds(),
        activity.last_source_ip,
    )


Points = dict[int, tuple[int, int]]
"""How many calls were granted and denied, by the minute at which a step begins."""


def summed(facts: Iterable[Fact], length: int) -> Points:
    """Return the points of a series of steps of some minutes."""
    points: dict[int, list[int]] = defaultdict(lambda: [0, 0])
    for fact in facts:
        points[fact.minute - fact.minute % length][1 if fact.outcome else 0] += fact.count
    return {minute: (granted, denied) for minute, (granted, denied) in points.items()}


def points_of(series: UsageSeries) -> Points:
    """Return the points of a series of a response, which must be in order."""
    minutes = [point.at.seconds // 60 for point in series.points]
    assert minutes == sorted(set(minutes))
    assert all(point.granted or point.denied for point in series.points)
    return {point.at.seconds // 60: (point.granted, point.denied) for point in series.points}


def calls(points: Points) -> int:
    """Return the number of calls of a series."""
    return sum(granted + denied for granted, denied in points.values())


async def list_activity(client: Client, **fields: Any) -> ListActivityResponse:
    """Return one page of activity; of workspace `acme` by default."""
    response: ListActivityResponse = await client.activity.ListActivity(
        ListActivityRequest(**{"workspace_id": "acme"} | fields)
    )
    return response


async def get_usage(client: Client, seconds: int, **fields: Any) -> GetUsageResponse:
    """Return usage by steps of some seconds; of workspace `acme` by default."""
    wanted: dict[str, Any] = {"workspace_id": "acme", "step": Duration(seconds=seconds)}
    response: GetUsageResponse = await client.activity.GetUsage(GetUsageRequest(**wanted | fields))
    return response
