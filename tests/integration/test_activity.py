"""Activity: every decision of the service is in the facts, once, however the database and the connection behave."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.app.activity.counter import ActivityCounter, Cell
from skilder_keys.app.activity.fold import ActivityFold
from skilder_keys.app.activity.writer import ROW_CELLS, ActivityWriter
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.token import KeyType, Token, hint
from skilder_keys.storage import activity_journal, activity_lag
from skilder_keys.storage.activity_partitions import Retention
from tests.support.activity import facts, fold_all, present_minute
from tests.support.clock import FakeClock
from tests.support.ids import new_key_id
from tests.support.log import CapturedLog
from tests.support.rows import insert, insert_key
from tests.support.service import Service, serving
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from uuid import UUID

    import asyncpg

    from skilder_keys.storage.activity_journal import Appended, JournalRow
    from skilder_keys.storage.database import Connection, Database
    from tests.support.proxy import Proxy

_LONG = 60.0
"""An interval that does not end within a test."""


@asynccontextmanager
async def counting(database_url: str, folder: Path, transport: str) -> AsyncIterator[Service]:
    """Serve the small workspace, and write activity at the end only."""
    async with serving(
        database_url, folder, transport=transport, activity_interval=_LONG, activity_fold_interval=_LONG
    ) as service:
        await service.operator.apply(small_workspace())
        yield service


async def counts(sql: asyncpg.Connection[Any]) -> Counter[tuple[str, str | None, str, int, str]]:
    """Return the counts by key, tool, caller, outcome and source, of all minutes together."""
    found: Counter[tuple[str, str | None, str, int, str]] = Counter()
    for cells in (await facts(sql)).values():
        for cell in cells:
            found[str(cell.key), cell.tool, cell.caller, cell.outcome, cell.source] += cell.count
    return found


async def test_every_decision_counts_once(
    transport: str, database_url: str, tmp_path: Path, sql: asyncpg.Connection[Any], database: Database
) -> None:
    """On the fast path, in the pipeline, in a batch and in a stream; the drain writes all of them."""
    async with counting(database_url, tmp_path, transport) as service:
        issued = await service.operator.issue()
        other = await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})
        token, key, narrow = issued.token, issued.key.id, other.key.id
        expected: Counter[tuple[str, str | None, str, int, str]] = Counter()
        for _ in range(20):
            await service.service.authorize(token)
        expected[key, "", "service", 0, ""] = 20
        for _ in range(3):
            await service.service.authorize(token, tool_id="slack.post", source_ip="10.1.2.3")
            await service.service.authorize(token, tool_name={"mcp_server": "slack", "name": "slack_post_message"})
        expected[key, "slack.post", "service", 0, "10.1.2.3"] = 6
        await service.operator.authorize(token, mcp_server="slack")
        await service.operator.read_tool_set(token)
        expected[key, "", "operator", 0, ""] = 2
        assert await service.service.denial(other.token, tool_id="slack.post") == "TOOL_NOT_ALLOWED"
        assert await service.service.denial(other.token, tool_id="git.push") == "TOOL_NOT_ALLOWED"
        assert await service.service.denial(other.token, tool_id="made.up") == "TOOL_NOT_ALLOWED"
        named = {"mcp_server": "slack", "name": "slack_post_message"}
        assert await service.service.denial(other.token, tool_name=named) == "TOOL_NOT_ALLOWED"
        expected[narrow, "slack.post", "service", 6, ""] = 2
        expected[narrow, "git.push", "service", 6, ""] = 1
        expected[narrow, None, "service", 6, ""] = 1
        unknown = Token.mint(KeyType.USER, KeyId(new_key_id()))
        batch = [pb.AuthorizeRequest(token=each) for each in (token, token, other.token, unknown.reveal(), "x")]
        await service.service.authorization.BatchAuthorize(pb.BatchAuthorizeRequest(requests=batch))
        expected[key, "", "service", 0, ""] += 2
        expected[narrow, "", "service", 0, ""] = 1
        assert await service.service.denial(unknown.reveal()) == "UNKNOWN"
        await service.operator.revoke(key_id=key)
        for _ in range(2):
            assert await service.service.denial(token) == "REVOKED"
        expected[key, "", "service", 3, ""] = 2
        failing = [pb.AuthorizeRequest(token=token), pb.AuthorizeRequest(token=token, source_ip="no address")]
        with pytest.raises(Exception, match="source_ip"):
            await service.service.authorization.BatchAuthorize(pb.BatchAuthorizeRequest(requests=failing))
    await fold_all(database)
    assert await counts(sql) == expected
    unproven = await sql.fetch("SELECT outcome, hint, sum(count)::int FROM activity_unproven GROUP BY 1, 2 ORDER BY 1")
    assert [tuple(row) for row in unproven] == [(1, "", 1), (2, hint(KeyType.USER, unknown.key_id), 2)]
    used = await sql.fetchrow("SELECT host(source_ip) AS source, last_minute FROM key_use WHERE key_id = $1", key)
    assert used is not None
    assert used["source"] == "10.1.2.3"
    assert await present_minute(sql) - used["last_minute"] <= 2
    assert await sql.fetchval("SELECT count(*) FROM activity_writer") == 0


@GRPCIO_IF_SHORT
async def test_counts_are_written_and_folded_while_it_serves(
    transport: str, database_url: str, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """By the service itself, within the intervals."""
    async with serving(
        database_url, tmp_path, transport=transport, activity_interval=0.05, activity_fold_interval=0.1
    ) as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue()
        for _ in range(50):
            await service.service.authorize(issued.token, tool_id="slack.post")
        expected = Counter({(issued.key.id, "slack.post", "service", 0, ""): 50})
        async with asyncio.timeout(30):
            while await counts(sql) != expected:
                await asyncio.sleep(0.02)
        async with asyncio.timeout(30):
            while await service.metric("activity_folded_calls_total") != 50:
                await asyncio.sleep(0.02)
        assert await service.metric("activity_dropped_total", reason="late") == 0
        assert await service.metric("activity_dropped_total", reason="memory") == 0


@pytest.fixture
async def key(sql: asyncpg.Connection[Any]) -> UUID:
    """A key of `acme`."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    return await insert_key(sql)


class Worker:
    """What counts and writes in a worker, with a clock that the test sets."""

    def __init__(self, database: Database, **bounds: int) -> None:
        self.clock = FakeClock(1000.0)
        self.counter = ActivityCounter(self.clock, bounds.get("budget", 10_000), bounds.get("max_cells", 10_000))
        self.log = CapturedLog()
        self.writer = ActivityWriter(database, self.counter, self.log.logger, _LONG)

    def count(self, key: UUID, times: int = 1, tool: str = "") -> None:
        """Count grants of a key."""
        for _ in range(times):
            self.counter.count(KeyId(key), tool, "gateway", 0, "", self.clock())


@pytest.fixture
async def worker(far: Database) -> Worker:
    """A worker behind the proxy."""
    made = Worker(far)
    await made.writer.open()
    return made


async def total(sql: asyncpg.Connection[Any], database: Database) -> int:
    """Fold, and return how many calls are in the facts."""
    await fold_all(database)
    return int(await sql.fetchval("SELECT coalesce(sum(count), 0) FROM activity_minute"))


async def test_a_commit_whose_confirmation_is_lost_counts_once(
    worker: Worker, key: UUID, proxy: Proxy, sql: asyncpg.Connection[Any], database: Database
) -> None:
    """The connection breaks after the commit and before the worker hears of it; it sends the row again."""
    worker.count(key, 3)
    await worker.writer.flush()
    assert await total(sql, database) == 3
    worker.count(key, 5)
    proxy.slow(60)
    flushing = asyncio.create_task(worker.writer.flush())
    async with asyncio.timeout(30):
        while not await sql.fetchval("SELECT count(*) FROM activity_journal"):
            await asyncio.sleep(0.005)
    proxy.cut()
    with pytest.raises(UnavailableError):
        await flushing
    assert worker.counter.cells == 1
    proxy.resume()
    worker.count(key, 7)
    while worker.counter.cells:
        await worker.writer.flush()
    assert await total(sql, database) == 15


async def test_counts_wait_while_postgres_is_away(
    worker: Worker, key: UUID, proxy: Proxy, sql: asyncpg.Connection[Any], database: Database
) -> None:
    """In memory, within the bound, and are written with the minute in which they were counted."""
    proxy.stall()
    proxy.cut()
    for _ in range(3):
        worker.count(key, 2)
        with pytest.raises(UnavailableError):
            await worker.writer.flush()
        worker.clock.now += 60
    assert worker.counter.cells == 3
    assert worker.writer.lag >= 180
    proxy.resume()
    while worker.counter.cells:
        await worker.writer.flush()
    assert worker.writer.lag == 0
    minutes = [row["minute"] for row in await sql.fetch("SELECT minute FROM activity_journal ORDER BY id")]
    assert minutes == [minutes[0], minutes[0] + 1, minutes[0] + 2]
    assert await total(sql, database) == 6


async def test_a_drain_tries_again(
    worker: Worker, key: UUID, proxy: Proxy, sql: asyncpg.Connection[Any], database: Database
) -> None:
    """Where Postgres is away for a moment while a worker ends."""
    worker.count(key, 3)
    proxy.stall()
    proxy.cut()
    closing = asyncio.create_task(worker.writer.close())
    await asyncio.wait({closing}, timeout=1.5)  # more than a connection may take
    proxy.resume()
    await closing
    assert worker.counter.cells == 0
    assert await total(sql, database) == 3
    assert worker.log.events == []


async def test_a_worker_that_is_not_known_registers_again(
    worker: Worker, key: UUID, sql: asyncpg.Connection[Any], database: Database
) -> None:
    """After a restore of the database; what was counted since is counted once."""
    worker.count(key, 2)
    await worker.writer.flush()
    await sql.execute("DELETE FROM activity_writer")
    worker.count(key, 3)
    await worker.writer.flush()
    await worker.writer.flush()
    await sql.execute("DELETE FROM activity_writer")
    worker.count(key, 4)
    await worker.writer.flush()
    assert await total(sql, database) == 9


async def test_many_cells_take_several_rows(
    worker: Worker, key: UUID, sql: asyncpg.Connection[Any], database: Database
) -> None:
    """Each of at most a thousand."""
    for number in range(2 * ROW_CELLS + 1):
        worker.count(key, 1, f"tool-{number}")
    await worker.writer.flush()
    sizes = await sql.fetch("SELECT cardinality(keys) AS cells FROM activity_journal ORDER BY id")
    assert [row["cells"] for row in sizes] == [ROW_CELLS, ROW_CELLS, 1]
    assert await total(sql, database) == 2 * ROW_CELLS + 1


async def test_a_flush_that_is_cancelled_loses_nothing(
    worker: Worker, key: UUID, sql: asyncpg.Connection[Any], database: Database
) -> None:
    """As at the end of a worker: the drain writes the rows that were not made yet."""
    for number in range(3 * ROW_CELLS):
        worker.count(key, 1, f"tool-{number}")
    flushing = asyncio.create_task(worker.writer.flush())
    async with asyncio.timeout(30):
        while not await sql.fetchval("SELECT count(*) FROM activity_journal"):
            await asyncio.sleep(0.005)
    flushing.cancel()
    await asyncio.wait({flushing})
    await worker.writer.close()
    assert await total(sql, database) == 3 * ROW_CELLS


async def test_new_counts_get_old_while_rows_are_written(
    worker: Worker, key: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise a collection of garbage would look at all of them at once, and hold the event loop for that time."""
    append = activity_journal.append

    async def counted(connection: Connection, writer: UUID, row: JournalRow) -> tuple[Appended, float]:
        if row.seq == 1:
            for number in range(2 * ROW_CELLS):
                worker.count(key, 1, f"other-{number}")
        return await append(connection, writer, row)

    monkeypatch.setattr(activity_journal, "append", counted)
    for number in range(2 * ROW_CELLS):
        worker.count(key, 1, f"tool-{number}")
    gc.disable()
    try:
        await worker.writer.flush()
        young = [each for generation in (0, 1) for each in gc.get_objects(generation) if isinstance(each, Cell)]
    finally:
        gc.enable()
    assert worker.counter.cells == 2 * ROW_CELLS
    assert young == []


async def test_a_worker_at_rest_writes_nothing(
    worker: Worker, key: UUID, sql: asyncpg.Connection[Any], database: Database
) -> None:
    """It says once that it rests, and all counts are known to be there."""
    versions = "SELECT xmin::text FROM activity_writer"
    writer = "SELECT counted_until, idle FROM activity_writer"
    before = await sql.fetchrow(writer)
    worker.clock.now += 3
    worker.count(key)
    await worker.writer.flush()
    after = await sql.fetchrow(writer)
    assert before is not None
    assert after is not None
    assert not after["idle"]
    assert after["counted_until"] - before["counted_until"] >= timedelta(seconds=3)
    await worker.writer.flush()
    resting = await sql.fetchval(versions)
    for _ in range(3):
        await worker.writer.flush()
    assert await sql.fetchval(versions) == resting
    await fold_all(database)
    async with database.snapshot() as connection:
        until = await activity_lag.counted_until(connection)
    lag = await sql.fetchval("SELECT extract(epoch FROM now() - $1)", until)
    assert lag < 2 * _LONG + 5


async def test_the_fold_rolls_up_and_drops(database: Database, key: UUID, sql: asyncpg.Connection[Any]) -> None:
    """One job does all of it: young rows wait, the hour that is over is rolled up, old partitions go away."""
    worker = Worker(database)
    await worker.writer.open()
    fold = ActivityFold(database, CapturedLog().logger, worker.clock, 10.0, Retention())
    await sql.execute("SELECT make_activity_partition('activity_minute', $1)", await present_minute(sql) - 5 * 1440)
    worker.count(key, 4)
    await worker.writer.flush()
    assert await fold.fold()
    assert fold.backlog.rows == 1
    assert await facts(sql) == {}
    await sql.execute("UPDATE activity_journal SET began_at = now() - interval '9 s', minute = minute - 180")
    async with database.transaction() as other:
        await other.execute("SELECT pg_advisory_xact_lock(hashtextextended('activity of public', 0))")
        assert not await fold.fold()
    assert await fold.fold()
    assert fold.calls == 4
    hours = await facts(sql, "activity_hour")
    assert [cell.count for cells in hours.values() for cell in cells] == [4]
    partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'activity_minute'::regclass"
    assert await sql.fetchval(partitions) == 3
