"""When keys were last used: a first use is written at once, later ones in batches, to the minute."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from skilder.keys.v1 import key_pb2
from skilder_keys.app.authorization import usage as usage_module
from skilder_keys.app.authorization.usage import Usage
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.token import KeyType, Token
from skilder_keys.storage.database import Database, DatabaseOptions
from tests.support.calls import delete_workspace, get_key, remove
from tests.support.clock import FakeClock
from tests.support.ids import new_key_id
from tests.support.log import CapturedLog
from tests.support.rows import insert, insert_key
from tests.support.service import Service, refusal, serving
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

pytestmark = [pytest.mark.stock_too, GRPCIO_IF_SHORT]

_INTERVAL = 0.05
_LONG_AGO = timedelta(hours=1)


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The test's database, with a lock timeout that a test can wait for."""
    database = await Database.open(DatabaseOptions(database_url, lock_timeout=0.05))
    yield database
    await database.close()


@pytest.fixture
async def key_ids(sql: asyncpg.Connection[Any]) -> list[KeyId]:
    """Three keys of a workspace, never used."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    return [KeyId(await insert_key(sql)) for _ in range(3)]


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the test, which differs from the database's."""
    return FakeClock(100_000.0)


@pytest.fixture
def log() -> CapturedLog:
    """What Usage logs."""
    return CapturedLog()


@pytest.fixture
def usage(database: Database, clock: FakeClock, log: CapturedLog) -> Usage:
    """A Usage that only the test runs."""
    return Usage(database, log.logger, clock, _INTERVAL)


async def last_uses(sql: asyncpg.Connection[Any]) -> dict[UUID, datetime | None]:
    """Return when each key was last used."""
    return {row["id"]: row["last_used_at"] for row in await sql.fetch("SELECT id, last_used_at FROM key")}


async def set_last_use(sql: asyncpg.Connection[Any], key_id: UUID | str, ago: timedelta) -> None:
    """Set the last use of a key in SQL."""
    await sql.execute("UPDATE key SET last_used_at = clock_timestamp() - $2::interval WHERE id = $1", key_id, ago)


async def assert_ages(sql: asyncpg.Connection[Any], usage: Usage, ages: dict[KeyId, float | None]) -> None:
    """Flush, and fail unless each key was last used this many seconds earlier, by the database's clock."""
    before = await sql.fetchval("SELECT clock_timestamp()")
    await usage.flush()
    after = await sql.fetchval("SELECT clock_timestamp()")
    found = await last_uses(sql)
    for key_id, age in ages.items():
        last = found[key_id]
        if age is None:
            assert last is None
        else:
            assert last is not None
            assert before <= last + timedelta(seconds=age) <= after, (key_id, last)


async def test_the_first_use_is_written_at_once(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Before the caller gets the response, by the database's clock."""
    issued = await service.operator.issue()
    assert not issued.key.HasField("last_used_at")
    before = await sql.fetchval("SELECT now()")
    await service.service.authorize(issued.token)
    first = await get_key(service.operator, issued.key.id)
    assert before <= first.last_used_at.ToDatetime(UTC) <= await sql.fetchval("SELECT now()")


async def test_later_uses_are_written_when_the_server_ends(
    transport: str, database_url: str, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """Pending uses are not lost."""
    async with serving(database_url, tmp_path, transport=transport, usage_interval=300) as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue()
        await set_last_use(sql, issued.key.id, _LONG_AGO)
        before = await last_uses(sql)
        await service.operator.authorize(issued.token)
        assert await last_uses(sql) == before
    last = (await last_uses(sql))[UUID(issued.key.id)]
    assert last is not None
    assert timedelta() <= await sql.fetchval("SELECT now()") - last < _LONG_AGO


async def test_later_uses_are_written_every_few_seconds(
    transport: str, database_url: str, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """While the server runs."""
    async with serving(database_url, tmp_path, transport=transport, usage_interval=_INTERVAL) as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue()
        await set_last_use(sql, issued.key.id, _LONG_AGO)
        before = await last_uses(sql)
        await service.operator.authorize(issued.token)
        async with asyncio.timeout(30):
            while await last_uses(sql) == before:
                await asyncio.sleep(0.01)


async def test_uses_are_written_by_the_clock_of_the_database(
    usage: Usage, clock: FakeClock, key_ids: list[KeyId], sql: asyncpg.Connection[Any]
) -> None:
    """It gets how long ago each key was last used. A flush with nothing new writes nothing."""
    for minute in range(3):
        clock.now = 100_000.0 + 60 * minute
        for key_id in key_ids[minute:]:
            usage.note(key_id)
    clock.now += 10
    await assert_ages(sql, usage, dict(zip(key_ids, (130, 70, 10), strict=True)))
    before = await last_uses(sql)
    await usage.flush()
    assert await last_uses(sql) == before


async def test_many_uses_are_written_in_chunks(
    usage: Usage, key_ids: list[KeyId], sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each in a short transaction, so that nobody waits long for a row."""
    monkeypatch.setattr(usage_module, "CHUNK", 2)
    for key_id in key_ids:
        usage.note(key_id)
    await assert_ages(sql, usage, dict.fromkeys(key_ids, 0.0))
    assert len(await sql.fetch("SELECT DISTINCT xmin FROM key")) == 2


async def test_a_use_is_written_once_a_minute(
    usage: Usage, clock: FakeClock, key_ids: list[KeyId], sql: asyncpg.Connection[Any]
) -> None:
    """A process does not even send what it knows to be on record to the minute."""
    used, claimed, _ = key_ids
    usage.note(used)
    await usage.flush()
    usage.written(claimed)
    await sql.execute("UPDATE key SET last_used_at = NULL")
    clock.now += 59
    usage.note(used)
    usage.note(claimed)
    await assert_ages(sql, usage, {used: None, claimed: None})
    clock.now += 2
    usage.note(used)
    usage.note(claimed)
    await assert_ages(sql, usage, {used: 0.0, claimed: 0.0})


@pytest.mark.parametrize(
    ("ago", "written"),
    [
        pytest.param(timedelta(seconds=50), False, id="less than a minute ago"),
        pytest.param(timedelta(seconds=70), True, id="more than a minute ago"),
        pytest.param(timedelta(days=-3), True, id="in the future"),
    ],
)
async def test_the_recorded_time_decides_what_is_written(
    usage: Usage, key_ids: list[KeyId], sql: asyncpg.Connection[Any], ago: timedelta, *, written: bool
) -> None:
    """Another process may have written. A future time, from a wrong clock, is corrected."""
    await set_last_use(sql, key_ids[0], ago)
    before = (await last_uses(sql))[key_ids[0]]
    usage.note(key_ids[0])
    await assert_ages(sql, usage, {key_ids[0]: 0.0} if written else {})
    assert ((await last_uses(sql))[key_ids[0]] != before) is written


async def test_a_process_learns_what_others_wrote(
    usage: Usage, clock: FakeClock, key_ids: list[KeyId], sql: asyncpg.Connection[Any]
) -> None:
    """So that the record is never more than a minute behind, whichever processes a key is used with."""
    used = key_ids[0]
    await set_last_use(sql, used, timedelta(seconds=50))
    usage.note(used)
    await usage.flush()
    clock.now += 11
    await set_last_use(sql, used, timedelta(seconds=61))
    usage.note(used)
    await assert_ages(sql, usage, {used: 0.0})


async def test_an_older_time_never_replaces_a_newer_one(
    usage: Usage, clock: FakeClock, key_ids: list[KeyId], sql: asyncpg.Connection[Any]
) -> None:
    """A use that waited through an outage is older than what another process wrote since."""
    used, unused, _ = key_ids
    usage.note(used)
    usage.note(unused)
    clock.now += 600
    await set_last_use(sql, used, timedelta(seconds=300))
    before = (await last_uses(sql))[used]
    await assert_ages(sql, usage, {unused: 600.0, key_ids[2]: None})
    assert (await last_uses(sql))[used] == before


async def test_an_unknown_key_does_no_harm(usage: Usage, key_ids: list[KeyId], sql: asyncpg.Connection[Any]) -> None:
    """It is left out."""
    usage.note(new_key_id())
    usage.note(key_ids[0])
    await assert_ages(sql, usage, {key_ids[0]: 0.0})


async def test_a_locked_key_is_written_the_next_time(
    usage: Usage, clock: FakeClock, log: CapturedLog, key_ids: list[KeyId], sql: asyncpg.Connection[Any]
) -> None:
    """The flush waits for nobody, writes the other keys, and loses nothing."""
    for key_id in key_ids[:2]:
        usage.note(key_id)
    async with sql.transaction():
        await sql.execute("SELECT FROM key WHERE id = $1 FOR UPDATE", key_ids[0])
        await assert_ages(sql, usage, {key_ids[0]: None, key_ids[1]: 0.0})
    clock.now += 5
    await assert_ages(sql, usage, {key_ids[0]: 5.0})
    assert log.events == []


async def test_a_use_that_could_not_be_written_is_kept(
    usage: Usage, clock: FakeClock, log: CapturedLog, key_ids: list[KeyId], sql: asyncpg.Connection[Any]
) -> None:
    """For the next flush, with the newer of two times. The log says how many keys wait."""
    await sql.execute("ALTER TABLE key RENAME TO hidden")
    usage.note(key_ids[0])
    usage.note(key_ids[1])
    # An error of ours is no outage: it is logged, and pending uses are still kept.
    with pytest.raises(Exception, match='"key" does not exist'):
        await usage.flush()
    await sql.execute("ALTER TABLE hidden RENAME TO key")
    async with sql.transaction():
        # Postgres ends the wait for the lock after its timeout, which looks like an outage from here.
        await sql.execute("LOCK TABLE key")
        await usage.flush()
        clock.now += 60
        usage.note(key_ids[0])
    assert [(each["event"], each["keys"]) for each in log.events] == [("last uses not written yet", 2)]
    await assert_ages(sql, usage, dict(zip(key_ids, (0.0, 60.0, None), strict=True)))


async def test_without_a_database_nothing_is_lost(usage: Usage, database: Database, log: CapturedLog) -> None:
    """However often a flush is tried."""
    await database.close()
    for _ in range(3):
        usage.note(new_key_id())
        await usage.flush()
    assert [each["keys"] for each in log.events] == [1, 2, 3]


async def test_pending_uses_are_bounded(
    usage: Usage,
    clock: FakeClock,
    key_ids: list[KeyId],
    sql: asyncpg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a long outage further keys are not recorded, while those already pending are kept up to date."""
    monkeypatch.setattr(usage_module, "MAX_PENDING", 2)
    for key_id in key_ids:
        usage.note(key_id)
    clock.now += 60
    usage.note(key_ids[0])
    await assert_ages(sql, usage, dict(zip(key_ids, (0.0, 60.0, None), strict=True)))
    usage.note(key_ids[2])
    await assert_ages(sql, usage, {key_ids[2]: 0.0})


async def test_pending_uses_stay_bounded_however_many_writes_fail(
    usage: Usage, log: CapturedLog, sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Including uses that come during a write."""
    monkeypatch.setattr(usage_module, "MAX_PENDING", 2)
    async with sql.transaction():
        await sql.execute("LOCK TABLE key")
        for _ in range(3):
            usage.note(new_key_id())
            usage.note(new_key_id())
            writing = asyncio.create_task(usage.flush())
            await asyncio.sleep(0)  # the flush has taken the pending uses
            usage.note(new_key_id())
            usage.note(new_key_id())
            await writing
    assert [each["keys"] for each in log.events] == [2, 2, 2]


async def test_run_writes_periodically_and_survives_an_outage(
    usage: Usage, log: CapturedLog, key_ids: list[KeyId], sql: asyncpg.Connection[Any]
) -> None:
    """Again and again until it is cancelled."""
    running = asyncio.create_task(usage.run())
    async with asyncio.timeout(30):
        async with sql.transaction():
            await sql.execute("LOCK TABLE key")
            usage.note(key_ids[0])
            while not log.events:
                await asyncio.sleep(0.01)
        while (await last_uses(sql))[key_ids[0]] is None:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_denied_token_is_no_use(service: Service) -> None:
    """Of an unknown, revoked, foreign or gone key. A good key that does not reach a tool was used all the same."""
    keys = [await service.operator.issue() for _ in range(3)]
    leaver = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob")
    wrong, revoked, gone = keys
    await service.service.denial(Token.mint(KeyType.WORKSPACE, Token.parse(wrong.token).key_id).reveal())
    await service.operator.revoke(key_id=revoked.key.id)
    assert await service.service.denial(revoked.token) == "REVOKED"
    workspace = small_workspace()
    remove(workspace.members, "bob")
    await service.operator.apply(workspace)
    assert await service.service.denial(leaver.token) == "MEMBER_REMOVED"
    used = await service.operator.issue()
    assert await service.service.denial(used.token, tool_id="no.such.tool") == "TOOL_NOT_ALLOWED"
    await delete_workspace(service.operator)
    assert await service.service.denial(gone.token) == "WORKSPACE_GONE"
    for issued in (*keys, leaver):
        assert not (await get_key(service.operator, issued.key.id)).HasField("last_used_at")
    assert (await get_key(service.operator, used.key.id)).HasField("last_used_at")


async def test_a_refused_query_is_no_use(service: Service) -> None:
    """A call that fails decides nothing about the key; a runtime instance that calls uses its own key."""
    issued = await service.operator.issue()
    runtime = await service.operator.issue(type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="runtime-7")
    await service.operator.apply(small_workspace("globex"))
    foreign = await service.operator.issue(workspace_id="globex")
    await refusal(service.service.authorize(issued.token, tool_id=" no tool"))
    await refusal((await service.client(runtime.token)).authorize(foreign.token))
    for unused in (issued, foreign):
        assert not (await get_key(service.operator, unused.key.id)).HasField("last_used_at")
    assert (await get_key(service.operator, runtime.key.id)).HasField("last_used_at")
