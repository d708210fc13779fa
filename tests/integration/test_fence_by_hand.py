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
