"""Lists and streams of events stay fast: they read about as many events as they return, of no other workspace."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.domain.audit_events import AuditAction, EventFilter
from skilder_keys.domain.event_positions import NumberPosition, Snapshot, SnapshotPosition
from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.storage import audit_chain, audit_events, audit_prune, event_streams
from skilder_keys.storage.audit_events import SCANNED
from tests.support.many_keys import STATISTICS
from tests.support.plans import plans
from tests.support.postgres import new_database
from tests.support.together import TOGETHER_IF_SHORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too(in_turn=True)

LIMIT = 101
ACME = WorkspaceId("acme")
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
EVENTS = 20_000
# Of 20,000 events of `acme`, one a minute, every third is of a key of one of 200 users, and as many were made by them;
# the others by a console. A key has ten. Between them, 2,000 other workspaces have five each, by the same caller.
ROWS = """
SET session_replication_role = replica;
INSERT INTO workspace (id, name, version) SELECT 'w' || n, 'W', 1 FROM generate_series(1, 2000) AS n;
INSERT INTO workspace (id, name, version) VALUES ('acme', 'Acme', 1);
ALTER TABLE audit_event DROP CONSTRAINT IF EXISTS audit_event_key_id_fkey;
ALTER TABLE audit_event DISABLE TRIGGER audit_event_divert;
INSERT INTO audit_event (at, action, workspace_id, key_id, caller, actor, peer, details, number, hash, salt,
                         transaction)
SELECT timestamptz '2026-01-01Z' + make_interval(mins => n),
       CASE WHEN n % 7000 = 5 THEN 'workspace.deleted' ELSE 'key.updated' END,
       CASE WHEN n % 3 < 2 THEN 'acme' ELSE 'w' || n / 3 % 2000 + 1 END,
       ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n / 10), 12, '0'))::uuid,
       'console', CASE WHEN n % 3 = 1 THEN 'u' || n / 3 % 200 END, 'ipv4:127.0.0.1:1',
       CASE WHEN n % 3 = 0 THEN jsonb_build_object('user_id', 'u' || n / 3 % 200) ELSE '{}' END,
       CASE WHEN n % 3 < 2 THEN n / 3 * 2 + n % 3 + 1 ELSE n / 6000 + 1 END,
       sha256(n::text::bytea), substr(sha256(n::text::bytea), 1, 16), (n / 100 + 3)::text::xid8
FROM generate_series(0, 29999) AS n;
INSERT INTO audit_head (workspace_id, number, hash)
SELECT workspace_id, max(number), sha256('') FROM audit_event GROUP BY workspace_id;
ALTER TABLE audit_event ENABLE ALWAYS TRIGGER audit_event_divert;
RESET session_replication_role
"""
LISTS: dict[str, EventFilter] = {
    "all": EventFilter(),
    "of a key": EventFilter(key_id="0198c2f4-7c3e-7000-8000-000000000100"),
    "of a user": EventFilter(user_id=UserId("u77")),
    "by a user": EventFilter(by=Principal(PrincipalKind.USER, "u77")),
    "by a caller": EventFilter(by=Principal(PrincipalKind.CALLER, "console")),
}
SEARCHES: dict[str, EventFilter] = {
    "rare actions": EventFilter(actions=(AuditAction.WORKSPACE_DELETED,)),
    "of a caller, rare": EventFilter(
        by=Principal(PrincipalKind.CALLER, "console"), actions=(AuditAction.WORKSPACE_DELETED,)
    ),
}


@pytest.fixture(scope="module", params=STATISTICS)
async def events(postgres_url: str, template: str, request: pytest.FixtureRequest) -> AsyncIterator[Sql]:
    """A database with many events, which no test changes."""
    async with new_database(postgres_url, template) as url:
        connection = await asyncpg.connect(url)
        await connection.execute(ROWS)
        if request.param == "analysed":
            await connection.execute("ANALYZE audit_event")
        yield connection
        await connection.close()


async def rows_read(sql: Sql, run: Callable[[Any], Awaitable[object]]) -> int:
    """Return how many events a function reads; it reads them by indexes only, from the first of them on."""
    found = await plans(sql, run, "generic", analyze=True)
    assert not any("Seq Scan" in plan.scans("audit_event") for plan in found), found
    rows = sum(plan.rows_read("audit_event") for plan in found)
    # An event that is looked up is in three blocks of an index at most, and in one of the table.
    assert sum(plan.blocks_read("audit_event") for plan in found) <= 4 * rows + 40
    return rows


async def listed(sql: Sql, event_filter: EventFilter, before: int | None = None) -> int:
    """Return how many events a page reads."""
    return await rows_read(
        sql,
        lambda connection: audit_events.list_page(connection, ACME, event_filter, before=before, limit=LIMIT),
    )


@pytest.mark.parametrize("before", [None, 15_000, 5], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", LISTS)
@TOGETHER_IF_SHORT
async def test_a_page_reads_the_events_that_it_shows(events: Sql, name: str, before: int | None) -> None:
    """Each twice: by an index that has them in order, and by its id."""
    assert await listed(events, LISTS[name], before) <= 2 * LIMIT + 1


@pytest.mark.parametrize("name", SEARCHES)
async def test_a_search_reads_a_bounded_number_of_events(events: Sql, name: str) -> None:
    """However rare they are."""
    assert await listed(events, SEARCHES[name]) <= SCANNED + LIMIT


async def test_times_are_found_by_halves(events: Sql) -> None:
    """A page of a range of time reads nothing that is days away from it."""
    day = timedelta(days=1)
    for begin in (BEGAN, BEGAN + 10 * day):
        some = EventFilter(after=begin, before=begin + day)
        assert 0 < await listed(events, some) <= 3 * 24 * 60 + LIMIT + 100
        found, end = await audit_events.list_page(events, ACME, some, before=None, limit=10)
        assert len(found) == 10
        assert timedelta(0) < begin + day - found[0].at <= timedelta(minutes=2)
        assert end is not None


async def test_a_stream_reads_what_is_new(events: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of its workspace, or of all; and to see that there is nothing, no more than that."""
    position = NumberPosition(EVENTS - 50)
    everything = EventFilter()
    read = await rows_read(events, lambda sql: event_streams.read_after(sql, ACME, everything, position))
    assert read == 2 * 50
    assert await rows_read(events, lambda sql: event_streams.has_after(sql, ACME, NumberPosition(EVENTS))) == 0
    seen = SnapshotPosition(Snapshot("302:302:", 29_900, 302, ""), 29_900)
    assert await rows_read(events, lambda sql: event_streams.has_unseen(sql, seen)) <= 1
    # The first one, then each by its id, twice; and the newest one.
    read = await rows_read(events, lambda sql: event_streams.read_unseen(sql, everything, seen))
    assert 100 <= read <= 3 * 100 + 1
    # No more where very many are unseen; and to go on there, not all are counted.
    early = SnapshotPosition(Snapshot("3:3:", 0, 3, ""), 0)
    read = await rows_read(events, lambda sql: event_streams.read_unseen(sql, everything, early))
    assert event_streams.MOST <= read <= 2 * event_streams.MOST + 2
    monkeypatch.setattr(event_streams, "COUNTED", 500)
    read = await rows_read(events, lambda sql: event_streams.is_continued(sql, early))
    assert 500 <= read <= 501 + 2
    nothing = SnapshotPosition(Snapshot("303:303:", 30_000, 303, ""), 30_000)
    assert await rows_read(events, lambda sql: event_streams.has_unseen(sql, nothing)) == 0


async def test_a_check_and_a_prune_read_what_they_are_about(events: Sql) -> None:
    """The workspaces with events are found by one event of each, and what is pruned by as many as are removed."""
    workspaces = await events.fetchval("SELECT count(DISTINCT workspace_id) FROM audit_event")
    assert await rows_read(events, audit_chain.heads) <= workspaces + 1
    newest = BEGAN + timedelta(days=1)
    older = await audit_prune.last_before(events, ACME, newest)
    assert await rows_read(events, lambda sql: audit_prune.last_before(sql, ACME, newest)) <= older + 1
    begun = events.transaction()
    await begun.start()
    try:
        await events.execute("UPDATE audit_head SET pruned_id = 9000, pruned_number = 1 WHERE workspace_id = 'acme'")
        assert (
            0 < await rows_read(events, lambda sql: audit_prune.remove(sql, ACME, 100)) <= 3 * 100
        )  # found, looked up, removed
    finally:
        await begun.rollback()


class Reading:
    """A connection whose cursors are plain queries, since the driver does not report the statement of a cursor."""

    def __init__(self, sql: Sql) -> None:
        self._sql = sql
        self.execute = sql.execute

    async def cursor(self, query: str, *values: object) -> Reading:
        """Run a query."""
        self._rows = await self._sql.fetch(query, *values)
        return self

    async def fetch(self, _: int) -> list[Any]:
        """Return the rows, once."""
        rows, self._rows = self._rows, []
        return rows


async def test_a_check_reads_the_chain_in_order(events: Sql) -> None:
    """Nothing is sorted, so a cursor returns the first events at once; and nothing of what comes before is read."""

    async def chained(sql: Any) -> None:
        assert [len(each) async for each in audit_chain.chained(Reading(sql), ACME, EVENTS - 300)] == [300]  # type: ignore[arg-type]

    async def older(sql: Any) -> None:
        assert [each async for each in audit_chain.older(Reading(sql), ACME)] == []  # type: ignore[arg-type]

    for read, most in ((chained, 300), (older, EVENTS)):
        (plan,) = await plans(events, read, "custom", analyze=True)
        assert not plan.kinds() & {"Sort", "Incremental Sort"}, plan
        assert plan.rows_read("audit_event") <= most, plan
