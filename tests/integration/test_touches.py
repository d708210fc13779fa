"""What a change touches: exactly the parts of a workspace that it changes, by the service or in SQL."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.domain.difference import Part
from skilder_keys.domain.ids import KeyId, WorkspaceId
from skilder_keys.domain.revision import Revision
from skilder_keys.storage import fence
from skilder_keys.storage.fence import EVERYTHING, Change, Touch, changes_since
from tests.support.calls import part
from tests.support.fence import Touched, epoch, parts, reader_id, revoke_by_hand, touched, until_true, warm
from tests.support.fleet import until
from tests.support.rows import without_events
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder.keys.v1 import workspace_pb2
    from tests.support.fleet import Process

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too

TABLES = ("member", "team", "team_member", "hat", "hat_team", "hat_skill", "skill", "skill_tool", "tool")
ALL_HATS = parts("hat everyone", "hat customer-care", "hat support-desk", "hat engineer")
ALL_SKILLS = parts("skill search", "skill slack-reading", "skill slack-replies", "skill code")

IN_SQL: dict[str, tuple[str, set[Touched]]] = {
    **{f"{table} as it was": (f"UPDATE {table} SET workspace_id = workspace_id", set()) for table in TABLES},  # noqa: S608 - the names above
    "member added": (
        "INSERT INTO member (workspace_id, user_id, role) VALUES ('acme', 'd d', 'viewer')",
        parts("member d d"),
    ),
    "member changed": ("UPDATE member SET role = 'viewer' WHERE user_id <> 'cyd'", parts("member ada", "member bob")),
    "member removed": ("DELETE FROM member WHERE user_id = 'bob'", parts("member bob")),
    "member renamed": ("UPDATE member SET user_id = 'eve' WHERE user_id = 'ada'", parts("member ada", "member eve")),
    "team joined": ("INSERT INTO team_member VALUES ('acme', 'support', 'ada')", parts("member ada")),
    "team changed": ("UPDATE team_member SET team_id = 'customer' WHERE user_id = 'bob'", parts("member bob")),
    "places swapped": (
        "UPDATE team_member SET user_id = CASE user_id WHEN 'bob' THEN 'ada' ELSE user_id END",
        parts("member ada", "member bob"),
    ),
    "team left": ("DELETE FROM team_member WHERE user_id = 'bob'", parts("member bob")),
    "team added": ("INSERT INTO team (workspace_id, id, name) VALUES ('acme', 'new', 'New')", parts("team new")),
    "team moved": ("UPDATE team SET parent_id = 'engineering' WHERE id = 'support'", parts("team support")),
    "team named": ("UPDATE team SET name = 'Another' WHERE id = 'support'", set()),
    "team removed": (
        "DELETE FROM hat_team WHERE team_id = 'engineering'; DELETE FROM team WHERE id = 'engineering'",
        parts("hat engineer", "member cyd", "team engineering"),
    ),
    "hat added": ("INSERT INTO hat VALUES ('acme', 'new', 'New', '', '', 'teams')", parts("hat new")),
    "hat named": ("UPDATE hat SET name = 'Another' WHERE id = 'engineer'", parts("hat engineer")),
    "hat described": ("UPDATE hat SET description = 'd', instructions = 'i'", ALL_HATS),
    "hat instructed": ("UPDATE hat SET instructions = 'i' WHERE id = 'engineer'", parts("hat engineer")),
    "hat for its teams": ("UPDATE hat SET audience = 'teams' WHERE id = 'everyone'", parts("hat everyone")),
    "hat for nobody": ("DELETE FROM hat_team WHERE hat_id = 'engineer'", parts("hat engineer")),
    "hat for everybody": (
        "DELETE FROM hat_team WHERE hat_id = 'engineer'; UPDATE hat SET audience = 'workspace' WHERE id = 'engineer'",
        parts("hat engineer"),
    ),
    "hat for another team": (
        "UPDATE hat_team SET team_id = 'customer' WHERE hat_id = 'engineer'",
        parts("hat engineer"),
    ),
    "hat with a skill": ("INSERT INTO hat_skill VALUES ('acme', 'everyone', 'code')", parts("hat everyone")),
    "hat removed": ("DELETE FROM hat WHERE id = 'everyone'", parts("hat everyone")),
    "skill added": ("INSERT INTO skill VALUES ('acme', 'new', 'New', '')", parts("skill new")),
    "skill named": ("UPDATE skill SET name = 'Another' WHERE id = 'code'", parts("skill code")),
    "skill described": ("UPDATE skill SET description = 'Another' WHERE id = 'code'", parts("skill code")),
    "skill with a tool": ("INSERT INTO skill_tool VALUES ('acme', 'code', 'web.search')", parts("skill code")),
    "skill removed": ("DELETE FROM skill WHERE id = 'search'", parts("skill search", "hat everyone", "hat engineer")),
    "tool added": ("INSERT INTO tool VALUES ('acme', 'new', 'new', 'web', false)", parts("tool new")),
    "tool named": ("UPDATE tool SET name = 'another' WHERE id = 'git.push'", parts("tool git.push")),
    "tool moved": ("UPDATE tool SET mcp_server = 'another' WHERE id = 'git.push'", parts("tool git.push")),
    "tool switched off": (
        "UPDATE tool SET disabled = true",
        parts("tool web.search", "tool slack.history", "tool slack.post", "tool git.commit"),
    ),
    "tool removed": ("DELETE FROM tool WHERE id = 'web.search'", parts("tool web.search", "skill search")),
    "tool upserted": (
        """
        INSERT INTO tool VALUES ('acme', 'git.push', 'git_push', 'git', false), ('acme', 'new', 'new', 'web', false)
        ON CONFLICT (workspace_id, id) DO UPDATE SET disabled = excluded.disabled
        """,
        parts("tool git.push", "tool new"),
    ),
    "there and back": (
        "UPDATE tool SET disabled = NOT disabled; UPDATE tool SET disabled = NOT disabled",
        parts("tool web.search", "tool slack.history", "tool slack.post", "tool git.commit", "tool git.push"),
    ),
    "many at once": (
        "WITH a AS (DELETE FROM team_member), b AS (DELETE FROM hat_skill) DELETE FROM skill_tool",
        parts("member bob", "member cyd") | ALL_HATS | ALL_SKILLS,
    ),
    "parts emptied": ("TRUNCATE tool, skill_tool", parts("tool", "skill")),
    "everything emptied": ("TRUNCATE member, team_member", parts("member")),
    "workspace named": ("UPDATE workspace SET name = 'Another'", set()),
    "workspace deleted": ("UPDATE workspace SET deleted_at = now()", parts("workspace")),
    "workspace deleted and a part": (
        "DELETE FROM skill_tool; UPDATE workspace SET deleted_at = now(); DELETE FROM hat_skill",
        parts("workspace"),
    ),
    "workspace set back, which has no effect": (
        "UPDATE workspace SET version = version + 5; UPDATE workspace SET version = 2",
        set(),
    ),
    "workspace replicated": (
        "SET LOCAL session_replication_role = replica; UPDATE workspace SET version = version + 1",
        parts("workspace"),
    ),
    "workspace replicated with the version that it has": (
        "SET LOCAL session_replication_role = replica; UPDATE workspace SET name = 'Another'",
        parts("workspace"),
    ),
    "workspace replicated with another id": (
        """
        SET LOCAL session_replication_role = replica;
        UPDATE workspace SET version = version + 1; UPDATE workspace SET id = 'other'
        """,
        parts("workspace") | parts("workspace", workspace_id="other"),
    ),
    **{
        f"{table} replicated": (
            f"""
            DROP TRIGGER {table}_removed ON {table};
            SET LOCAL session_replication_role = replica; DELETE FROM {table}
            """,  # noqa: S608 - the names above
            parts("workspace"),
        )
        for table in TABLES
    },
    "part of a renamed workspace": (
        "UPDATE workspace SET name = 'Another'; UPDATE member SET role = 'viewer' WHERE user_id = 'ada'",
        parts("member ada"),
    ),
    "workspace made": (
        """
        INSERT INTO workspace (id, name, version) VALUES ('new', 'New', 1);
        INSERT INTO member VALUES ('new', 'ada', 'admin');
        UPDATE member SET role = 'viewer' WHERE workspace_id = 'new'
        """,
        set(),
    ),
    "workspace made beside another change": (
        """
        INSERT INTO workspace (id, name, version) VALUES ('new', 'New', 1);
        INSERT INTO member VALUES ('new', 'ada', 'admin'), ('acme', 'dee', 'viewer')
        """,
        parts("member dee"),
    ),
}


def _cases() -> list[Any]:
    """Return the names in IN_SQL. After the changes of parts, an apply restores the workspace."""
    return [
        pytest.param(
            name,
            marks=() if name.startswith("workspace ") or name.endswith(" replicated") else TOGETHER_IF_SHORT,
            id=name,
        )
        for name in IN_SQL
    ]


@pytest.mark.parametrize("name", _cases())
async def test_a_change_in_sql_touches_what_it_changes(writer: Process, sql: Sql, name: str) -> None:
    """A link touches the part that holds it, and a text that decides nothing touches nothing.

    Each transaction that writes a part gives the workspace one new version.
    """
    statements, expected = IN_SQL[name]
    version = await writer.apply()
    before = await epoch(sql)
    async with sql.transaction():
        await sql.execute(statements)
    assert await touched(sql, before) == expected
    assert await sql.fetchval("SELECT count(*) FROM pending_change") == 0
    if not name.startswith("workspace "):
        assert await sql.fetchval("SELECT version FROM workspace") == version + 1


def _without_bob(workspace: workspace_pb2.Workspace) -> None:
    workspace.members.remove(part(workspace.members, "bob"))


def _without_support(workspace: workspace_pb2.Workspace) -> None:
    workspace.teams.remove(part(workspace.teams, "support"))
    part(workspace.hats, "support-desk").team_ids[:] = ["customer"]
    part(workspace.members, "bob").team_ids[:] = []


BY_APPLY: dict[str, tuple[Callable[[workspace_pb2.Workspace], object], set[Touched]]] = {
    "member added": (lambda new: new.members.add(user_id="dee", role=3), parts("member dee")),
    "member in another team": (
        lambda new: part(new.members, "bob").team_ids.append("engineering"),
        parts("member bob"),
    ),
    "member removed": (_without_bob, parts("member bob")),
    "team moved": (
        lambda new: setattr(part(new.teams, "engineering"), "parent_id", "customer"),
        parts("team engineering"),
    ),
    "team removed": (_without_support, parts("team support", "hat support-desk", "member bob")),
    "hat with a skill": (lambda new: part(new.hats, "everyone").skill_ids.append("code"), parts("hat everyone")),
    "hat for other teams": (lambda new: part(new.hats, "engineer").team_ids.append("customer"), parts("hat engineer")),
    "skill with a tool": (lambda new: part(new.skills, "search").tool_ids.append("git.push"), parts("skill search")),
    "tool switched off": (
        lambda new: setattr(part(new.tools, "web.search"), "disabled", True),
        parts("tool web.search"),
    ),
    "text": (lambda new: setattr(part(new.hats, "engineer"), "instructions", "Other ones"), parts("hat engineer")),
}


@pytest.mark.parametrize("name", BY_APPLY)
@TOGETHER_IF_SHORT
async def test_an_apply_touches_what_it_changes(writer: Process, sql: Sql, name: str) -> None:
    """However many statements it takes."""
    change, expected = BY_APPLY[name]
    version = await writer.apply()
    before = await epoch(sql)
    workspace = small_workspace()
    change(workspace)
    assert await writer.apply(workspace) == version + 1
    assert await touched(sql, before) == expected


_TOOLS = """
    INSERT INTO tool (workspace_id, id, name, mcp_server, disabled)
    SELECT $1, n, n, 'many', false FROM generate_series($2::int, $3::int) AS n
"""


@pytest.mark.parametrize("statements", [1, 101])
async def test_more_than_a_hundred_parts_are_all_of_their_kind(writer: Process, sql: Sql, statements: int) -> None:
    """In one statement or in many. A hundred are recorded one by one, and so are the other kinds."""
    before = await epoch(sql)
    async with sql.transaction():
        await sql.execute(_TOOLS, "acme", 1, 100)
    assert await touched(sql, before) == parts(*(f"tool {number}" for number in range(1, 101)))
    async with sql.transaction():
        step = 101 // statements
        for start in range(101, 202, step):
            await sql.execute(_TOOLS, "acme", start, start + step - 1)
        await sql.execute("UPDATE tool SET disabled = true WHERE id IN ('1', '2')")
        await sql.execute("UPDATE skill SET name = 'Another' WHERE id = 'code'")
    assert await touched(sql, before + 1) == parts("tool", "skill code")
    assert writer.database is not None


async def test_a_change_of_very_many_things_is_a_change_of_everything(writer: Process, sql: Sql) -> None:
    """Its rows name nothing, so that no change is too large to be applied at once."""
    workspaces = [f"w{number}" for number in range(21)]
    await sql.execute(
        "INSERT INTO workspace (id, name, version) SELECT id, id, 1 FROM unnest($1::text[]) AS id", workspaces
    )
    before = await epoch(sql)
    for last in (100, 200):
        async with sql.transaction():
            for workspace_id in workspaces[:20]:
                await sql.execute(_TOOLS, workspace_id, last - 99, last)
    async with sql.transaction():
        for workspace_id in workspaces:
            await sql.execute(_TOOLS, workspace_id, 201, 300)
    async with writer.database.connection() as connection:
        changes = [await changes_since(connection, before + number) for number in range(3)]
    assert [[len(change.touches) for change in each] for each in changes] == [[2000], [2000], [2]]
    assert changes[2][0].touches == (EVERYTHING, EVERYTHING)


async def test_what_is_undone_touches_nothing(writer: Process, sql: Sql) -> None:
    """By a rollback, or by a savepoint: also where the first statement of the transaction was undone."""
    before = await epoch(sql)
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("UPDATE tool SET disabled = true")
    await transaction.rollback()
    assert await touched(sql, before) == set()
    async with sql.transaction():
        undone = sql.transaction()
        await undone.start()
        await sql.execute("UPDATE member SET role = 'viewer'")
        await undone.rollback()
        async with sql.transaction():
            await sql.execute("UPDATE member SET role = 'viewer' WHERE user_id = 'bob'")
        undone = sql.transaction()
        await undone.start()
        await sql.execute("INSERT INTO workspace (id, name, version) VALUES ('new', 'New', 1)")
        await undone.rollback()
        await sql.execute("INSERT INTO workspace (id, name, version) VALUES ('new', 'New', 1)")
    assert await touched(sql, before) == parts("member bob")
    assert await sql.fetchval("SELECT version FROM workspace WHERE id = 'acme'") == 2
    assert writer.database is not None


async def test_transactions_at_once_are_changes_of_their_own(writer: Process, sql: Sql, database_url: str) -> None:
    """In the order in which they are committed, each with what it touches itself."""
    await writer.apply(small_workspace("globex"))
    before = await epoch(sql)
    other = await asyncpg.connect(database_url)
    try:
        async with sql.transaction():
            await sql.execute("DELETE FROM team_member WHERE workspace_id = 'acme'")
            async with other.transaction():
                await other.execute(
                    "UPDATE tool SET disabled = true WHERE workspace_id = 'globex' AND mcp_server = 'web'"
                )
            assert await touched(sql, before) == parts("tool web.search", workspace_id="globex")
    finally:
        await other.close()
    assert await touched(sql, before + 1) == parts("member bob", "member cyd")


async def test_changes_are_read_whole(writer: Process, sql: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """However few rows are read at once: a transaction is never cut, and the revisions are a chain."""
    key, _ = await writer.issue()
    start = Revision(*await sql.fetchrow("SELECT epoch, tag FROM fence"))  # type: ignore[misc]
    for _ in range(3):
        await sql.execute("UPDATE tool SET disabled = NOT disabled")
    await revoke_by_hand(sql, key)
    monkeypatch.setattr(fence, "_MAX_TOUCHES", 7)
    read: list[Change] = []
    sizes = []
    async with writer.database.connection() as connection:
        while changes := await changes_since(connection, (read[-1].revision if read else start).epoch):
            read += changes
            sizes.append(len(changes))
    assert sizes == [2, 2]
    acme = WorkspaceId("acme")
    tools = {Touch(None, acme, Part.TOOL, each.id) for each in small_workspace().tools}
    assert [set(change.touches) for change in read] == [tools] * 3 + [{Touch(KeyId(key.id), None, None, None)}]
    for previous, change in zip([start, *(each.revision for each in read)], read, strict=False):
        assert change.previous_tag == previous.tag
        assert change.revision.epoch == previous.epoch + 1
    assert read[-1].revision == tuple(await sql.fetchrow("SELECT epoch, tag FROM fence"))  # type: ignore[arg-type]


async def test_a_change_of_everything_makes_a_reader_start_over(reader: Process, sql: Sql) -> None:
    """It cannot know what it has to drop."""
    _, token = await reader.issue()
    await warm(reader, token)
    first = await reader_id(sql)
    async with without_events(sql):
        await sql.execute(
            """
            INSERT INTO workspace (id, name, version) SELECT n, n, 1 FROM generate_series(1, 2001) AS n;
            DELETE FROM tool; UPDATE workspace SET deleted_at = now()
            """
        )
    await until_true(sql, "SELECT EXISTS (SELECT FROM reader WHERE id <> $1)", first)
    await until(reader.lease.valid)
    assert await reader.outcome(token) == "WORKSPACE_GONE"
    assert reader.lease.epoch == await epoch(sql)
