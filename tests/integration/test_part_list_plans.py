"""Lists of members, hats and tools stay fast: a page reads rows of its own workspace only, by an index."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.domain.ids import SkillId, TeamId, UserId, WorkspaceId
from skilder_keys.domain.workspace import MemberRole
from skilder_keys.domain.workspace_lists import MemberFilter, ToolFilter
from skilder_keys.storage import catalog_lists
from tests.support.lengths import by_form
from tests.support.many_keys import JIT_COST, LIMIT, STATISTICS
from tests.support.plans import plans
from tests.support.postgres import new_database
from tests.support.together import TOGETHER_IF_SHORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from skilder_keys.storage.database import Connection

pytestmark = pytest.mark.stock_too(in_turn=True)

ACME = WorkspaceId("acme")
MEMBERS, TOOLS = by_form(5_000, 20_000, 50_000), by_form(2_000, 8_000, 20_000)

# `acme` has most rows. The same users, tools and teams are in 200 other workspaces, 20 in each.
ROWS = """
INSERT INTO workspace (id, name, version) SELECT 'w' || n, 'W', 1 FROM generate_series(1, 200) AS n;
INSERT INTO workspace (id, name, version) VALUES ('acme', 'Acme', 1);
CREATE TEMPORARY TABLE size AS
SELECT id AS workspace_id, id = 'acme' AS large FROM workspace;
INSERT INTO member SELECT workspace_id, 'u' || n, CASE WHEN n % 10000 = 9 THEN 'admin' ELSE 'viewer' END
FROM size, LATERAL generate_series(0, CASE WHEN large THEN {members} ELSE 19 END) AS n;
INSERT INTO team SELECT workspace_id, 't' || n, 'T' FROM size, generate_series(0, 9) AS n;
INSERT INTO team_member SELECT workspace_id, 't0', user_id FROM member;
INSERT INTO team_member SELECT workspace_id, 't9', user_id FROM member WHERE user_id LIKE 'u%77';
INSERT INTO hat SELECT workspace_id, 'h' || n, 'H', '', '', 'teams'
FROM size, LATERAL generate_series(0, CASE WHEN large THEN 999 ELSE 19 END) AS n;
INSERT INTO hat_team (workspace_id, hat_id, team_id)
SELECT workspace_id, id, 't' || n FROM hat, generate_series(0, 4) AS n;
INSERT INTO skill SELECT workspace_id, 's' || n, 'S', '' FROM size, generate_series(0, 9) AS n;
INSERT INTO hat_skill SELECT workspace_id, id, 's' || n FROM hat, generate_series(0, 4) AS n;
INSERT INTO tool SELECT workspace_id, 'x' || n, 'n' || n, CASE WHEN n % 5000 = 7 THEN 'rare' ELSE 'slack' END, false
FROM size, LATERAL generate_series(0, CASE WHEN large THEN {tools} ELSE 19 END) AS n;
INSERT INTO skill_tool SELECT workspace_id, 's0', id FROM tool;
INSERT INTO skill_tool SELECT workspace_id, 's9', id FROM tool WHERE id LIKE 'x%77';
""".replace("{members}", str(MEMBERS - 1)).replace("{tools}", str(TOOLS - 1))


@pytest.fixture(scope="module", params=STATISTICS)
async def large(
    postgres_url: str, template: str, request: pytest.FixtureRequest
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database with a workspace as large as one may be, and larger, which no test changes."""
    async with new_database(postgres_url, template) as url:
        connection = await asyncpg.connect(url)
        try:
            # Without the checks of references, which these rows pass anyway.
            await connection.execute(f"SET session_replication_role = replica; {ROWS} RESET session_replication_role")
            if request.param == "analysed":
                await connection.execute("VACUUM ANALYZE")
            yield connection
        finally:
            await connection.close()


def members(**fields: Any) -> Callable[[Connection, str], Awaitable[object]]:
    """Return what reads a page of members."""
    return lambda sql, after: catalog_lists.read_members(sql, MemberFilter(ACME, **fields), after=after, limit=LIMIT)


def tools(**fields: Any) -> Callable[[Connection, str], Awaitable[object]]:
    """Return what reads a page of tools."""
    return lambda sql, after: catalog_lists.read_tools(sql, ToolFilter(ACME, **fields), after=after, limit=LIMIT)


def hats(sql: Connection, after: str) -> Awaitable[object]:
    """Read a page of hats."""
    return catalog_lists.read_hats(sql, ACME, after=after, limit=LIMIT)


def teams(sql: Connection, _: str) -> Awaitable[object]:
    """Read the teams of the members of a page."""
    found = [catalog_lists.FoundMember(UserId(f"u{n}"), MemberRole.VIEWER) for n in range(LIMIT)]
    return catalog_lists.with_teams(sql, ACME, found)


def parents(sql: Connection, _: str) -> Awaitable[object]:
    """Read the tree of teams."""
    return catalog_lists.read_parents(sql, ACME)


# What is read, and the most rows of each table.
PAGES: dict[str, tuple[Callable[[Connection, str], Awaitable[object]], dict[str, int]]] = {
    "members": (members(), {"member": LIMIT}),
    "members by a common role": (members(role=MemberRole.VIEWER), {"member": LIMIT + 5}),
    "members by a rare role": (members(role=MemberRole.ADMIN), {"member": MEMBERS}),
    "members of a large team": (members(team_id=TeamId("t0")), {"member": MEMBERS, "team_member": MEMBERS}),
    "members of a small team": (members(team_id=TeamId("t9")), {"member": 500, "team_member": 500}),
    "members of no team": (members(team_id=TeamId("t")), {"member": 0, "team_member": 0}),
    "their teams": (teams, {"team_member": 2 * LIMIT}),
    "hats": (hats, {"hat": LIMIT, "hat_team": 5 * LIMIT, "hat_skill": 5 * LIMIT}),
    "the tree of teams": (parents, {"team": 10}),
    "tools": (tools(), {"tool": LIMIT}),
    "tools of a large server": (tools(mcp_server="slack"), {"tool": TOOLS}),
    "tools of a small server": (tools(mcp_server="rare"), {"tool": TOOLS}),
    "tools of a large skill": (tools(skill_id=SkillId("s0")), {"tool": TOOLS, "skill_tool": TOOLS}),
    "tools of a small skill": (tools(skill_id=SkillId("s9")), {"tool": 200, "skill_tool": 200}),
    "tools of a skill and a server": (
        tools(skill_id=SkillId("s9"), mcp_server="rare"),
        {"tool": 200, "skill_tool": 200},
    ),
}


@pytest.mark.parametrize("after", ["", "u3", "x1234"], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", PAGES)
@TOGETHER_IF_SHORT
async def test_a_page_reads_rows_of_its_workspace_only(large: asyncpg.Connection[Any], name: str, after: str) -> None:
    """By an index, and none but those of the team or skill that is asked for."""
    read, most = PAGES[name]
    for plan in await plans(large, lambda sql: read(sql, after), "generic", analyze=True):
        assert plan.cost < JIT_COST, plan
        assert "Seq Scan" not in plan.kinds(), plan
        for node in plan.nodes():
            if node.get("Index Name") and "Index Cond" in node:
                assert "workspace_id" in node["Index Cond"], plan
        read_rows = {table: plan.rows_read(table) for table in most}
        assert all(read_rows[table] <= count for table, count in most.items()), (read_rows, plan)
