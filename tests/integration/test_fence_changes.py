"""What passes the fence: every change that takes something from somebody, by the service or by hand."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from service.storage import keys
from tests.support.calls import part
from tests.support.fence import epoch, insert_laggard, readers, revoke_by_hand
from tests.support.fleet import ORIGIN, Process, process
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    import asyncpg

    from service.domain.keys import Key

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[Process]:
    """A process that only changes things: it has no lease, and no row."""
    async with process(database_url) as made:
        await made.apply()
        yield made


async def another_hash(of: Process, key: Key) -> None:
    """Has a key that was used hashed anew."""
    async with of.database.connection() as connection:
        old = await connection.fetchval("SELECT secret_hash FROM key WHERE id = $1", key.id)
        assert await keys.renew_hash(connection, key.id, old_hash=old, new_hash="$argon2id$other")


async def moved(of: Process) -> None:
    """Moves a user from a team to another."""
    workspace = small_workspace()
    part(workspace.members, "bob").team_ids[:] = ["engineering"]
    await of.apply(workspace)


PASSING: dict[str, Callable[[Process, Sql, Key], Awaitable[object]]] = {
    "revoke": lambda of, _, key: of.revoke(key),
    "revoke by hand": lambda _, sql, key: revoke_by_hand(sql, key),
    "renewed secret": lambda of, _, __: of.issue(request_id="r"),
    "apply": lambda of, _, __: moved(of),
    "delete": lambda of, _, __: of.workspaces.delete(small_workspace().id, None, ORIGIN),  # type: ignore[arg-type]
    "version by hand": lambda _, sql, __: sql.execute("UPDATE workspace SET version = version + 1"),
    "hash by hand": lambda _, sql, key: sql.execute("UPDATE key SET secret_hash = '$argon2id$x' WHERE id = $1", key.id),
}


@pytest.mark.parametrize("name", PASSING)
async def test_a_change_counts_the_epoch_up_by_one(writer: Process, sql: Sql, name: str) -> None:
    """And tells what it was: a key, or a workspace with all its keys."""
    key, _ = await writer.issue(request_id="r")
    before = await epoch(sql)
    await PASSING[name](writer, sql, key)
    assert await epoch(sql) == before + 1
    change = await sql.fetchrow("SELECT key_id, workspace_id FROM change WHERE epoch = $1", before + 1)
    assert change is not None
    of_workspace = name in {"apply", "delete", "version by hand"}
    assert tuple(change) == ((None, "acme") if of_workspace else (key.id, None))


CHANGING_NOTHING: dict[str, Callable[[Process, Sql, Key, str], Awaitable[object]]] = {
    "issue": lambda of, *_: of.issue(),
    "issue with a request": lambda of, *_: of.issue(request_id="other"),
    "first use": lambda of, _, __, token: of.verdict(token),
    "noted use": lambda _, sql, __, ___: sql.execute("UPDATE key SET last_used_at = now()"),
    "apply without a change": lambda of, *_: of.apply(),
    "apply of a new one": lambda of, *_: of.apply(small_workspace("globex")),
    "revoke of a revoked key": lambda of, _, key, __: of.revoke(key),
}


@pytest.mark.parametrize("name", CHANGING_NOTHING)
async def test_what_takes_nothing_from_anybody_leaves_the_epoch_alone(writer: Process, sql: Sql, name: str) -> None:
    """A key that is new, a use, a workspace that is as it was or was not there."""
    key, token = await writer.issue()
    if name == "revoke of a revoked key":
        await writer.revoke(key)
    before = await epoch(sql)
    await CHANGING_NOTHING[name](writer, sql, key, token)
    assert await epoch(sql) == before


async def test_a_new_hash_of_a_used_key_leaves_the_epoch_alone(writer: Process, sql: Sql) -> None:
    """Where the service writes it, which has just proven that it is one of the same secret."""
    key, token = await writer.issue()
    assert await writer.verdict(token) == "granted"
    before = await epoch(sql)
    await another_hash(writer, key)
    assert await epoch(sql) == before


async def test_a_new_hash_by_hand_counts_though_the_key_was_used(writer: Process, sql: Sql) -> None:
    """Nobody knows whether it is one of the same secret; also right after the service has renewed one."""
    key, token = await writer.issue()
    assert await writer.verdict(token) == "granted"
    await another_hash(writer, key)
    before = await epoch(sql)
    await sql.execute("UPDATE key SET secret_hash = '$argon2id$hand' WHERE id = $1", key.id)
    assert await epoch(sql) == before + 1
    async with writer.database.transaction() as transaction:
        assert await keys.renew_hash(transaction, key.id, old_hash="$argon2id$hand", new_hash="$argon2id$renewed")
        await transaction.execute("UPDATE key SET secret_hash = '$argon2id$other' WHERE id = $1", key.id)
    assert await epoch(sql) == before + 2


async def test_a_change_that_is_undone_leaves_the_epoch_alone(writer: Process, sql: Sql) -> None:
    """The count is part of the change's own transaction."""
    key, _ = await writer.issue()
    before = await epoch(sql)
    transaction = sql.transaction()
    await transaction.start()
    await revoke_by_hand(sql, key)
    await sql.execute("SET CONSTRAINTS ALL IMMEDIATE")
    assert await epoch(sql) == before + 1
    await transaction.rollback()
    assert await epoch(sql) == before
    assert await sql.fetchval("SELECT count(*) FROM change WHERE epoch > $1", before) == 0


RETRIES: dict[str, Callable[[Process, Key], Awaitable[object]]] = {
    "revoke": lambda of, key: of.revoke(key),
    "apply": lambda of, _: moved(of),
    "delete": lambda of, _: of.workspaces.delete(small_workspace().id, None, ORIGIN),  # type: ignore[arg-type]
    "renew": lambda of, _: of.issue(request_id="r"),
}


@pytest.mark.parametrize("name", RETRIES)
async def test_a_retry_waits_though_it_changes_nothing(writer: Process, sql: Sql, name: str) -> None:
    """That the first try was committed does not mean that anybody waited for it."""
    key, _ = await writer.issue(request_id="r")
    await RETRIES[name](writer, key)
    await insert_laggard(sql, 0.05)
    await RETRIES[name](writer, key)
    assert await readers(sql) == set()


async def test_a_retry_of_a_revocation_by_token_waits_too(writer: Process, sql: Sql) -> None:
    """As one by the id."""
    _, token = await writer.issue()
    for _ in range(2):
        await insert_laggard(sql, 0.05)
        await writer.keys.revoke_by_token(token, "", ORIGIN)
        assert await readers(sql) == set()


async def test_the_order_of_epochs_is_the_order_of_commits(database_url: str, writer: Process, sql: Sql) -> None:
    """Whoever looks while many are revoked at once sees changes without a gap, and each key once in the end."""
    issued = [(await writer.issue())[0] for _ in range(60)]
    start = await epoch(sql)
    async with process(database_url) as other:
        work = asyncio.gather(*((writer, other)[index % 2].revoke(key) for index, key in enumerate(issued)))
        looks = 0
        while not work.done():
            row = await sql.fetchrow("SELECT count(*) AS n, max(epoch) AS last FROM change WHERE epoch > $1", start)
            assert row is not None
            assert row["last"] in (None, start + row["n"])
            looks += 1
            await asyncio.sleep(0)
        await work
    assert looks > 3
    rows = await sql.fetch("SELECT epoch, key_id FROM change WHERE epoch > $1 ORDER BY epoch", start)
    assert [row["epoch"] for row in rows] == list(range(start + 1, start + 61))
    assert {row["key_id"] for row in rows} == {key.id for key in issued}
