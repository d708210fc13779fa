"""Changes in SQL to what a key may do: all of them pass the fence, whichever table they change."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.ids import HatId, UserId
from skilder_keys.domain.token import KeyType
from tests.support.fence import epoch, warm

if TYPE_CHECKING:
    import asyncpg

    from tests.support.fleet import Process

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too

TABLES = ("member", "team", "team_member", "hat", "hat_team", "hat_skill", "skill", "skill_tool", "tool")
STATEMENTS = {
    **{f"{table} updated": f"UPDATE {table} SET workspace_id = workspace_id" for table in TABLES},  # noqa: S608 - the names above
    "member added": "INSERT INTO member (workspace_id, user_id, role) VALUES ('acme', 'dee', 'viewer')",
    "member removed": "DELETE FROM member WHERE user_id = 'bob'",
    "hat for nobody": "DELETE FROM hat_team WHERE hat_id = 'engineer'",
    "hat for its teams": "UPDATE hat SET audience = 'teams' WHERE id = 'everyone'",
    "hat for everybody": """
        DELETE FROM hat_team WHERE hat_id = 'engineer';
        UPDATE hat SET audience = 'workspace' WHERE id = 'engineer'
    """,
    "hat removed": "DELETE FROM hat WHERE id = 'everyone'",
    "link removed": "DELETE FROM skill_tool WHERE tool_id = 'web.search'",
    "links emptied": "TRUNCATE skill_tool",
    "tool switched off": "UPDATE tool SET disabled = true WHERE id = 'web.search'",
    "many at once": """
        WITH a AS (DELETE FROM team_member), b AS (DELETE FROM hat_skill) DELETE FROM skill_tool
    """,
}


@pytest.fixture
def one(writer: Process) -> Process:
    """A process that does not follow the fence yet."""
    return writer


@pytest.mark.parametrize("name", STATEMENTS)
async def test_changing_a_part_in_sql_makes_one_new_version(one: Process, sql: Sql, name: str) -> None:
    """The fence records a change of the workspace, once for a transaction."""
    before = await epoch(sql)
    async with sql.transaction():
        await sql.execute(STATEMENTS[name])
        await sql.execute(STATEMENTS["tool updated"])
    assert await epoch(sql) == before + 1
    changes = await sql.fetch("SELECT key_id, workspace_id FROM change WHERE epoch > $1", before)
    assert [tuple(change) for change in changes] == [(None, "acme")]
    assert await sql.fetchval("SELECT version FROM workspace") == 2
    assert one.lease.epoch == 0


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO key_hat (workspace_id, key_id, hat_id) SELECT workspace_id, id, 'engineer' FROM key",
        "UPDATE key_hat SET hat_id = 'engineer'",
        "DELETE FROM key_hat",
        "UPDATE key SET description = 'renamed by hand'",
    ],
)
async def test_changing_a_key_in_sql_passes_the_fence(one: Process, sql: Sql, statement: str) -> None:
    """Its limit, and what a grant shows of it."""
    key, _ = await one.issue(hat_ids=(HatId("everyone"),))
    before = await epoch(sql)
    await sql.execute(statement)
    assert await epoch(sql) == before + 1
    assert await sql.fetchval("SELECT key_id FROM change WHERE epoch = $1", before + 1) == key.id


async def test_emptying_the_limits_in_sql_passes_the_fence(one: Process, sql: Sql) -> None:
    """As a change of every workspace, since no particular key is named."""
    await one.issue(hat_ids=(HatId("everyone"),))
    before = await epoch(sql)
    await sql.execute("TRUNCATE key_hat")
    assert await epoch(sql) == before + 1


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
