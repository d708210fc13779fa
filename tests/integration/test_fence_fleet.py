"""Two processes on one Postgres: when one has returned from a change, the other decides by it at once."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.token import KeyType
from skilder_keys.storage import credentials
from tests.support.calls import part
from tests.support.fence import revoke_by_hand, until_true, warm
from tests.support.fleet import ORIGIN, Process, process
from tests.support.postgres import new_database
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from skilder_keys.domain.keys import Key
    from skilder_keys.storage.database import Connection

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too


@pytest.fixture
async def fleet(database_url: str) -> AsyncIterator[list[Process]]:
    """Two processes with a lease each."""
    async with process(database_url) as one, process(database_url) as other:
        await one.apply()
        await one.follow()
        await other.follow()
        yield [one, other]


async def assert_everywhere(fleet: list[Process], token: str, expected: str, tool_id: str | None = None) -> None:
    """Fail unless every process decides the same at once."""
    for each in fleet:
        assert await each.outcome(token, tool_id) == expected


async def test_a_revocation_holds_everywhere_once_it_has_returned(fleet: list[Process]) -> None:
    """For keys that are warm in every process, whichever of them revokes."""
    for round_ in range(40):
        key, token = await fleet[0].issue()
        for each in fleet:
            await warm(each, token)
        await fleet[round_ % 2].revoke(key)
        await assert_everywhere(fleet, token, "REVOKED")


async def test_a_revocation_holds_everywhere_under_load(fleet: list[Process]) -> None:
    """While loads start and end all the time, every call that begins after the response is denied."""
    for round_ in range(25):
        key, token = await fleet[0].issue()
        revoked = asyncio.Event()

        async def ask(of: Process, key: Key = key, token: str = token, revoked: asyncio.Event = revoked) -> int:
            late = 0
            while late < 3:
                begins_late = revoked.is_set()
                outcome = await of.outcome(token)
                if begins_late:
                    assert outcome == "REVOKED"
                    late += 1
                elif not late:
                    # Memory is emptied now and then, so that some load is always running.
                    of.key_cache.apply(KeyId(key.id), None, of.lease.epoch + 1)
                await asyncio.sleep(0)
            return late

        asking = [asyncio.create_task(ask(each)) for each in fleet for _ in range(4)]
        await asyncio.sleep(0)
        await fleet[round_ % 2].revoke(key)
        revoked.set()
        await asyncio.gather(*asking)


async def test_a_moved_hat_is_moved_everywhere_once_the_change_has_returned(fleet: list[Process]) -> None:
    """For every key of the workspace, including limited ones and those of users."""
    tokens = [(await fleet[0].issue(KeyType.USER, user_id="bob"))[1], (await fleet[0].issue(hat_ids=("engineer",)))[1]]
    workspace = small_workspace()
    for round_ in range(20):
        for token in tokens:
            for each in fleet:
                await warm(each, token)
        there = round_ % 2 == 0
        part(workspace.hats, "engineer").team_ids[:] = ["support"] if there else ["engineering"]
        part(workspace.hats, "engineer").skill_ids[:] = ["search"] if there else ["code", "search"]
        await fleet[round_ // 2 % 2].apply(workspace)
        for each in fleet:
            users = await each.ask(tokens[0])
            assert ("engineer" in [hat.id for hat in users.granted.tool_set.hats]) is there
        await assert_everywhere(fleet, tokens[1], "TOOL_NOT_ALLOWED" if there else "granted", "git.commit")


async def test_a_deleted_workspace_is_gone_everywhere_once_the_deletion_has_returned(fleet: list[Process]) -> None:
    """With all its keys, and no key of another workspace."""
    other = (await fleet[0].issue())[1]
    for round_ in range(10):
        name: Any = f"w{round_}"
        await fleet[0].apply(small_workspace(name))
        tokens = [(await fleet[0].issue(workspace_id=name))[1] for _ in range(3)]
        for token in (*tokens, other):
            for each in fleet:
                await warm(each, token)
        await fleet[round_ % 2].workspaces.delete(name, None, ORIGIN)
        for token in tokens:
            await assert_everywhere(fleet, token, "WORKSPACE_GONE")
        await assert_everywhere(fleet, other, "granted")


async def test_a_renewed_secret_ends_the_old_one_everywhere_once_it_has_returned(fleet: list[Process]) -> None:
    """Memory may hold an unused key as not usable; a retry gives it a new secret."""
    workspace = small_workspace()
    part(workspace.members, "bob").team_ids[:] = []
    for round_ in range(15):
        order: dict[str, Any] = {"request_id": f"r{round_}", "user_id": "bob"}
        _, old = await fleet[0].issue(KeyType.USER, **order)
        without = small_workspace()
        without.members.remove(part(without.members, "bob"))
        await fleet[0].apply(without)
        for each in fleet:
            await warm(each, old)
        await assert_everywhere(fleet, old, "MEMBER_REMOVED")
        await fleet[0].apply(workspace)
        _, new = await fleet[round_ % 2].issue(KeyType.USER, **order)
        await assert_everywhere(fleet, old, "UNKNOWN")
        await assert_everywhere(fleet, new, "granted")
        for each in fleet:
            await warm(each, new)
        await assert_everywhere(fleet, old, "UNKNOWN")


async def test_a_change_in_sql_holds_everywhere_soon(fleet: list[Process], sql: Sql) -> None:
    """Nobody waits for the readers then, so it holds as soon as they have seen it."""
    key, token = await fleet[0].issue()
    for each in fleet:
        await warm(each, token)
    await revoke_by_hand(sql, key)
    await until_true(sql, "SELECT (SELECT epoch FROM fence) = (SELECT min(epoch) FROM reader)")
    await assert_everywhere(fleet, token, "REVOKED")


async def test_a_load_that_a_revocation_overtook_serves_no_later_caller(
    fleet: list[Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Callers who came before the revocation may get its result, but it is not cached."""
    one, other = fleet
    released, reading = asyncio.Event(), asyncio.Event()
    original = credentials.find_credentials

    async def slow(connection: Connection, key_ids: Any) -> Any:
        found = await original(connection, key_ids)
        if not released.is_set():
            reading.set()
            await released.wait()
        return found

    key, token = await one.issue()
    await one.outcome(token)
    one.key_cache.drop_all()
    monkeypatch.setattr(credentials, "find_credentials", slow)
    early = asyncio.create_task(one.outcome(token))
    await reading.wait()
    await other.revoke(key)
    late = asyncio.create_task(one.outcome(token))
    await asyncio.sleep(0)
    released.set()
    assert await early == "granted"
    assert await late == "REVOKED"
    assert await one.outcome(token) == "REVOKED"


async def test_a_server_that_lags_behind_the_fence_is_not_trusted(
    postgres_url: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica behind a balancer, or an old primary that is still up: UNAVAILABLE, and never an old grant."""
    async with process(database_url) as made:
        await made.apply()
        key, token = await made.issue()
        assert await made.outcome(token) == "granted"
    name = urlsplit(database_url).path.removeprefix("/")
    async with (
        new_database(postgres_url, name) as old_url,
        process(database_url) as writer,
        process(old_url) as misled,
    ):
        monkeypatch.setattr(misled.database, "dedicated", writer.database.dedicated)
        await misled.follow()
        await writer.revoke(key)
        for _ in range(2):
            with suppress(UnavailableError):
                assert await misled.outcome(token) == "REVOKED"
            misled.lease.end()
