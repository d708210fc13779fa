"""Reading activity stays fast: it reads few facts, by the primary keys, of one workspace."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.app.enums import DENIAL_REASONS
from skilder_keys.domain.activity import ActivityFilter, Span, UsageGroup, UsageQuery, Verdict
from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.storage import activity_kept
from skilder_keys.storage.activity_pages import Range, position_of, read_page
from skilder_keys.storage.activity_search import SETTINGS, search_for
from skilder_keys.storage.activity_usage import read_usage
from tests.support.activity_facts import roll_up
from tests.support.lengths import by_form
from tests.support.many_keys import JIT_COST, LIMIT, STATISTICS, key_id
from tests.support.plans import plans
from tests.support.postgres import new_database
from tests.support.together import TOGETHER_IF_SHORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from skilder_keys.storage.database import Connection

pytestmark = pytest.mark.stock_too(in_turn=True)

ACME = WorkspaceId("acme")
KEYS, OTHERS = 40, by_form(100, 300, 1_000)
# The times of day at which it is read: at the first, today has hardly begun.
TIMES = [time(0, 50), time(13, 40)]
# In each of the last 100 minutes and at the full hours of ten days, 40 keys of `acme` use two tools each; and so do as
# many keys of other workspaces as there are here. Every tenth call is denied. The keys 4, 8, … are of users.
FACTS = """
INSERT INTO activity_workspace (id) SELECT 'w' || n FROM generate_series(1, 2000) AS n;
INSERT INTO activity_workspace (id) VALUES ('acme');
INSERT INTO activity_tool (id) VALUES ('slack.post'), ('web.search'), ('never.used');
INSERT INTO activity_caller (name) VALUES ('gateway'), ('console');
INSERT INTO activity_key (key_id, workspace)
SELECT key.id, activity_workspace.number FROM key JOIN activity_workspace ON activity_workspace.id = key.workspace_id
WHERE key.id IN (SELECT ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid
                 FROM generate_series(1, {keys}) AS n UNION ALL
                 SELECT ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid
                 FROM generate_series(20001, 20000 + {others}) AS n)
ORDER BY key.id;
CREATE TEMP TABLE times AS
SELECT {minute} - n AS at FROM generate_series(1, 100) AS n
UNION
SELECT {minute} / 60 * 60 - n * 60 FROM generate_series(2, 240) AS n;
SELECT make_activity_partition(parent, at / length)
FROM (SELECT DISTINCT at / 1440 * 1440 AS at FROM times) AS days,
     (VALUES ('activity_minute', 1), ('activity_hour', 60), ('activity_day', 1440)) AS tables (parent, length);
INSERT INTO activity_minute (at, workspace, key, tool, caller, outcome, count, first_ms, last_ms)
SELECT times.at, activity_key.workspace, activity_key.number, activity_tool.number, 1,
       CASE WHEN (times.at + activity_key.number) % 10 = 0 THEN 6 ELSE 0 END, 5, 0, 59000
FROM times, activity_key, activity_tool WHERE activity_tool.id <> 'never.used';
INSERT INTO activity_stale
SELECT DISTINCT step, at / length FROM times, (VALUES (1, 60), (2, 1440)) AS steps (step, length);
""".replace("{keys}", str(KEYS)).replace("{others}", str(OTHERS))


@dataclass(frozen=True, slots=True)
class Busy:
    """A database with activity, and the time until which it has some."""

    sql: asyncpg.Connection[Any]
    now: datetime


@pytest.fixture(
    scope="module",
    params=[(each, at) for each in STATISTICS for at in by_form(TIMES[1:], TIMES)],
    ids=lambda each: f"{each[0]}-{each[1]:%H:%M}",
)
async def busy(postgres_url: str, filled: str, request: pytest.FixtureRequest) -> AsyncIterator[Busy]:
    """A database with activity of two weeks, all but the last hours rolled up, which no test changes."""
    statistics, time_of_day = request.param
    now = datetime.combine(datetime.now(UTC) - timedelta(days=1), time_of_day, UTC)
    async with new_database(postgres_url, filled) as url:
        connection = await asyncpg.connect(url)
        try:
            seconds = int(now.timestamp())
            await connection.execute(FACTS.replace("{minute}", str(seconds // 60)))
            but = {(1, seconds // 3600), (1, seconds // 3600 - 1), (2, seconds // 86400), (2, seconds // 86400 - 1)}
            await roll_up(connection, but)
            if statistics == "analysed":
                await connection.execute("VACUUM ANALYZE")
            yield Busy(connection, now)
        finally:
            await connection.close()


Read = Callable[["Connection", datetime], Awaitable[object]]


def page(*, after: bool = False, until: timedelta | None = None, **fields: Any) -> Read:
    """Return what reads a page of activity of `acme` until some time ago; with `after`, the one after the first."""

    async def read(sql: Connection, now: datetime) -> object:
        wanted = ActivityFilter(ACME, before=None if until is None else now - until, **fields)
        kept = replace(await activity_kept.read(sql), now=now)
        search = await search_for(sql, wanted, DENIAL_REASONS)
        assert search is not None
        await sql.execute(SETTINGS)
        minutes = wanted.minutes(kept.now)
        within = Range(
            minutes.start, minutes.stop, {span: Span.MINUTE.number(each) for span, each in kept.oldest.items()}
        )
        found = await read_page(sql, search, within, after=None, limit=LIMIT)
        if after:
            found = await read_page(sql, search, within, after=position_of(found.rows[-1]), limit=LIMIT)
        return found

    return read


def usage(step: Span, ago: timedelta, group_by: UsageGroup, **fields: Any) -> Read:
    """Return what sums up usage of `acme` since some time."""

    async def read(sql: Connection, now: datetime) -> object:
        kept = replace(await activity_kept.read(sql), now=now)
        query = UsageQuery(ActivityFilter(ACME, after=kept.now - ago, **fields), step, group_by, 20)
        search = await search_for(sql, query.filter, DENIAL_REASONS)
        assert search is not None
        await sql.execute(SETTINGS)
        start, end = map(step.number, query.window(kept))
        found = await read_usage(sql, search, step, range(start, end), group_by, query.series)
        assert found.rows
        return found

    return read


DAY = Span.DAY.value
_ONE = str(key_id(7))
# What is read, and the most facts of minutes, hours and days. A minute of `acme` has 80 facts, as has an hour of most
# days; a day has 80 or, as some calls are denied, 160. Two hours are not rolled up, nor are today and yesterday.
READS: dict[str, tuple[Read, tuple[int, int, int]]] = {
    "newest": (page(), (5 * LIMIT, 30, 0)),
    "older": (page(after=True), (7 * LIMIT, 60, 0)),
    "newest of a key": (page(key_id=_ONE), (2 * 340, 2 * 48, 30)),
    "newest of a user": (page(user_id=UserId("u4")), (2 * 340, 2 * 48, 30)),
    "newest denied": (page(verdict=Verdict.DENIED), (80 * 340, 80 * 30, 0)),
    "of a tool that was never used": (page(tool_id="never.used"), (0, 0, 0)),
    "of a key, days ago": (page(key_id=_ONE, until=6 * DAY), (150, 150, 30)),
    "a key by hour": (usage(Span.HOUR, 10 * DAY, UsageGroup.KEY, key_id=_ONE), (2 * 120, 2 * 240, 0)),
    "keys of a day": (usage(Span.DAY, timedelta(0), UsageGroup.KEY), (80 * 120, 80 * 24, 0)),
    "users by day": (usage(Span.DAY, 10 * DAY, UsageGroup.USER), (80 * 120, 80 * 48, 160 * 10)),
    "tools by minute": (usage(Span.MINUTE, timedelta(minutes=60), UsageGroup.TOOL), (80 * 61, 0, 0)),
}


@pytest.mark.parametrize("name", READS)
@TOGETHER_IF_SHORT
async def test_a_read_is_by_the_primary_key_and_of_one_workspace(busy: Busy, name: str) -> None:
    """With the plan that is made for any values, which each connection keeps."""
    read, most = READS[name]
    found = await plans(busy.sql, lambda sql: read(sql, busy.now), "generic", analyze=True)
    counts = dict.fromkeys(("activity_minute", "activity_hour", "activity_day"), 0.0)
    for plan in found:
        if "fact.workspace" not in plan.query:
            continue
        assert plan.cost < JIT_COST, plan
        for node in plan.nodes():
            table = "_".join(str(node.get("Relation Name")).split("_")[:2])
            if table not in counts:
                continue
            assert node["Node Type"] in {"Index Scan", "Index Only Scan"}, plan
            assert node["Index Cond"].startswith("((at = place"), plan
            assert "workspace = " in node["Index Cond"], plan
            counts[table] += (node["Actual Rows"] + node.get("Rows Removed by Filter", 0)) * node["Actual Loops"]
    for table, limit in zip(counts, most, strict=True):
        # The numbers of rows are rounded for each look.
        assert counts[table] <= limit * 1.1, (name, counts)
