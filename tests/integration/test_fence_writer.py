"""Writers on a real Postgres: which readers a change waits for before it returns."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import fence
from tests.support.clock import FakeClock
from tests.support.fence import LONG, epoch, insert_laggard, readers, until_true, warm
from tests.support.fleet import Process, process, until
from tests.support.rows import insert

if TYPE_CHECKING:
    import asyncpg

    from skilder_keys.domain.keys import Key

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too


async def revoking(of: Process, key: Key) -> asyncio.Task[None]:
    """Start to revoke a key, and return once the writer has looked several times who lags behind that change."""
    waits = len(of.writer._waits)  # noqa: SLF001 - looks for earlier changes show nothing about this one
    task = asyncio.create_task(of.revoke(key))
    await until(lambda: task.done() or len(of.writer._waits) > waits)  # noqa: SLF001 - the same
    lent = of.database.lent
    await until(lambda: task.done() or of.database.lent > lent + 4)
    return task


async def test_a_writer_waits_until_every_reader_has_applied_its_change(writer: Process, sql: Sql) -> None:
    """The change is already committed; only the response waits."""
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
    assert await readers(sql) == set(slow), "readers that have applied the change stay"


async def test_a_writer_waits_for_a_dead_reader_for_its_lease_and_once(database_url: str, sql: Sql) -> None:
    """Exactly that long from the commit, by the writer's own clock; then the reader's row is gone."""
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


async def test_a_writer_waits_for_each_readers_own_lease(database_url: str, sql: Sql) -> None:
    """It is in the reader's row, whatever the writer's own lease is."""
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


async def test_a_reader_that_applied_the_change_late_is_not_evicted(writer: Process, sql: Sql) -> None:
    """The statement that evicts checks again."""
    slow, quick = await insert_laggard(sql, LONG), await insert_laggard(sql, LONG)
    await sql.execute("UPDATE reader SET epoch = 5 WHERE id = $1", quick)
    async with writer.database.connection() as connection:
        await fence.evict(connection, [slow, quick], 5)
    assert await readers(sql) == {quick}


async def test_a_writer_does_not_wait_for_a_reader_that_came_later(writer: Process, sql: Sql) -> None:
    """It starts from an epoch that includes the change."""
    key, _ = await writer.issue()
    await writer.revoke(key)
    await insert(sql, "reader", id=uuid4(), epoch=await epoch(sql), lease_seconds=LONG)
    lent = writer.database.lent
    await writer.revoke(key)
    assert writer.database.lent == lent + 2


async def test_a_process_that_hung_decides_nothing_by_the_old_state(database_url: str) -> None:
    """When the writer has returned, its lease has run out; it reads Postgres, as any process without a lease."""
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


async def test_a_dead_reader_is_evicted_even_if_no_caller_waits_long_enough(writer: Process, sql: Sql) -> None:
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
            pytest.fail("no revocation ever returned")
    assert await readers(sql) == set()


async def test_changes_that_come_together_share_waits(
    writer: Process, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many there are: a look is one statement for all of them, and only a few waits go on at once."""
    keys = [(await writer.issue())[0] for _ in range(100)]
    laggard = await insert_laggard(sql, LONG)
    looks, look = 0, fence.look

    async def counted(*arguments: Any) -> fence.Look:
        nonlocal looks
        looks += 1
        return await look(*arguments)

    monkeypatch.setattr(fence, "look", counted)
    before = len(writer.waits)
    tasks = [asyncio.create_task(writer.revoke(key)) for key in keys]
    await until_true(sql, "SELECT count(*) = 100 FROM key WHERE revoked_at IS NOT NULL")
    seen = looks
    await until(lambda: looks > seen + 3)
    assert not any(task.done() for task in tasks)
    lent, seen = writer.database.lent, looks
    await until(lambda: looks > seen + 10)
    assert writer.database.lent - lent <= looks - seen + 1, "nothing but looks"
    await sql.execute("UPDATE reader SET epoch = $2 WHERE id = $1", laggard, await epoch(sql))
    seen = looks  # not before, since looks go on while the row is updated
    await asyncio.gather(*tasks)
    assert looks - seen <= 4
    assert len(writer.waits) - before <= 9


async def test_a_change_does_not_wait_for_less_because_others_wait(database_url: str, sql: Sql) -> None:
    """Each wait counts from its own look: a reader that acknowledged the earlier change may not know the later one."""
    clock = FakeClock()
    async with process(database_url, clock=clock) as writer:
        await writer.apply()
        (one, _), (two, _) = await writer.issue(), await writer.issue()
        slow = await insert_laggard(sql, 2.0)
        first = await revoking(writer, one)
        clock.now += 1.0
        between = await epoch(sql)
        second = await revoking(writer, two)
        await sql.execute("UPDATE reader SET epoch = $1", between)
        await first
        clock.now += 1.5
        lent = writer.database.lent
        await until(lambda: writer.database.lent > lent + 3)
        assert not second.done()
        assert await readers(sql) == {slow}
        clock.now += 0.5
        await second
        assert await readers(sql) == set()


async def test_a_failed_look_fails_the_changes_that_wait(
    writer: Process, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no later one."""
    keys = [(await writer.issue())[0] for _ in range(4)]
    await insert_laggard(sql, LONG)
    tasks = [await revoking(writer, key) for key in keys[:3]]

    async def failing(*_: object) -> fence.Look:
        raise UnavailableError

    with monkeypatch.context() as patch:
        patch.setattr(fence, "look", failing)
        results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [UnavailableError] * 3
    await sql.execute("DELETE FROM reader")
    await writer.revoke(keys[3])
