"""Diverged histories: a database that was restored, or a standby that took over without the last changes."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import fence
from skilder_keys.storage.migrations import migrate
from tests.support.calls import part
from tests.support.clock import FakeClock
from tests.support.fence import CHANGE, epoch, readers, revoke_by_hand, until_true, warm
from tests.support.fleet import Process, process, until
from tests.support.histories import copy_folder, until_made
from tests.support.rows import without_events
from tests.support.sql import connected
from tests.support.stock import stock_server, stock_standby
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    Sql = asyncpg.Connection[Any]


@pytest.mark.parametrize("others", [0, 1, 2], ids=["behind", "caught up", "beyond"])
async def test_a_restored_database_is_noticed(others: int) -> None:
    """Once a change has returned, nobody decides by what the backup lacks, whatever epoch the restored one has.

    The process registered after the backup, so the restored database does not know its lease.
    """
    with stock_server() as server:
        url = server.url()
        await migrate(url)
        async with process(url) as writer, process(url) as reader:
            await writer.apply()
            key, token = await writer.issue()
            more = [(await writer.issue())[0] for _ in range(2)]
            await copy_folder(server, "data", "backup")
            await reader.follow()
            _, lost = await writer.issue()
            widened = small_workspace()
            part(widened.hats, "everyone").skill_ids.append("code")
            await writer.apply(widened)
            await writer.revoke(more[0])
            for held in (token, lost):
                await warm(reader, held)
            assert await reader.outcome(token, "git.commit") == "granted"
            await copy_folder(server, "backup", "data")
            for each in more[:others]:
                await until_made(partial(writer.revoke, each))
            await until_made(lambda: writer.revoke(key))
            assert await reader.outcome(token) == "REVOKED"
            assert await reader.outcome(lost) == "UNKNOWN"
            await until(reader.lease.valid)
            assert await reader.outcome(token) == "REVOKED"
            assert await reader.outcome(lost) == "UNKNOWN"
            # The workspace has the same version number again, but other content.
            narrow = small_workspace()
            narrow.name = "Acme once more"
            await writer.apply(narrow)
            _, fresh = await writer.issue()
            await warm(reader, fresh)
            assert await reader.outcome(fresh, "git.commit") == await writer.outcome(fresh, "git.commit")
            reached = (await reader.ask(fresh)).granted.tool_set
            assert [hat.id for hat in reached.hats if "code" in hat.skill_ids] == ["engineer"]


async def test_a_standby_that_lacks_the_last_changes_is_noticed() -> None:
    """It was cut off, made other changes after it took over, and has reached the epoch of the lost primary."""
    with stock_server() as primary:
        await migrate(primary.url())
        with stock_standby(primary) as standby:
            url = f"postgresql://postgres:{primary.password}@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/postgres"
            async with process(url) as writer, process(url) as reader:
                await writer.apply()
                key, token = await writer.issue()
                other = (await writer.issue())[0]
                async with connected(primary.url()) as sql:
                    await until_true(sql, "SELECT replay_lsn >= pg_current_wal_lsn() FROM pg_stat_replication")
                    hba = primary.data / "pg_hba.conf"
                    hba.write_text(hba.read_text().replace("local replication all trust\n", ""))
                    await sql.execute("SELECT pg_reload_conf()")
                    await sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_replication")
                    await until_true(sql, "SELECT NOT EXISTS (SELECT FROM pg_stat_replication)")
                    await reader.follow()
                    _, lost = await writer.issue()
                    await writer.revoke(other)
                    lost_epoch = await epoch(sql)
                for each in (token, lost):
                    await warm(reader, each)
                await asyncio.to_thread(primary.crash)
                await asyncio.to_thread(standby.promote)
                await until_made(lambda: writer.revoke(key))
                async with connected(standby.url()) as sql:
                    assert await epoch(sql) == lost_epoch
                assert await reader.outcome(token) == "REVOKED"
                assert await reader.outcome(lost) == "UNKNOWN"
                await until(reader.lease.valid)
                assert await reader.outcome(token) == "REVOKED"
                assert await reader.outcome(lost) == "UNKNOWN"


@pytest.mark.parametrize("after", [0, 2])
async def test_the_same_epoch_of_another_history_is_another_state(reader: Process, sql: Sql, after: int) -> None:
    """If the connection stays, as with a pooler, only the tag shows it, and no heartbeat acknowledges that state."""
    key, token = await reader.issue()
    others = [(await reader.issue())[0] for _ in range(after)]
    before = await sql.fetchrow("SELECT epoch, tag FROM fence")
    assert before is not None
    await sql.execute(CHANGE)
    await until(lambda: reader.lease.epoch == before["epoch"] + 1)
    await until_true(sql, "SELECT (SELECT epoch FROM fence) = (SELECT epoch FROM reader)")
    await warm(reader, token)
    async with sql.transaction():
        await sql.execute("UPDATE fence SET epoch = $1, tag = $2", *before)
        await sql.execute("DELETE FROM change WHERE epoch > $1", before["epoch"])
        await revoke_by_hand(sql, key)
        await sql.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for other in others:
            await revoke_by_hand(sql, other)
    assert await epoch(sql) == before["epoch"] + 1 + after
    current = await sql.fetchval("SELECT tag FROM fence")
    await until(lambda: reader.lease.revision.tag == current and reader.lease.valid())
    assert await reader.outcome(token) == "REVOKED"


async def test_renewing_the_tag_in_sql_makes_every_process_start_over(reader: Process, sql: Sql) -> None:
    """As the docs say, for an operator who has put rows back under a running server."""
    _, token = await reader.issue()
    await warm(reader, token)
    first = await readers(sql)
    await sql.execute("UPDATE fence SET tag = tag + 1")
    tag = await sql.fetchval("SELECT tag FROM fence")
    await until(lambda: reader.lease.revision.tag == tag and reader.lease.valid())
    assert await readers(sql) != first
    assert len(reader.key_cache) == 0


async def test_a_change_waits_for_readers_that_a_new_server_does_not_know(database_url: str, sql: Sql) -> None:
    """For the longest lease of the fleet, from when this process first saw the server; after that nobody waits."""
    clock = FakeClock()
    async with process(database_url, clock=clock, lease=2.0) as writer, process(database_url) as another:
        await writer.apply()
        (one, _), (two, _) = await writer.issue(), await writer.issue()
        await sql.execute("UPDATE fence SET server = 'another', longest_lease = 5")
        task = asyncio.create_task(writer.revoke(one))
        lent = writer.database.lent
        await until(lambda: writer.database.lent > lent + 6)
        clock.now += 4.9
        lent = writer.database.lent
        await until(lambda: writer.database.lent > lent + 3)
        assert not task.done()
        clock.now += 0.1
        await task
        assert writer.waits[-1] == pytest.approx(5.0)
        await another.revoke(two)
        assert another.waits[-1] < 2.0


async def test_the_wait_after_a_restart_starts_before_the_first_change(database_url: str, sql: Sql) -> None:
    """A process that follows the fence counts from its start and records it, so later changes are as quick as ever."""
    await sql.execute("UPDATE fence SET server = 'another'")
    async with process(database_url, lease=0.3) as made:
        await made.follow()
        await until_true(sql, f"SELECT server = {fence.SERVER} FROM fence")  # noqa: S608 - a constant


async def test_a_change_that_may_be_lost_is_not_reported_as_made(sql: Sql, database_url: str) -> None:
    """Where the database goes back in time while a change waits for the readers."""
    async with process(database_url) as writer:
        await writer.apply()
        key, _ = await writer.issue()
        await sql.execute("INSERT INTO reader (id, epoch, lease_seconds) VALUES (gen_random_uuid(), -1, 60)")
        lent = writer.database.lent
        task = asyncio.create_task(writer.revoke(key))
        await until(lambda: writer.database.lent > lent + 4)
        await sql.execute("UPDATE fence SET epoch = epoch - 1, tag = 1")
        await sql.execute("DELETE FROM change")
        with pytest.raises(UnavailableError):
            await task


async def test_a_pool_that_reaches_another_server_is_not_trusted(reader: Process, sql: Sql) -> None:
    """Both connections are made again, and calls succeed once they agree."""
    _, token = await reader.issue()
    await warm(reader, token)
    first = await readers(sql)
    reader.lease.server = "another"
    reader.memory.drop_all()
    with suppress(UnavailableError):
        assert await reader.outcome(token) == "granted"
    await until(reader.lease.valid)
    assert await readers(sql) != first
    await warm(reader, token)


async def test_an_older_worker_works_beside_newer_ones(reader: Process, sql: Sql) -> None:
    """It registers, sends heartbeats, reads and removes changes with the statements of its version."""
    id_ = "0198c2f4-7c3e-7000-8000-000000000001"
    started = await sql.fetchval(
        "INSERT INTO reader (id, epoch, lease_seconds) SELECT $1, epoch, $2 FROM fence RETURNING epoch", id_, 60.0
    )
    key, token = await reader.issue()
    await warm(reader, token)
    task = asyncio.create_task(reader.revoke(key))
    await until_true(sql, "SELECT epoch > $1 FROM fence", started)
    rows = await sql.fetch(
        "SELECT epoch, key_id, workspace_id FROM change WHERE epoch > $1 ORDER BY epoch LIMIT 10000", started
    )
    assert [tuple(row) for row in rows] == [(started + 1, key.id, None)]
    assert not task.done(), "it waits for the older worker"
    beat = "UPDATE reader SET epoch = $2 FROM fence WHERE reader.id = $1 AND fence.epoch >= $2 RETURNING fence.epoch"
    assert await sql.fetchval(beat, id_, started + 1) == started + 1
    await task
    assert await sql.fetchval(beat, id_, started + 2) is None
    await sql.execute("DELETE FROM change WHERE epoch <= (SELECT min(epoch) FROM reader)")
    assert await sql.fetchval("SELECT count(*) FROM change") == 0
    other, token = await reader.issue()
    await warm(reader, token)
    task = asyncio.create_task(reader.revoke(other))
    await until_true(sql, "SELECT epoch > $1 FROM fence", started + 1)
    await sql.execute("DELETE FROM reader WHERE id = $1", id_)
    await task
    assert await reader.outcome(token) == "REVOKED"


async def test_an_older_worker_applies_no_change_in_part(reader: Process, sql: Sql) -> None:
    """It takes each row for a change, so it goes on only where that is right; otherwise it registers again."""
    start = await epoch(sql)
    key, _ = await reader.issue()
    id_ = await sql.fetchval(
        "INSERT INTO reader (id, epoch, lease_seconds) SELECT gen_random_uuid(), epoch, 60 FROM fence RETURNING id"
    )
    await revoke_by_hand(sql, key)
    await sql.execute("UPDATE tool SET disabled = true WHERE id = 'web.search'")
    await sql.execute("UPDATE tool SET disabled = true")
    older = "SELECT epoch, tag, previous_tag, key_id, workspace_id FROM change WHERE epoch > $1 ORDER BY epoch LIMIT $2"
    rows = await sql.fetch(older, start, 2)
    assert [(row["key_id"], row["workspace_id"]) for row in rows] == [(key.id, None), (None, "acme")]
    assert [row["epoch"] for row in rows] == [start + 1, start + 2]
    beat = """
        UPDATE reader SET epoch = $2 FROM fence
        WHERE reader.id = $1 AND (fence.epoch = $2 AND fence.tag = $3 OR EXISTS (
            SELECT FROM change WHERE change.epoch = $2 + 1 AND change.previous_tag = $3))
        RETURNING fence.epoch
    """
    assert await sql.fetchval(beat, id_, start + 2, rows[-1]["tag"]) == start + 3
    rows = await sql.fetch(older, start, 1000)
    assert rows[-1]["epoch"] - start == 3 < len(rows)
    # Where its limit cuts the last change, the number of rows is that of the epochs.
    rows = await sql.fetch(older, start, 3)
    assert rows[-1]["epoch"] - start == len(rows)
    assert await sql.fetchval(beat, id_, start + 3, rows[-1]["tag"]) is None
    # A change of everything, and one after it that touches one workspace.
    async with without_events(sql):
        await sql.execute("INSERT INTO workspace (id, name, version) SELECT n, n, 1 FROM generate_series(1, 2001) AS n")
        everything = await epoch(sql)
        await sql.execute("UPDATE workspace SET deleted_at = now() WHERE id <> 'acme'")
    await sql.execute("UPDATE tool SET disabled = false WHERE id = 'web.search'")
    rows = await sql.fetch(older, everything, 1000)
    assert rows[-1]["epoch"] - everything == 2 < len(rows)
    # Where its limit cuts the change of everything.
    rows = await sql.fetch(older, everything, 1)
    assert await sql.fetchval(beat, id_, everything + 1, rows[-1]["tag"]) is None


async def test_different_lease_lengths_are_logged(database_url: str, sql: Sql) -> None:
    """And respected: a change waits for each reader by its own length."""
    await sql.execute(
        "INSERT INTO reader (id, epoch, lease_seconds, call_timeout) VALUES (gen_random_uuid(), 0, 20, 1.5)"
    )
    async with process(database_url, lease=2.0) as made:
        await made.follow()
        events = {event["event"]: event for event in made.log.events}
        lease = next(event for name, event in events.items() if name.startswith("the lease here is not shorter"))
        assert (lease["level"], lease["lease"], lease["call_timeout"]) == ("error", 2.0, 1.5)
        mixed = next(event for name, event in events.items() if "different leases" in name)
        assert (mixed["level"], mixed["others"]) == ("warning", [20.0])


async def test_backends_do_not_pile_up_while_a_standby_is_away() -> None:
    """Neither a registration nor a change leaves one behind, and all goes on when the standby is back."""
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with stock_server() as server:
        await migrate(server.url())
        async with (
            connected(server.url()) as sql,
            process(server.url(), lease=0.4) as reader,
            process(server.url()) as writer,
        ):
            await sql.execute("SET synchronous_commit = local")
            await writer.apply()
            key, token = await writer.issue()
            assert await writer.outcome(token) == "granted"
            await sql.execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'")
            await sql.execute("SELECT pg_reload_conf()")
            await until_true(sql, "SELECT current_setting('synchronous_standby_names') = 'nobody'")
            reader.following = asyncio.create_task(reader.reader.run())
            tries = set[int]()
            for _ in range(3):
                with suppress(TimeoutError, UnavailableError):
                    async with asyncio.timeout(0.3):
                        await writer.revoke(key)
            async with asyncio.timeout(60):
                while len(tries) < 6:
                    await sql.execute("SELECT pg_stat_clear_snapshot()")
                    tries |= {
                        row["pid"]
                        for row in await sql.fetch(
                            "SELECT pid FROM pg_stat_activity WHERE application_name = 'skilder-keys fence'"
                        )
                    }
                    assert await sql.fetchval(waiting) <= 3
                    await asyncio.sleep(0.01)
            assert not reader.lease.valid()
            assert await reader.outcome(token) in {"REVOKED", "granted"}, "Postgres is read meanwhile"
            assert len(await readers(sql)) <= 1
            await sql.execute("ALTER SYSTEM RESET synchronous_standby_names")
            await sql.execute("SELECT pg_reload_conf()")
            await until(reader.lease.valid)
            await until_true(sql, f"SELECT pg_stat_clear_snapshot() IS NULL OR ({waiting}) = 0")
            assert len(await readers(sql)) == 1
            await writer.revoke(key)
            assert await reader.outcome(token) == "REVOKED"
