"""Readers on a real Postgres: how a process keeps its lease, and its memory up to date."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from skilder_keys.app.fence import upkeep
from skilder_keys.domain.revision import Revision
from skilder_keys.storage import fence
from tests.support.clock import FakeClock
from tests.support.fence import (
    CHANGE,
    LONG,
    epoch,
    insert_laggard,
    reader_id,
    readers,
    revoke_by_hand,
    until_true,
    warm,
)
from tests.support.fleet import Process, process, until

if TYPE_CHECKING:
    import asyncpg

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too


async def test_a_reader_registers_and_acknowledges_what_it_applied(reader: Process, sql: Sql) -> None:
    """Soon after each change its row has the epoch that its memory has applied."""
    first = await sql.fetchrow("SELECT id, epoch, lease_seconds FROM reader")
    assert first is not None
    assert (first["epoch"], first["lease_seconds"]) == (await epoch(sql), 2.0)
    assert reader.reader.mode == "cached"
    key, token = await reader.issue()
    await warm(reader, token)
    await revoke_by_hand(sql, key)
    await until_true(sql, "SELECT (SELECT epoch FROM fence) = (SELECT epoch FROM reader)")
    assert reader.lease.epoch == await epoch(sql) == first["epoch"] + 1
    assert len(reader.key_cache) == 0
    assert await reader_id(sql) == first["id"]


async def test_the_lease_counts_from_the_request_and_is_a_little_shorter(database_url: str) -> None:
    """By the process's own clock. A margin comes off for clocks that run at slightly different rates."""
    clock = FakeClock(50.0)
    async with process(database_url, clock=clock, lease=2.0) as made:
        assert made.reader.mode == "direct"
        await made.follow()
        await made.freeze()
        clock.now = 51.89
        assert made.lease.valid()
        clock.now = 51.91
        assert not made.lease.valid()
        assert made.reader.mode == "direct"


async def test_a_late_response_gives_a_lease_that_has_ended(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time it took is part of the lease, since a writer has been counting meanwhile."""
    clock, read = FakeClock(), asyncio.Event()
    original: Any = fence.heartbeat

    async def late(*arguments: Any) -> Any:
        result = await original(*arguments)
        clock.now += 5
        read.set()
        return result

    async with process(database_url, clock=clock) as made:
        await made.follow()
        await made.freeze()
        monkeypatch.setattr(fence, "heartbeat", late)
        made.following = asyncio.create_task(made.reader.run())
        await read.wait()
        assert not made.lease.valid()
        assert made.lease.age() == 5.0


async def nothing(*_: object) -> None:
    """Do not listen."""


async def test_a_registration_alone_gives_no_lease(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An earlier try may have written the row without waiting for a standby; only a heartbeat gives a lease."""
    asked = asyncio.Event()

    async def never(*_: object) -> None:
        asked.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(fence, "heartbeat", never)
    async with process(database_url) as made:
        made.following = asyncio.create_task(made.reader.run())
        await asked.wait()
        assert not made.lease.valid()


async def test_a_lease_is_renewed_only_once_all_changes_are_applied(
    database_url: str, monkeypatch: pytest.MonkeyPatch, sql: Sql
) -> None:
    """A reader that knows of a change but has not read it yet decides nothing from memory."""
    clock, asked, released = FakeClock(), asyncio.Event(), asyncio.Event()
    original = fence.changes_since

    async def slow(*arguments: Any) -> Any:
        asked.set()
        await released.wait()
        return await original(*arguments)

    # Without notifications the reader learns of the change from a heartbeat.
    monkeypatch.setattr(fence, "listen", nothing)
    async with process(database_url, clock=clock) as made:
        await made.apply()
        key, token = await made.issue()
        await made.follow()
        await warm(made, token)
        monkeypatch.setattr(fence, "changes_since", slow)
        await revoke_by_hand(sql, key)
        await asked.wait()
        clock.now += 2
        assert not made.lease.valid()
        assert (made.reader.known, made.lease.epoch) == (1, 0)
        assert await made.outcome(token) == "REVOKED"
        released.set()
        await until(made.lease.valid)
        assert await made.outcome(token) == "REVOKED"


async def test_an_evicted_reader_starts_over(reader: Process, sql: Sql) -> None:
    """With another id and an empty memory."""
    _, token = await reader.issue()
    await warm(reader, token)
    first = await reader_id(sql)
    await sql.execute("DELETE FROM reader")
    await until_true(sql, "SELECT EXISTS (SELECT FROM reader)")
    assert await reader_id(sql) != first
    assert len(reader.key_cache) == 0
    await warm(reader, token)


async def test_a_reader_starts_over_with_a_database_that_lost_changes(reader: Process, sql: Sql) -> None:
    """A restored database, whose epoch the reader passed long ago."""
    key, token = await reader.issue()
    for _ in range(3):
        await sql.execute(CHANGE)
    await until_true(sql, "SELECT (SELECT epoch FROM fence) = (SELECT epoch FROM reader)")
    await warm(reader, token)
    first = await reader_id(sql)
    await sql.execute("UPDATE fence SET epoch = 1")
    await sql.execute("DELETE FROM change")
    await until_true(sql, "SELECT EXISTS (SELECT FROM reader WHERE id <> $1)", first)
    await until(lambda: reader.lease.epoch == 1)
    assert await readers(sql) != {first}
    await warm(reader, token)
    await revoke_by_hand(sql, key)
    await until(lambda: reader.lease.epoch == 2)
    assert await reader.outcome(token) == "REVOKED"


async def test_a_reader_never_acknowledges_a_future_change(database_url: str, sql: Sql) -> None:
    """A reader from before a restore reports an epoch still to come, which no writer may count as its own."""
    id_ = uuid4()
    async with process(database_url) as made, made.database.connection() as connection:
        await fence.register(connection, id_, fence.Settings(2, None), instead_of=None)
        await sql.execute("UPDATE fence SET epoch = 6")
        tag = await sql.fetchval("SELECT tag FROM fence")
        assert await fence.heartbeat(connection, id_, Revision(10, tag)) is None
        assert [each.id for each in (await fence.look(connection, [])).laggards] in ([id_], [])
        assert await sql.fetchval("SELECT epoch FROM reader WHERE id = $1", id_) in (0, 6, None)


async def test_a_reader_starts_over_when_other_changes_replaced_lost_ones(reader: Process, sql: Sql) -> None:
    """Even if the database passed the reader's epoch again before the next heartbeat."""
    key, token = await reader.issue()
    for _ in range(3):
        await sql.execute(CHANGE)
    await until_true(sql, "SELECT (SELECT epoch FROM fence) = (SELECT epoch FROM reader)")
    await warm(reader, token)
    lost = await epoch(sql)
    await reader.freeze()
    await sql.execute("UPDATE fence SET epoch = $1", lost - 2)
    await sql.execute("UPDATE reader SET epoch = $1", lost - 2)
    await sql.execute("DELETE FROM change WHERE epoch > $1", lost - 2)
    await revoke_by_hand(sql, key)
    others = [(await reader.issue())[0] for _ in range(2)]
    for other in others:
        await revoke_by_hand(sql, other)
    assert await epoch(sql) == lost + 1
    await reader.follow()
    await until(lambda: reader.lease.epoch == lost + 1)
    assert await reader.outcome(token) == "REVOKED"


@pytest.mark.parametrize("pruned", ["some", "all"])
async def test_a_reader_that_missed_changes_starts_over(reader: Process, sql: Sql, pruned: str) -> None:
    """Where some or all of them were removed before it could read them."""
    key, token = await reader.issue()
    await warm(reader, token)
    first = await reader_id(sql)
    async with sql.transaction():
        await revoke_by_hand(sql, key)
        await sql.execute("SET CONSTRAINTS ALL IMMEDIATE")
        await sql.execute(CHANGE)
        removed = "(SELECT min(epoch) FROM change)" if pruned == "some" else "(SELECT max(epoch) FROM change)"
        await sql.execute(f"DELETE FROM change WHERE epoch <= {removed}")  # noqa: S608 - constants
    await until_true(sql, "SELECT EXISTS (SELECT FROM reader WHERE id <> $1)", first)
    await warm(reader, token)
    assert await reader.outcome(token) == "REVOKED"
    assert reader.lease.epoch == await epoch(sql)


async def test_a_reader_applies_more_changes_than_one_query_returns(
    reader: Process, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one query after the other, until it is up to date."""
    monkeypatch.setattr(fence, "_MAX_TOUCHES", 3)
    first = await reader_id(sql)
    async with sql.transaction():
        for _ in range(10):
            await sql.execute(CHANGE)
            await sql.execute("SET CONSTRAINTS ALL IMMEDIATE")
    await until_true(sql, "SELECT (SELECT epoch FROM fence) = (SELECT epoch FROM reader)")
    await until(reader.lease.valid)
    assert await reader_id(sql) == first


async def test_a_broken_connection_is_replaced(reader: Process, sql: Sql) -> None:
    """Changes made meanwhile are applied before anything is decided from memory again."""
    key, token = await reader.issue()
    await warm(reader, token)
    pid = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = $1"
    name = "skilder-keys fence"
    for _ in range(3):
        old = await sql.fetchval(pid, name)
        async with sql.transaction():
            await sql.execute("SELECT pg_terminate_backend($1)", old)
            await sql.execute(CHANGE)
        await until_true(sql, f"SELECT EXISTS ({pid} AND pid <> $2)", name, old)
        await until_true(sql, "SELECT (SELECT epoch FROM fence) = (SELECT epoch FROM reader)")
        await warm(reader, token)
    await reader.revoke(key)
    assert await reader.outcome(token) == "REVOKED"


async def test_a_fence_that_cannot_be_reached_uses_up_no_connections(database_url: str, sql: Sql) -> None:
    """Each failed attempt ends in Postgres too: a backend that waits for a lock does not notice a lost client."""
    async with process(database_url, lease=0.2) as one:
        await one.follow()
        attempts: set[int] = set()
        async with sql.transaction():
            await sql.execute("LOCK TABLE reader IN EXCLUSIVE MODE")
            while len(attempts) < 10:
                await sql.execute("SELECT pg_stat_clear_snapshot()")
                under_way = await sql.fetch(
                    "SELECT pid FROM pg_stat_activity"
                    " WHERE datname = current_database() AND application_name = 'skilder-keys fence'"
                )
                assert len(under_way) <= 3, "the current one, and at most two that are ending"
                attempts.update(row["pid"] for row in under_way)
                await asyncio.sleep(0.005)


async def test_the_fence_needs_no_notifications(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are hints: without them the next heartbeat reports a change, and the writer waits for that."""
    monkeypatch.setattr(fence, "listen", nothing)
    async with process(database_url, lease=0.4) as one, process(database_url, lease=0.4) as other:
        await one.apply()
        await one.follow()
        await other.follow()
        for _ in range(5):
            key, token = await one.issue()
            await warm(other, token)
            await one.revoke(key)
            assert await other.outcome(token) == "REVOKED"


async def test_a_process_that_ends_gives_its_lease_up(reader: Process, sql: Sql) -> None:
    """So that no writer waits for it."""
    assert len(await readers(sql)) == 1
    await reader.freeze()
    await reader.reader.close()
    assert not reader.lease.valid()
    assert await readers(sql) == set()


async def test_old_changes_are_removed_in_portions(reader: Process, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the newest, whatever the readers have applied, each change as a whole. Who lacks more starts over."""
    monkeypatch.setattr(fence, "KEPT_CHANGES", 3)
    monkeypatch.setattr(fence, "_MAX_PRUNED", 13)
    laggard = await insert_laggard(sql, LONG)
    for _ in range(12):
        await sql.execute(CHANGE)
    last = await epoch(sql)
    async with reader.database.transaction() as connection:
        assert await fence.prune(connection)
    async with reader.database.transaction() as connection:
        rows = await sql.fetch("SELECT epoch, count(*) AS n FROM change GROUP BY epoch ORDER BY epoch")
        assert [tuple(row) for row in rows] == [(number, 4) for number in range(last - 7, last + 1)]
        while await fence.prune(connection):
            pass
    kept = [row["epoch"] for row in await sql.fetch("SELECT DISTINCT epoch FROM change ORDER BY epoch")]
    assert kept == [last - 2, last - 1, last]
    assert laggard in await readers(sql)


async def test_a_removal_that_fails_ends_no_lease(reader: Process, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is logged and tried again, and memory is kept."""
    calls = 0

    async def failing(connection: Any) -> bool:
        nonlocal calls
        calls += 1
        await connection.execute("SET LOCAL statement_timeout = 10; SELECT pg_sleep(60)")
        return True

    monkeypatch.setattr(upkeep, "_PRUNE_SECONDS", 0.05)
    monkeypatch.setattr(fence, "prune", failing)
    await reader.freeze()
    await reader.follow()
    _, token = await reader.issue()
    await warm(reader, token)
    first, hits, before = await reader_id(sql), reader.memory.hits, calls
    await until(lambda: calls > before + 3)
    assert reader.lease.valid()
    assert await reader.outcome(token) == "granted"
    assert reader.memory.hits == hits + 1
    assert await reader_id(sql) == first


async def test_a_reader_that_is_far_behind_drops_everything(
    reader: Process, sql: Sql, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Instead of reading all changes that it missed."""
    monkeypatch.setattr(fence, "KEPT_CHANGES", 3)
    monkeypatch.setattr(fence, "_MAX_TOUCHES", 1)
    key, token = await reader.issue()
    await warm(reader, token)
    first = await reader_id(sql)
    async with sql.transaction():
        await revoke_by_hand(sql, key)
        for _ in range(8):
            await sql.execute("SET CONSTRAINTS ALL IMMEDIATE")
            await sql.execute(CHANGE)
    await until_true(sql, "SELECT EXISTS (SELECT FROM reader WHERE id <> $1)", first)
    await warm(reader, token)
    assert await reader.outcome(token) == "REVOKED"
