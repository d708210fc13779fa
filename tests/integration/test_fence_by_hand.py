"""Changes in SQL to what a key may do: all of them pass the fence, whichever table they change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.ids import HatId, UserId
from skilder_keys.domain.token import KeyType
from tests.support.fence import epoch, parts, touched, warm

if TYPE_CHECKING:
    import asyncpg

    from tests.support.fleet import Process

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too


@pytest.fixture
def one(writer: Process) -> Process:
    """A process that does not follow the fence yet."""
    return writer


_NEW_KEY = """
    INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind, created_by_id)
    SELECT gen_random_uuid(), type, workspace_id, 'new', secret_hash, true, 'user', 'me' FROM key
"""


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO key_hat (workspace_id, key_id, hat_id) SELECT workspace_id, id, 'engineer' FROM key",
        "UPDATE key_hat SET hat_id = 'engineer'",
        "DELETE FROM key_hat",
        "UPDATE key SET description = 'renamed by hand'",
        # The transaction has written the key before, which does not make it a new one.
        "UPDATE key SET last_used_at = now(); DELETE FROM key_hat",
        "UPDATE key SET created_by_id = 'me'; INSERT INTO key_hat SELECT workspace_id, id, 'engineer' FROM key",
        "INSERT INTO key SELECT * FROM key ON CONFLICT DO NOTHING; DELETE FROM key_hat",
        "INSERT INTO key SELECT * FROM key ON CONFLICT (id) DO UPDATE SET last_used_at = now(); DELETE FROM key_hat",
        "A NEW KEY; DELETE FROM key_hat",
        "A NEW KEY; UPDATE key SET last_used_at = now(); DELETE FROM key_hat",
        "SAVEPOINT a; A NEW KEY; ROLLBACK TO a; DELETE FROM key_hat",
    ],
)
async def test_changing_a_key_in_sql_passes_the_fence(one: Process, sql: Sql, statement: str) -> None:
    """Its limit, and what a grant shows of it."""
    key, _ = await one.issue(hat_ids=(HatId("everyone"),))
    before = await epoch(sql)
    async with sql.transaction():
        await sql.execute(statement.replace("A NEW KEY", _NEW_KEY))
    assert await touched(sql, before) == {(key.id, None, None, None)}


async def test_emptying_the_limits_in_sql_passes_the_fence(one: Process, sql: Sql) -> None:
    """As a change of all keys, since no particular key is named."""
    await one.issue(hat_ids=(HatId("everyone"),))
    before = await epoch(sql)
    await sql.execute("TRUNCATE key_hat")
    assert await touched(sql, before) == parts("keys")


async def test_a_new_limited_key_does_not_pass_the_fence(one: Process, sql: Sql) -> None:
    """No process can have it in memory."""
    before = await epoch(sql)
    await one.issue(hat_ids=(HatId("everyone"), HatId("engineer")))
    assert await epoch(sql) == before


async def test_changes_in_sql_reach_memory(one: Process, sql: Sql) -> None:
    """A key in memory is denied, or loses a tool, as soon as the reader has seen the change."""
    _, of_bob = await one.issue(KeyType.USER, user_id=UserId("bob"))
    _, limited = await one.issue(hat_ids=(HatId("everyone"),))
    await one.follow()
    await warm(one, of_bob)
    await warm(one, limited)
    assert await one.outcome(limited, "web.search") == "granted"

    async def becomes(token: str, tool_id: str, expected: str) -> None:
        async with asyncio.timeout(60):
            while await one.outcome(token, tool_id) != expected:
                await asyncio.sleep(0.002)

    await sql.execute("UPDATE tool SET disabled = true WHERE id = 'web.search'")
    await becomes(limited, "web.search", "TOOL_NOT_ALLOWED")
    await sql.execute("UPDATE tool SET disabled = false WHERE id = 'web.search'")
    await becomes(limited, "web.search", "granted")
    await sql.execute("DELETE FROM key_hat")
    await becomes(limited, "web.search", "TOOL_NOT_ALLOWED")
    await sql.execute("DELETE FROM member WHERE user_id = 'bob'")
    await becomes(of_bob, "web.search", "MEMBER_REMOVED")


_KEEPING_THE_VERSION = {
    "deleted": "UPDATE workspace SET deleted_at = now()",
    "set back": "UPDATE workspace SET version = version + 1; UPDATE workspace SET version = version - 1; {0}",
    "set far back": "UPDATE workspace SET version = 1; {0}",
    "deleted and restored": "UPDATE workspace SET deleted_at = now(); {0}; UPDATE workspace SET deleted_at = NULL",
    "in pieces": "SAVEPOINT a; {0}; ROLLBACK TO a; UPDATE workspace SET version = version; {0}",
    "recorded early": "{0}; SET CONSTRAINTS ALL IMMEDIATE; UPDATE workspace SET version = version - 1; {0}",
    "replicated": "SET LOCAL session_replication_role = replica; {0}; UPDATE workspace SET version = version - 1",
}


@pytest.mark.parametrize("name", _KEEPING_THE_VERSION)
async def test_a_version_is_that_of_one_state(one: Process, sql: Sql, name: str) -> None:
    """Whatever a transaction does with it: what was read of a version is never used for another state."""
    change = "UPDATE member SET role = CASE role WHEN 'admin' THEN 'viewer' ELSE 'admin' END"
    for _ in range(3):
        await sql.execute(change)
    before = await sql.fetchval("SELECT version FROM workspace")
    async with sql.transaction():
        await sql.execute(_KEEPING_THE_VERSION[name].format(change))
    assert await sql.fetchval("SELECT version FROM workspace") > before
    assert one.database is not None


async def test_a_workspace_deleted_in_sql_is_gone_without_a_lease(one: Process, sql: Sql) -> None:
    """At once, as nothing that was read before is used."""
    _, token = await one.issue()
    for _ in range(2):
        assert await one.outcome(token, "web.search") == "granted"
        await sql.execute("UPDATE workspace SET deleted_at = now()")
        assert await one.outcome(token, "web.search") == "WORKSPACE_GONE"
        await sql.execute("UPDATE workspace SET deleted_at = NULL")


async def test_a_workspace_that_was_missing_for_a_time_comes_back(one: Process, sql: Sql) -> None:
    """Where foreign keys are not checked, it can be deleted and added again while its keys are there."""
    _, token = await one.issue()
    await one.follow()
    await warm(one, token)

    async def becomes(expected: str) -> None:
        async with asyncio.timeout(60):
            while await one.outcome(token, "web.search") != expected:
                await asyncio.sleep(0.002)

    await sql.execute("SET session_replication_role = replica")
    await sql.execute("CREATE TEMP TABLE kept AS SELECT * FROM workspace; DELETE FROM workspace")
    await becomes("WORKSPACE_GONE")
    await sql.execute("INSERT INTO workspace SELECT * FROM kept")
    await becomes("granted")
