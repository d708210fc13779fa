"""When keys were last used: the first use at once, later ones in batches."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from service.app import usage as usage_module
from service.app.usage import Usage
from service.domain.ids import KeyId, new_key_id
from service.domain.token import KeyType, Token
from service.storage.database import Database, DatabaseOptions
from skilder.keys.v1 import key_pb2
from tests.support.calls import delete_workspace, get_key, remove
from tests.support.log import CapturedLog
from tests.support.rows import insert, insert_key
from tests.support.service import Service, refusal, serving
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

pytestmark = pytest.mark.stock_too


NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
_INTERVAL = 0.05


class Clock:
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> float:
        """Answers the time."""
        return self.now.timestamp()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The test's database, with a wait for locks that a test can wait out."""
    database = await Database.open(DatabaseOptions(database_url, lock_timeout=0.05))
    yield database
    await database.close()


@pytest.fixture
async def key_ids(sql: asyncpg.Connection[Any]) -> list[KeyId]:
    """Three keys of a workspace, never used."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    return [KeyId(await insert_key(sql)) for _ in range(3)]


@pytest.fixture
def clock() -> Clock:
    """The clock of the test, at noon."""
    return Clock()


@pytest.fixture
def log() -> CapturedLog:
    """What Usage logs."""
    return CapturedLog()


@pytest.fixture
def usage(database: Database, clock: Clock, log: CapturedLog) -> Usage:
    """A Usage that nothing runs."""
    return Usage(database, log.logger, clock, _INTERVAL)


async def last_uses(sql: asyncpg.Connection[Any]) -> dict[UUID, datetime | None]:
    """Answers when each key was last used."""
    return {row["id"]: row["last_used_at"] for row in await sql.fetch("SELECT id, last_used_at FROM key")}


async def test_the_first_use_is_written_at_once(service: Service) -> None:
    """Before the caller has its answer."""
    issued = await service.console.issue()
    assert not issued.key.HasField("last_used_at")
    await service.service.authorize(issued.token)
    first = await get_key(service.console, issued.key.id)
    assert abs(first.last_used_at.ToDatetime(UTC) - datetime.now(UTC)) < timedelta(minutes=1)


async def test_later_uses_are_written_when_the_server_ends(
    door: str, database_url: str, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """What is pending is not lost."""
    async with serving(database_url, tmp_path, door=door, usage_interval=300) as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue()
        await service.operator.authorize(issued.token)
        first = (await last_uses(sql))[UUID(issued.key.id)]
        await service.operator.authorize(issued.token)
        assert (await last_uses(sql))[UUID(issued.key.id)] == first
    last = (await last_uses(sql))[UUID(issued.key.id)]
    assert last is not None
    assert first is not None
    assert last > first


async def test_later_uses_are_written_by_themselves(
    door: str, database_url: str, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """Every few seconds, while the server runs."""
    async with serving(database_url, tmp_path, door=door, usage_interval=_INTERVAL) as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue()
        await service.operator.authorize(issued.token)
        before = await last_uses(sql)
        await service.operator.authorize(issued.token)
        async with asyncio.timeout(30):
            while await last_uses(sql) == before:
                await asyncio.sleep(0.01)


async def test_many_uses_are_written_in_one_statement(
    usage: Usage, clock: Clock, key_ids: list[KeyId], sql: asyncpg.Connection[Any]
) -> None:
    """The last use of each key, all by one transaction; a second flush finds nothing to write."""
    for minute in range(3):
        clock.now = NOON + timedelta(minutes=minute)
        for key_id in key_ids[minute:]:
            usage.note(key_id)
    await usage.flush()
    expected = {key_id: NOON + timedelta(minutes=minute) for minute, key_id in enumerate(key_ids)}
    assert await last_uses(sql) == expected
    transactions = "SELECT DISTINCT xmin FROM key"
    (written,) = await sql.fetch(transactions)
    await usage.flush()
    assert await sql.fetch(transactions) == [written]


async def test_an_older_time_never_takes_the_place_of_a_newer_one(
    usage: Usage, clock: Clock, key_ids: list[KeyId], sql: asyncpg.Connection[Any]
) -> None:
    """Another process may have written first, or the clock gone back; the other keys of the batch are written."""
    used, unused, _ = key_ids
    await sql.execute("UPDATE key SET last_used_at = $2 WHERE id = $1", used, NOON)
    clock.now = NOON - timedelta(seconds=1)
    usage.note(used)
    usage.note(unused)
    await usage.flush()
    assert await last_uses(sql) == {used: NOON, unused: clock.now, key_ids[2]: None}


async def test_an_unknown_key_does_no_harm(usage: Usage, key_ids: list[KeyId], sql: asyncpg.Connection[Any]) -> None:
    """It is left out."""
    usage.note(new_key_id())
    usage.note(key_ids[0])
    await usage.flush()
    assert (await last_uses(sql))[key_ids[0]] == NOON


async def test_what_could_not_be_written_is_kept(
    usage: Usage, clock: Clock, log: CapturedLog, key_ids: list[KeyId], sql: asyncpg.Connection[Any]
) -> None:
    """For the next time, at which the newer of two times counts; the log tells how many keys wait."""
    await sql.execute("ALTER TABLE key RENAME TO hidden")
    usage.note(key_ids[0])
    usage.note(key_ids[1])
    # A fault of ours is no outage: it is told, and what is pending is kept all the same.
    with pytest.raises(Exception, match='"key" does not exist'):
        await usage.flush()
    await sql.execute("ALTER TABLE hidden RENAME TO key")
    async with sql.transaction():
        # Postgres gives up the wait for the lock in time, which is what an outage looks like from here.
        await sql.execute("SELECT FROM key FOR UPDATE")
        await usage.flush()
        clock.now = NOON + timedelta(minutes=1)
        usage.note(key_ids[0])
    assert [(each["event"], each["keys"]) for each in log.events] == [("last uses not written yet", 2)]
    await usage.flush()
    assert await last_uses(sql) == {key_ids[0]: clock.now, key_ids[1]: NOON, key_ids[2]: None}


async def test_without_a_database_nothing_is_lost(usage: Usage, database: Database, log: CapturedLog) -> None:
    """However often it is tried."""
    await database.close()
    for _ in range(3):
        usage.note(new_key_id())
        await usage.flush()
    assert [each["keys"] for each in log.events] == [1, 2, 3]


async def test_what_waits_is_bounded(
    usage: Usage,
    clock: Clock,
    key_ids: list[KeyId],
    sql: asyncpg.Connection[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In a long outage further keys go unnoted, while those that wait already are kept up to date."""
    monkeypatch.setattr(usage_module, "MAX_PENDING", 2)
    for key_id in key_ids:
        usage.note(key_id)
    clock.now = NOON + timedelta(minutes=1)
    usage.note(key_ids[0])
    await usage.flush()
    assert await last_uses(sql) == {key_ids[0]: clock.now, key_ids[1]: NOON, key_ids[2]: None}
    usage.note(key_ids[2])
    await usage.flush()
    assert (await last_uses(sql))[key_ids[2]] == clock.now


async def test_run_writes_by_itself_and_survives_an_outage(
    usage: Usage, log: CapturedLog, key_ids: list[KeyId], sql: asyncpg.Connection[Any]
) -> None:
    """Again and again until it is cancelled."""
    running = asyncio.create_task(usage.run())
    async with asyncio.timeout(30):
        async with sql.transaction():
            await sql.execute("SELECT FROM key FOR UPDATE")
            usage.note(key_ids[0])
            while not log.events:
                await asyncio.sleep(0.01)
        while (await last_uses(sql))[key_ids[0]] != NOON:
            await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_two_processes_that_write_the_same_keys_do_not_deadlock(
    database: Database, clock: Clock, log: CapturedLog, sql: asyncpg.Connection[Any]
) -> None:
    """Each takes the rows in order of id, whatever the order they were noted in."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    key_ids = [KeyId(await insert_key(sql)) for _ in range(200)]
    others = [Usage(database, log.logger, clock, _INTERVAL) for _ in range(4)]
    for round_ in range(5):
        clock.now = NOON + timedelta(minutes=round_)
        for index, each in enumerate(others):
            for key_id in key_ids[:: -1 if index % 2 else 1]:
                each.note(key_id)
        await asyncio.gather(*(each.flush() for each in others))
    for each in others:
        await each.flush()
    assert not [event for event in log.events if "deadlock" in str(event)]
    assert set((await last_uses(sql)).values()) == {clock.now}


async def test_a_denied_token_is_no_use(service: Service) -> None:
    """Of an unknown, revoked, foreign or gone key; a good key that does not reach a tool was used all the same."""
    keys = [await service.console.issue() for _ in range(3)]
    leaver = await service.console.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob")
    wrong, revoked, gone = keys
    await service.service.denial(Token.mint(KeyType.WORKSPACE, Token.parse(wrong.token).key_id).reveal())
    await service.console.revoke(key_id=revoked.key.id)
    assert await service.service.denial(revoked.token) == "REVOKED"
    workspace = small_workspace()
    remove(workspace.members, "bob")
    await service.console.apply(workspace)
    assert await service.service.denial(leaver.token) == "MEMBER_REMOVED"
    used = await service.console.issue()
    assert await service.service.denial(used.token, tool_id="no.such.tool") == "TOOL_NOT_ALLOWED"
    await delete_workspace(service.operator)
    assert await service.service.denial(gone.token) == "WORKSPACE_GONE"
    for issued in (*keys, leaver):
        assert not (await get_key(service.console, issued.key.id)).HasField("last_used_at")
    assert (await get_key(service.console, used.key.id)).HasField("last_used_at")


async def test_a_refused_question_is_no_use(service: Service) -> None:
    """A call that fails decides nothing of the key; and a runtime instance that calls uses its own."""
    issued = await service.console.issue()
    runtime = await service.operator.issue(type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="runtime-7")
    await service.operator.apply(small_workspace("globex"))
    foreign = await service.console.issue(workspace_id="globex")
    await refusal(service.service.authorize(issued.token, tool_id="no tool"))
    await refusal((await service.client(runtime.token)).authorize(foreign.token))
    for unused in (issued, foreign):
        assert not (await get_key(service.console, unused.key.id)).HasField("last_used_at")
    assert (await get_key(service.console, runtime.key.id)).HasField("last_used_at")
