"""What passes the fence: every change that takes something away, by the service or in SQL."""

from __future__ import annotations

import asyncio
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.storage import credentials
from skilder_keys.storage.credentials import RenewedHash
from tests.support.calls import part
from tests.support.fence import epoch, insert_laggard, parts, readers, revoke_by_hand, touched
from tests.support.fleet import ORIGIN, Process, process
from tests.support.lengths import LONG
from tests.support.rows import without_events
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from skilder_keys.domain.keys import Key

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too


async def another_hash(of: Process, key: Key) -> None:
    """Hash a used key again."""
    async with of.database.transaction() as connection:
        old = await connection.fetchval("SELECT secret_hash FROM key WHERE id = $1", key.id)
        renewed = RenewedHash(key.id, old, "$argon2id$other")
        assert await credentials.renew_hashes(connection, [renewed]) == {key.id}


async def moved(of: Process) -> None:
    """Move a user from one team to another."""
    workspace = small_workspace()
    part(workspace.members, "bob").team_ids[:] = ["engineering"]
    await of.apply(workspace)


async def renamed(of: Process) -> None:
    """Change texts that are in no grant."""
    workspace = small_workspace()
    workspace.name = "Acme, the other one"
    workspace.teams[0].name = "Another team"
    assert await of.apply(workspace) == 2


async def described(of: Process) -> None:
    """Change texts that a grant may have."""
    workspace = small_workspace()
    workspace.skills[0].description = "Another description"
    workspace.hats[0].description = workspace.hats[0].instructions = "Other instructions"
    assert await of.apply(workspace) == 2


PASSING: dict[str, Callable[[Process, Sql, Key], Awaitable[object]]] = {
    "revoke": lambda of, _, key: of.revoke(key),
    "revoke by hand": lambda _, sql, key: revoke_by_hand(sql, key),
    "renewed secret": lambda of, _, __: of.issue(request_id="r"),
    "suspend": lambda of, _, key: of.changes.suspend(str(key.id), "", ORIGIN),
    "apply": lambda of, _, __: moved(of),
    "apply of other texts": lambda of, _, __: described(of),
    "delete": lambda of, _, __: of.workspaces.delete(small_workspace().id, None, ORIGIN),  # type: ignore[arg-type]
    "hash by hand": lambda _, sql, key: sql.execute("UPDATE key SET secret_hash = '$argon2id$x' WHERE id = $1", key.id),
}


@pytest.mark.parametrize("name", PASSING)
async def test_a_change_raises_the_epoch_by_one(writer: Process, sql: Sql, name: str) -> None:
    """And records what it touches: a key, a part of a workspace, or all of it."""
    key, _ = await writer.issue(request_id="r")
    before = await epoch(sql)
    await PASSING[name](writer, sql, key)
    assert await epoch(sql) == before + 1
    of_workspace = {
        "apply": parts("member bob"),
        "apply of other texts": parts("skill search", "hat everyone"),
        "delete": parts("workspace"),
    }
    assert await touched(sql, before) == of_workspace.get(name, {(key.id, None, None, None)})


CHANGING_NOTHING: dict[str, Callable[[Process, Sql, Key, str], Awaitable[object]]] = {
    "issue": lambda of, *_: of.issue(),
    "issue with a request": lambda of, *_: of.issue(request_id="other"),
    "first use": lambda of, _, __, token: of.outcome(token),
    "noted use": lambda _, sql, __, ___: sql.execute("UPDATE key SET last_used_at = now()"),
    "apply without a change": lambda of, *_: of.apply(),
    "apply of a new one": lambda of, *_: of.apply(small_workspace("globex")),
    "apply of new names": lambda of, *_: renamed(of),
    "version by hand": lambda _, sql, *__: sql.execute("UPDATE workspace SET version = version + 1"),
    "revoke of a revoked key": lambda of, _, key, __: of.revoke(key),
    "resume of a key that is not suspended": lambda of, _, key, __: of.changes.resume(str(key.id), "", ORIGIN),
}


@pytest.mark.parametrize("name", CHANGING_NOTHING)
async def test_a_change_that_takes_nothing_away_leaves_the_epoch_alone(writer: Process, sql: Sql, name: str) -> None:
    """A new key, a use, a workspace that is unchanged or new, names that are in no grant."""
    key, token = await writer.issue()
    if name == "revoke of a revoked key":
        await writer.revoke(key)
    before = await epoch(sql)
    await CHANGING_NOTHING[name](writer, sql, key, token)
    assert await epoch(sql) == before


async def test_a_new_hash_of_a_used_key_leaves_the_epoch_alone(writer: Process, sql: Sql) -> None:
    """Where the service writes it, which has just verified that it is a hash of the same secret."""
    key, token = await writer.issue()
    assert await writer.outcome(token) == "granted"
    before = await epoch(sql)
    await another_hash(writer, key)
    assert await epoch(sql) == before


async def test_a_new_hash_in_sql_raises_the_epoch(writer: Process, sql: Sql) -> None:
    """Nobody knows whether it is a hash of the same secret; also right after the service has renewed one."""
    key, token = await writer.issue()
    assert await writer.outcome(token) == "granted"
    await another_hash(writer, key)
    before = await epoch(sql)
    await sql.execute("UPDATE key SET secret_hash = '$argon2id$hand' WHERE id = $1", key.id)
    assert await epoch(sql) == before + 1
    async with writer.database.transaction() as transaction:
        renewed = RenewedHash(key.id, "$argon2id$hand", "$argon2id$renewed")
        assert await credentials.renew_hashes(transaction, [renewed]) == {key.id}
        await transaction.execute("UPDATE key SET secret_hash = '$argon2id$other' WHERE id = $1", key.id)
    assert await epoch(sql) == before + 2


async def test_a_rolled_back_change_leaves_the_epoch_alone(writer: Process, sql: Sql) -> None:
    """The epoch is part of the change's own transaction."""
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
    """The first try may have been committed without anybody having waited for the readers."""
    key, _ = await writer.issue(request_id="r")
    await RETRIES[name](writer, key)
    await insert_laggard(sql, 0.05)
    await RETRIES[name](writer, key)
    assert await readers(sql) == set()


async def test_a_retry_of_a_revocation_by_token_waits_too(writer: Process, sql: Sql) -> None:
    """As one by id does."""
    _, token = await writer.issue()
    for _ in range(2):
        await insert_laggard(sql, 0.05)
        await writer.keys.revoke_by_token(token, "", ORIGIN)
        assert await readers(sql) == set()


async def test_the_order_of_epochs_is_the_order_of_commits(database_url: str, writer: Process, sql: Sql) -> None:
    """A reader that looks while many keys are revoked sees changes without a gap, and finally each key once."""
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


IN_BULK: dict[str, str] = {
    "one statement": """
        UPDATE key SET revoked_at = now(), revoked_by_kind = 'user', revoked_by_id = 'me', revoke_reason = ''
        WHERE revoked_at IS NULL
    """,
    "a statement a key": """
        DO $$ DECLARE each uuid; BEGIN
            FOR each IN SELECT id FROM key WHERE revoked_at IS NULL LOOP
                UPDATE key SET revoked_at = now(), revoked_by_kind = 'user', revoked_by_id = 'me', revoke_reason = ''
                WHERE id = each;
            END LOOP;
        END $$
    """,
}
_KEYS = """
    INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind, created_by_id)
    SELECT gen_random_uuid(), 'workspace', $1, 'Bot', '$argon2id$x', false, 'user', 'me' FROM generate_series(1, $2)
"""


@pytest.mark.parametrize("name", IN_BULK)
async def test_a_transaction_writes_the_fence_once(writer: Process, sql: Sql, name: str) -> None:
    """However much it changes, so that its time grows with the number of keys and not with its square.

    It has one epoch. Up to a thousand keys of a workspace are recorded one by one, more as all keys of the workspace.
    The short form does it in a session without audit events, which take most of the time; the fence is the same there.
    """
    await writer.apply(small_workspace("globex"))
    async with without_events(sql):
        await sql.execute(_KEYS, "acme", 1000)
        await sql.execute(_KEYS, "globex", 1001)
    before = await sql.fetchrow("SELECT epoch, tag FROM fence")
    assert before is not None
    async with nullcontext() if LONG else without_events(sql), sql.transaction():
        await sql.execute(IN_BULK[name])
        await sql.execute("SET CONSTRAINTS ALL IMMEDIATE")
        written = "SELECT n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = 'fence'"
        assert await sql.fetchval(written) == 1
    after = await sql.fetchrow("SELECT epoch, tag FROM fence")
    assert after is not None
    assert after["epoch"] == before["epoch"] + 1
    assert after["tag"] != before["tag"]
    changes = await sql.fetch("SELECT * FROM change WHERE epoch > $1 ORDER BY sequence", before["epoch"])
    assert [change["sequence"] for change in changes] == list(range(1, 1002))
    assert {(change["previous_tag"], change["next_tag"]) for change in changes} == {(before["tag"], after["tag"])}
    keys = await sql.fetch("SELECT id FROM key WHERE workspace_id = 'acme'")
    one_by_one = {(row["id"], None, None, None) for row in keys}
    assert await touched(sql, before["epoch"]) == one_by_one | parts("keys", workspace_id="globex")
    assert await sql.fetchval("SELECT count(*) FROM pending_change") == 0


async def test_a_change_undone_by_a_savepoint_is_not_recorded(writer: Process, sql: Sql) -> None:
    """The other changes are, even where the first change of the transaction was undone."""
    keys_ = [(await writer.issue())[0] for _ in range(3)]
    before = await epoch(sql)
    async with sql.transaction():
        undone = sql.transaction()
        await undone.start()
        await revoke_by_hand(sql, keys_[0])
        await undone.rollback()
        await revoke_by_hand(sql, keys_[1])
        async with sql.transaction():
            await revoke_by_hand(sql, keys_[2])
    assert await touched(sql, before) == {(key.id, None, None, None) for key in keys_[1:]}


async def test_deleting_a_key_in_sql_raises_the_epoch(writer: Process, sql: Sql) -> None:
    """Of a key without an audit event, which can be deleted."""
    await sql.execute(_KEYS, "acme", 1)
    before = await epoch(sql)
    await sql.execute("DELETE FROM key")
    assert await epoch(sql) == before + 1
    assert writer.database is not None


HOSTILE = {
    "replication role": "SET session_replication_role = replica",
    "search path": "CREATE SCHEMA other; CREATE TABLE other.fence (LIKE public.fence INCLUDING ALL);"
    " CREATE TABLE other.pending_change (LIKE public.pending_change INCLUDING ALL); SET search_path = other, public",
    "temporary tables": "CREATE TEMP TABLE fence (LIKE public.fence INCLUDING ALL);"
    " CREATE TEMP TABLE pending_change (LIKE public.pending_change INCLUDING ALL)",
    "isolation": "SET default_transaction_isolation = serializable",
}


@pytest.mark.parametrize("where", ["session", "database"])
@pytest.mark.parametrize("name", HOSTILE)
async def test_triggers_fire_in_every_session(
    writer: Process, sql: Sql, database_url: str, name: str, where: str
) -> None:
    """Whatever the session or the database sets: changes in SQL pass the fence, and the guards hold."""
    key, _ = await writer.issue()
    other = (await writer.issue())[0]
    before = await sql.fetchval("SELECT epoch FROM public.fence")
    statements = HOSTILE[name].split("; ")
    for statement in statements:
        in_database = where == "database" and statement.startswith("SET ")
        database = (await sql.fetchval("SELECT current_database()")) if in_database else ""
        await sql.execute(f"ALTER DATABASE {database} {statement}" if in_database else statement)
    by_hand: Any = sql
    if where == "database" and "TEMP" not in HOSTILE[name]:
        by_hand = await asyncpg.connect(database_url)
    try:
        await revoke_by_hand(by_hand, key)
        assert await by_hand.fetchval("SELECT epoch FROM public.fence") == before + 1
        with pytest.raises(asyncpg.RaiseError, match="cannot be undone"):
            await by_hand.execute(
                "UPDATE key SET revoked_at = NULL, revoked_by_kind = NULL, revoked_by_id = NULL, revoke_reason = NULL"
            )
        with pytest.raises(asyncpg.RaiseError, match="cannot change"):
            await by_hand.execute("UPDATE key SET type = 'runtime' WHERE id = $1", other.id)
        with pytest.raises(asyncpg.RaiseError, match="only ever added to"):
            await by_hand.execute("DELETE FROM audit_event")
        await by_hand.execute("UPDATE member SET role = 'viewer'")
        assert await by_hand.fetchval("SELECT epoch FROM public.fence") == before + 2
    finally:
        if by_hand is not sql:
            await by_hand.close()
