"""Usage over time: tables `activity_minute`, `activity_hour`, `activity_day` and `activity_stale`.

Hours and days are sums of minutes. `activity_stale` has those whose sums are missing or old; these are summed up here.
Of the present hour, the sum may have the minutes before one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.domain.activity import OTHER_TOOLS, Span, UsageGroup, UsagePoint, UsageSeries
from skilder_keys.storage.activity_search import MINUTES, NO_TOOL, OTHER, STALE

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import asyncpg

    from skilder_keys.storage.activity_search import ActivitySearch
    from skilder_keys.storage.database import Connection

# What has the same value in all facts of a series. A user is found by the key.
_PARTS = {
    None: "0",
    UsageGroup.KEY: "fact.key",
    UsageGroup.USER: "fact.key",
    UsageGroup.TOOL: "fact.tool",
    UsageGroup.CALLER: "fact.caller",
}
_BY_USER = """, counted AS MATERIALIZED (
    SELECT summed.at, coalesce(key.user_id, '') AS part, sum(granted) AS granted, sum(denied) AS denied,
           sum(read) AS read
    FROM summed
    LEFT JOIN activity_key ON activity_key.number = summed.part LEFT JOIN key ON key.id = activity_key.key_id
    GROUP BY 1, 2
)"""
_NAMES = {
    UsageGroup.KEY: "SELECT number, key_id::text AS id FROM activity_key WHERE number = ANY($1::integer[])",
    UsageGroup.TOOL: "SELECT number, id FROM activity_tool WHERE number = ANY($1::integer[])",
    UsageGroup.CALLER: "SELECT number, name AS id FROM activity_caller WHERE number = ANY($1::integer[])",
}


MAX_FACTS = 1_000_000
"""The most facts that a sum reads, and the most lookups of single keys. Reading them takes Postgres 1 to 2 seconds."""


class TooManyFactsError(Exception):
    """A sum would have to read more than MAX_FACTS."""


class SummedUsage(NamedTuple):
    """Sums of calls: `rank` of the series, from 1 on, or None for the others; `part`, `at`, `granted` and `denied`.

    Attributes:
        names: The ids of keys, users or tools, or the names of callers, by `part`.
    """

    rows: list[asyncpg.Record]
    step: Span
    names: Mapping[object, str]

    def series(self) -> tuple[tuple[UsageSeries, ...], UsageSeries | None]:
        """Return the series with the most calls, and the sum of all others. There may be 75,000 points."""
        points: dict[int | None, list[UsagePoint]] = {}
        ids: dict[int | None, str] = {}
        for row in self.rows:
            ids[row["rank"]] = self.names.get(row["part"], "")
            point = UsagePoint(self.step.start(row["at"]), row["granted"], row["denied"])
            points.setdefault(row["rank"], []).append(point)
        rest = points.pop(None, None)
        series = tuple(UsageSeries(ids[rank], tuple(each)) for rank, each in points.items())
        return series, None if rest is None else UsageSeries("", tuple(rest))


async def read_usage(
    connection: Connection,
    search: ActivitySearch,
    step: Span,
    steps: range,
    group_by: UsageGroup | None,
    top: int,
) -> SummedUsage:
    """Return usage over time.

    Args:
        connection: A snapshot, with `activity_search.SETTINGS`.
        search: Which facts match.
        step: The length of time of a point.
        steps: The numbers of the steps since 1970.
        group_by: What a series is of; None for one series of everything.
        top: The most series.

    Raises:
        TooManyFactsError: It would have to read more than MAX_FACTS.
    """
    lookups = search.lookups
    search, conditions = search.unfiltered()
    columns = "fact.key, fact.tool, fact.caller, fact.outcome, fact.count"
    facts = []
    found = await _places(connection, step, steps)
    if lookups > 1 and lookups * sum(map(len, found.values())) > MAX_FACTS:
        raise TooManyFactsError
    for span, places in found.items():
        at = search.parameter(places)
        facts.append(
            f"""
            SELECT place.at / {MINUTES[step] // MINUTES[span]} AS at, fact.*
            FROM unnest({at}::integer[]) AS place (at)
            CROSS JOIN LATERAL ({search.facts(span, columns, "", "OFFSET 0")}) AS fact
            """  # noqa: S608 - no value stands in it; OFFSET 0 keeps Postgres from reading all minutes first
        )
    rows = await connection.fetch(
        f"""
        WITH {"summed" if group_by is UsageGroup.USER else "counted"} AS MATERIALIZED (
            -- A window function that counts the facts would cost as much as reading them.
            SELECT at, {_PARTS[group_by]} AS part, sum(count) FILTER (WHERE outcome = 0 AND {conditions}) AS granted,
                   sum(count) FILTER (WHERE outcome <> 0 AND {conditions}) AS denied, count(*) AS read
            FROM (SELECT * FROM ({" UNION ALL ".join(facts)}) AS facts LIMIT {MAX_FACTS + 1}) AS fact
            GROUP BY 1, 2
        ){_BY_USER if group_by is UsageGroup.USER else ""}, matching AS (
            SELECT at, part, coalesce(granted, 0) AS granted, coalesce(denied, 0) AS denied
            FROM counted
            WHERE granted IS NOT NULL OR denied IS NOT NULL OR (SELECT sum(read) > {MAX_FACTS} FROM counted)
        ), most AS MATERIALIZED (
            SELECT array_agg(part ORDER BY calls DESC, part) AS parts FROM (
                SELECT part, sum(granted + denied) AS calls FROM matching
                GROUP BY part ORDER BY calls DESC, part LIMIT {search.parameter(top)}
            ) AS parts
        )
        SELECT array_position(parts, part) AS rank, parts[array_position(parts, part)] AS part, at,
               sum(granted)::bigint AS granted, sum(denied)::bigint AS denied,
               (SELECT sum(read) > {MAX_FACTS} FROM counted) AS too_many
        FROM matching CROSS JOIN most GROUP BY 1, 2, 3 ORDER BY 1 NULLS LAST, 3
        """,  # noqa: S608 - the same
        *search.values,
    )
    if any(row["too_many"] for row in rows):
        raise TooManyFactsError
    names = await _names(connection, group_by, {row["part"] for row in rows} - {None})
    return SummedUsage(rows, step, names)


async def _places(connection: Connection, step: Span, steps: range) -> Mapping[Span, list[int]]:
    """Return where the facts of some steps are: numbers of minutes, hours or days by table, which do not overlap."""
    places = {step: list(steps)}
    for span, shorter in ((Span.DAY, Span.HOUR), (Span.HOUR, Span.MINUTE)):
        if not places.get(span):
            continue
        rows = await connection.fetch(
            "SELECT at, summed_until FROM activity_stale WHERE step = $1 AND at = ANY($2::integer[])",
            STALE[span],
            places[span],
        )
        summed_until = {row["at"]: row["summed_until"] for row in rows}
        places[span] = [at for at in places[span] if summed_until.get(at, 0) is not None]
        count = MINUTES[span] // MINUTES[shorter]
        places[shorter] = [
            part
            for at, until in sorted(summed_until.items())
            for part in range(max(at * count, until or 0), (at + 1) * count)
        ]
    return places


async def _names(connection: Connection, group_by: UsageGroup | None, parts: Iterable[object]) -> Mapping[object, str]:
    """Return the ids of keys, users or tools, or the names of callers, by what has the same value in their facts."""
    if group_by is None:
        return {}
    if group_by is UsageGroup.USER:
        return {part: str(part) for part in parts}
    rows: list[asyncpg.Record] = await connection.fetch(_NAMES[group_by], list(parts))
    special = {NO_TOOL: "", OTHER: OTHER_TOOLS} if group_by is UsageGroup.TOOL else {}
    return {row["number"]: row["id"] for row in rows} | special
