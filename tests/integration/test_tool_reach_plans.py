"""What explains keys and lists the users of a tool stays fast: it reads few rows, by an index, of one workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.domain.ids import HatId, ToolId, UserId, WorkspaceId
from skilder_keys.domain.tool_sets import ToolName
from skilder_keys.storage import tool_reach
from tests.support.lengths import by_form
from tests.support.many_keys import JIT_COST, LIMIT, STATISTICS, key_id
from tests.support.plans import plans
from tests.support.postgres import new_database
from tests.support.together import TOGETHER_IF_SHORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from skilder_keys.storage.database import Connection

pytestmark = pytest.mark.stock_too(in_turn=True)

ACME = WorkspaceId("acme")
TOOLS = by_form(5_000, 10_000, 20_000)

# Beside the keys, members and hats of `many_keys`: each hat of `acme` has 10 of 1,000 skills and serves 5 teams, each
# tool is in 2 skills. The same ids are in 200 other workspaces.
LINKS = """
INSERT INTO hat SELECT 'w' || n, 'h' || m, 'H', '', '', 'teams'
FROM generate_series(1, 200) AS n, generate_series(0, 9) AS m;
INSERT INTO hat_team (workspace_id, hat_id, team_id)
SELECT workspace_id, id, 't' || n FROM hat, generate_series(0, 4) AS n;
INSERT INTO skill SELECT 'acme', 's' || n, 'S', '' FROM generate_series(0, 999) AS n;
INSERT INTO skill SELECT 'w' || n, 's' || m, 'S', '' FROM generate_series(1, 200) AS n, generate_series(0, 9) AS m;
INSERT INTO hat_skill SELECT 'acme', 'h' || n, 's' || (n * 10 + m) % 1000
FROM generate_series(0, 99) AS n, generate_series(0, 9) AS m;
INSERT INTO hat_skill SELECT 'w' || n, 'h' || m, 's' || m FROM generate_series(1, 200) AS n, generate_series(0, 9) AS m;
INSERT INTO tool SELECT 'acme', 'x' || n, 'n' || n, 'slack', false FROM generate_series(1, {tools}) AS n;
INSERT INTO tool SELECT 'w' || n, 'x' || m, 'n' || m, 'slack', false
FROM generate_series(1, 200) AS n, generate_series(0, 9) AS m;
INSERT INTO skill_tool SELECT 'acme', 's' || m, 'x' || n
FROM generate_series(1, {tools}) AS n, LATERAL (VALUES (n % 500), (500 + n % 499)) AS of (m);
INSERT INTO skill_tool SELECT 'w' || n, 's' || m, 'x' || m
FROM generate_series(1, 200) AS n, generate_series(0, 9) AS m;
""".replace("{tools}", str(TOOLS))


@pytest.fixture(scope="module", params=STATISTICS)
async def large(
    postgres_url: str, filled: str, request: pytest.FixtureRequest
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database with a large workspace, which no test changes."""
    async with new_database(postgres_url, filled) as url:
        connection = await asyncpg.connect(url)
        try:
            # Without the checks of references, which these rows pass anyway.
            await connection.execute(f"SET session_replication_role = replica; {LINKS} RESET session_replication_role")
            if request.param == "analysed":
                await connection.execute("VACUUM ANALYZE")
            yield connection
        finally:
            await connection.close()


HATS = [HatId("h1"), HatId("h2"), HatId("h3")]


def candidates(**fields: Any) -> Callable[[Connection], Awaitable[object]]:
    """Return what reads some keys."""
    return lambda sql: tool_reach.read_candidates(
        sql, ACME, HATS, **{"user_id": None, "before": None, "limit": LIMIT} | fields
    )


# What is read, and the most rows of each table.
READS: dict[str, tuple[Callable[[Connection], Awaitable[object]], dict[str, int]]] = {
    "hats": (lambda sql: tool_reach.read_hats(sql, ACME), {"hat": 100, "hat_team": 500}),
    "a tool by its id": (lambda sql: tool_reach.find_tool(sql, ACME, ToolId("x7")), {"tool": 1}),
    "a tool by its name": (lambda sql: tool_reach.find_tool(sql, ACME, ToolName("slack", "n7")), {"tool": 1}),
    "no tool": (lambda sql: tool_reach.find_tool(sql, ACME, ToolName("slack", "none")), {"tool": 0}),
    "hats with a tool": (
        lambda sql: tool_reach.hats_with_tool(sql, ACME, ToolId("x7")),
        {"skill_tool": 2, "hat_skill": 2},
    ),
    "skills of hats": (lambda sql: tool_reach.skills_of_hats(sql, ACME, HATS), {"hat_skill": 30}),
    "first tools": (
        lambda sql: tool_reach.read_tools(sql, ACME, after="", limit=LIMIT),
        {"tool": LIMIT, "skill_tool": 2 * LIMIT},
    ),
    "last tools": (
        lambda sql: tool_reach.read_tools(sql, ACME, after="x99", limit=LIMIT),
        {"tool": LIMIT, "skill_tool": 2 * LIMIT},
    ),
    "teams of users": (
        lambda sql: tool_reach.teams_of(sql, ACME, [UserId(f"u{n}") for n in range(LIMIT)]),
        {"member": LIMIT, "team_member": LIMIT},
    ),
    # One of 100 keys is limited, to 3 hats; one of 50 is of a runtime.
    "newest keys": (candidates(), {"key": LIMIT + 10, "key_hat": 20}),
    "older keys": (candidates(before=key_id(10_000)), {"key": LIMIT + 10, "key_hat": 20}),
    "oldest keys": (candidates(before=key_id(5)), {"key": LIMIT + 10, "key_hat": 20}),
    "keys of a user": (candidates(user_id=UserId("u77")), {"key": 25, "key_hat": 20}),
    "keys": (lambda sql: tool_reach.read_keys(sql, [key_id(n) for n in range(1, LIMIT)]), {"key": LIMIT}),
}


# Indexes by the id of a key.
BY_KEY = ("key_pkey", "key_hat_pkey", "key_successor", "key_use_pkey")


@pytest.mark.parametrize("name", READS)
@TOGETHER_IF_SHORT
async def test_a_read_is_by_index_and_of_one_workspace(large: asyncpg.Connection[Any], name: str) -> None:
    """With the plan that is made for any values, which each connection keeps."""
    read, most = READS[name]
    for plan in await plans(large, read, "generic", analyze=True):
        assert plan.cost < JIT_COST, plan
        assert "Seq Scan" not in plan.kinds(), plan
        for node in plan.nodes():
            if node.get("Index Name") not in (None, *BY_KEY, "workspace_pkey") and ("Index Cond" in node):
                assert "workspace_id" in node["Index Cond"], plan
        read_rows = {table: plan.rows_read(table) for table in most}
        assert all(read_rows[table] <= count for table, count in most.items()), (read_rows, plan)
