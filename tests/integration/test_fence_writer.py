"""Writers on a real Postgres: for whom a change waits before its maker is told that it is made."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from skilder_keys.storage import fence
from tests.support.clock import FakeClock
from tests.support.fence import LONG, epoch, insert_laggard, readers, until_true, warm
from tests.support.fleet import Process, process, until
from tests.support.rows import insert

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from skilder_keys.domain.keys import Key

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[Process]:
    """A process that only changes things: it has no lease, and no row."""
    async with process(database_url) as made:
        await made.apply()
        yield made


async def revoking(of: Process, key: Key) -> asyncio.Task[None]:
    """Start to revoke a key, and return once it has asked several times who lags."""
    lent = of.database.lent
    task = asyncio.create_task(of.revoke(key))
    await until(lambda: task.done() or of.database.lent > lent + 6)
    return task


async def test_a_writer_waits_until_every_reader_has_applied_its_change(writer: Process, sql: Sql) -> None:
    """The change is committed meanwhile; only the answer waits."""
    key, _ = await writer.issue()
    slow = [await insert_laggard(sql, LONG) for _ in range(2)]
    task = await revoking(writer, key)
    assert not task.done()
    assert await sql.fetchval("SELECT revoked_at IS NOT NULL FROM key WHERE id = $1", key.id)
    await sql.execute("UPDATE reader SET epoch = $2 WHERE id = $1", slow[0], await epoch(sql))
    lent = writer.database.lent
    await until(lambda: writer.database.lent > lent + 3)
    assert not task.done()
    await sql.execute("UPDATE reader SET epoch = $2 WHERE id = $1", slow[1], await epoch(sql))
    await task
    assert await readers(sql) == set(slow), "who has applied it stays"


async def test_a_writer_waits_for_a_dead_reader_for_its_lease_and_once(database_url: str, sql: Sql) -> None:
    """Counted from the commit by the writer's own clock, to the moment; then the reader's row is gone."""
    clock = FakeClock()
    async with process(database_url, clock=clock) as writer:
        await writer.apply()
        (one, _), (two, _) = await writer.issue(), await writer.issue()
        dead = await insert_laggard(sql, 2.0)
        task = await revoking(writer, one)
        clock.now = math.nextafter(clock.now + 2.0, 0)
        lent = writer.database.lent
        await until(lambda: writer.database.lent > lent + 3)
        assert not task.done()
        assert await readers(sql) == {dead}
        clock.now = 1002.0
        await task
        assert await readers(sql) == set()
        lent = writer.database.lent
        await writer.revoke(two)
        assert writer.database.lent == lent + 2, "one connection for the change, one to see that nobody lags"
        assert writer.waits[-2:] == [2.0, 0.0]


async def test_a_reader_is_waited_for_by_its_own_lease(database_url: str, sql: Sql) -> None:
    """Which stands in its row, whatever the writer's own is."""
    clock = FakeClock()
    async with process(database_url, clock=clock, lease=2.0) as writer:
        await writer.apply()
        key, _ = await writer.issue()
        short, long = await insert_laggard(sql, 0.5), await insert_laggard(sql, 10.0)
        task = await revoking(writer, key)
        assert await readers(sql) == {short, long}
        clock.now += 2.0
        await until_true(sql, "SELECT count(*) = 1 FROM reader")
        assert await readers(sql) == {long}
        clock.now += 7.9
        lent = writer.database.lent
        await until(lambda: writer.database.lent > lent + 3)
        assert not task.done()
        clock.now += 0.1
        await task
        assert await readers(sql) == set()


async def test_a_reader_that_has_applied_the_change_after_all_is_spared(writer: Process, sql: Sql) -> None:
    """Whoever evicts looks again in the same statement."""
    slow, quick = await insert_laggard(sql, LONG), await insert_laggard(sql, LONG)
    await sql.execute("UPDATE reader SET epoch = 5 WHERE id = $1", quick)
    async with writer.database.connection() as connection:
        await fence.evict(connection, [slow, quick], 5)
    assert await readers(sql) == {quick}


async def test_a_reader_that_comes_later_is_not_waited_for(writer: Process, sql: Sql) -> None:
    """It starts from an epoch that has the change in it."""
    key, _ = await writer.issue()
    await writer.revoke(key)
    await insert(sql, "reader", id=uuid4(), epoch=await epoch(sql), lease_seconds=LONG)
    lent = writer.database.lent
    await writer.revoke(key)
    assert writer.database.lent == lent + 2


async def test_a_process_that_hangs_answers_nothing_old_once_the_writer_has_its_answer(database_url: str) -> None:
    """Its lease has run out by then; it reads Postgres, as any process that has none."""
    async with process(database_url, lease=0.5) as hung, process(database_url) as writer:
        await writer.apply()
        await hung.follow()
        key, token = await writer.issue()
        await warm(hung, token)
        await hung.freeze()
        assert await hung.outcome(token) == "granted"
        await writer.revoke(key)
        assert await hung.outcome(token) == "REVOKED"
        assert not hung.lease.valid()


async def test_a_dead_reader_is_struck_off_though_no_writer_has_the_patience(writer: Process, sql: Sql) -> None:
    """Callers with short deadlines, one after the other, must not wait for it for ever."""
    key, _ = await writer.issue()
    await insert_laggard(sql, 1.0)
    async with asyncio.timeout(60):
        for _ in range(20):
            try:
                async with asyncio.timeout(0.5):
                    await writer.revoke(key)
            except TimeoutError:
                continue
            break
        else:
            pytest.fail("no revocation was ever answered")
    assert await readers(sql) == set()
