"""A change of a key or of a workspace by hand, in SQL, leaves an audit event: what it was and what it became."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.audit import add_event, findings
from tests.support.rows import NO_HASH, insert, insert_key
from tests.support.sql import connected

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too

OTHER_HASH = NO_HASH + "2"
SUSPEND = "suspended_at = '2026-01-01Z', suspended_by_kind = 'user', suspended_by_id = 'ada', suspend_reason = 'why'"
REVOKE = "revoked_at = '2026-01-02Z', revoked_by_kind = 'user', revoked_by_id = 'ada', revoke_reason = ''"

Diff = list[list[Any]]

# In this order, each in a transaction of its own, on the key and the workspace of `acme` below.
KEY_CHANGES: list[tuple[str, list[Diff]]] = [
    ("UPDATE key SET description = 'Another', labels = '{\"team\": \"blue\"}'",
     [[["description", "Slack Support Bot", "Another"], ["labels", {}, {"team": "blue"}]]]),
    ("UPDATE key SET description = 'Another'", []),
    ("UPDATE key SET last_used_at = now()", []),
    ("UPDATE key SET version = version + 1", []),
    (f"UPDATE key SET secret_hash = '{OTHER_HASH}'", [[["secret", None, "replaced"]]]),  # noqa: S608 - a constant
    (f"UPDATE key SET secret_hash = set_config('skilder_keys.renewed_hash', '{NO_HASH}', true)", []),  # noqa: S608 - a constant
    ("UPDATE key SET limited_to_hats = true", [[["limited_to_hats", False, True]]]),
    ("INSERT INTO key_hat SELECT 'acme', id, hat FROM key, unnest('{b,a}'::text[]) AS hat",
     [[["hat_ids.added", None, ["a", "b"]]]]),
    ("UPDATE key_hat SET hat_id = 'c' WHERE hat_id = 'a'",
     [[["hat_ids.removed", ["a"], None], ["hat_ids.added", None, ["c"]]]]),
    ("UPDATE key_hat SET hat_id = hat_id", []),
    ("DELETE FROM key_hat", [[["hat_ids.removed", ["b", "c"], None]]]),
    (f"UPDATE key SET {SUSPEND}",  # noqa: S608 - a constant
     [[["suspend_reason", None, "why"], ["suspended_at", None, "2026-01-01T00:00:00+00:00"],
       ["suspended_by_id", None, "ada"], ["suspended_by_kind", None, "user"]]]),
    ("UPDATE key SET networks = '{10.0.0.0/8}'", [[["networks", None, ["10.0.0.0/8"]]]]),
    # Each statement has its own, so that nothing is lost of what it was in between.
    ("UPDATE key SET description = 'One'; UPDATE key SET description = 'Two'",
     [[["description", "Another", "One"]], [["description", "One", "Two"]]]),
    ("SAVEPOINT s; UPDATE key SET description = 'One'; ROLLBACK TO s; UPDATE key SET description = 'Three'",
     [[["description", "Two", "Three"]]]),
    (f"UPDATE key SET {REVOKE}",  # noqa: S608 - a constant
     [[["revoke_reason", None, ""], ["revoked_at", None, "2026-01-02T00:00:00+00:00"],
       ["revoked_by_id", None, "ada"], ["revoked_by_kind", None, "user"]]]),
]  # fmt: skip

WORKSPACE_CHANGES: list[tuple[str, list[Diff]]] = [
    ("INSERT INTO member VALUES ('acme', 'ada', 'admin'), ('acme', 'bob', 'viewer')",
     [[["member.ada", None, {"role": "admin"}], ["member.bob", None, {"role": "viewer"}]]]),
    ("UPDATE member SET role = 'admin'", [[["member.bob.role", "viewer", "admin"]]]),
    ("UPDATE member SET user_id = 'cyd' WHERE user_id = 'bob'",
     [[["member.bob", {"role": "admin"}, None], ["member.cyd", None, {"role": "admin"}]]]),
    ("INSERT INTO tool VALUES ('acme', 't', 'name', 'server', false)",
     [[["tool.t", None, {"name": "name", "disabled": False, "mcp_server": "server"}]]]),
    ("UPDATE tool SET disabled = true", [[["tool.t.disabled", False, True]]]),
    ("UPDATE tool SET disabled = true", []),
    ("INSERT INTO skill VALUES ('acme', 's', 'S', '')", [[["skill.s", None, {"name": "S", "description": ""}]]]),
    ("INSERT INTO skill_tool VALUES ('acme', 's', 't')", [[["skill_tool.s", None, {"tool_id": "t"}]]]),
    ("INSERT INTO team VALUES ('acme', 'a', 'A'), ('acme', 'b', 'B')",
     [[["team.a", None, {"name": "A"}], ["team.b", None, {"name": "B"}]]]),
    ("INSERT INTO team_member VALUES ('acme', 'a', 'ada')", [[["team_member.ada", None, {"team_id": "a"}]]]),
    ("UPDATE team_member SET team_id = 'b'",
     [[["team_member.ada", {"team_id": "a"}, None], ["team_member.ada", None, {"team_id": "b"}]]]),
    ("INSERT INTO hat VALUES ('acme', 'h', 'H', '', '', 'workspace')",
     [[["hat.h", None, {"name": "H", "audience": "workspace", "description": "", "instructions": ""}]]]),
    ("INSERT INTO hat_skill VALUES ('acme', 'h', 's')", [[["hat_skill.h", None, {"skill_id": "s"}]]]),
    ("DELETE FROM tool", [
        [["tool.t", {"name": "name", "disabled": True, "mcp_server": "server"}, None]],
        [["skill_tool.s", {"tool_id": "t"}, None]],
    ]),
    ("UPDATE workspace SET version = version + 1, updated_at = now() WHERE id = 'acme'", []),
    ("UPDATE workspace SET name = 'New', require_hat_limit = true WHERE id = 'acme'",
     [[["workspace.name", "W", "New"], ["workspace.require_hat_limit", False, True]]]),
    ("TRUNCATE hat_skill", [[["hat_skill", "all", None]]]),
    ("UPDATE workspace SET deleted_at = '2026-01-01Z' WHERE id = 'acme'",
     [[["workspace.deleted_at", None, "2026-01-01T00:00:00+00:00"]]]),
]  # fmt: skip


async def events(sql: Sql, after: int = 0, workspace_id: str = "acme") -> list[tuple[str, UUID | None, Diff]]:
    """Return action, key and diff of the events after a number. Check who is said to have made them."""
    rows = await sql.fetch(
        "SELECT action, key_id, caller, actor, peer, details FROM audit_event WHERE workspace_id = $1 AND number > $2"
        " ORDER BY number",
        workspace_id,
        after,
    )
    role = await sql.fetchval("SELECT session_user")
    found = []
    for row in rows:
        if row["action"].endswith(".changed"):
            assert (row["caller"], row["actor"]) == (f"database:{role}", None)
            assert row["peer"].startswith(("ipv4:127.0.0.1:", "ipv6:[::1]:", "unix:"))
        found.append((row["action"], row["key_id"], json.loads(row["details"]).get("diff", [])))
    return found


async def last(sql: Sql, workspace_id: str = "acme") -> int:
    """Return the number of the last event."""
    return await sql.fetchval("SELECT number FROM audit_head WHERE workspace_id = $1", workspace_id) or 0


@pytest.fixture
async def key(sql: Sql) -> UUID:
    """A key of `acme`, made by hand."""
    await insert(sql, "workspace", id="acme", name="W", version=1)
    return await insert_key(sql, type="user", user_id="bob")


async def test_what_a_key_was_and_became(key: UUID, sql: Sql) -> None:
    """By each statement that changes one; also where it was made, and where it is deleted."""
    made, *_ = (await events(sql, 1))[0][2]
    assert made[:2] == ["key", None]
    assert made[2]["user_id"] == "bob"
    for statement, expected in KEY_CHANGES:
        before = await last(sql)
        async with sql.transaction():
            await sql.execute(statement)
        assert await events(sql, before) == [("key.changed", key, diff) for diff in expected], statement
    before = await last(sql)
    await sql.execute("DELETE FROM key")
    (action, _, ((path, was, became),)) = (await events(sql, before))[0]
    assert (action, path, was["description"], became) == ("key.changed", "key", "Three", None)
    texts = [row[0] for row in await sql.fetch("SELECT details::text FROM audit_event WHERE key_id = $1", key)]
    assert all('"user_id": "bob"' in text for text in texts), "so that ListEvents finds them by user"
    assert not any("argon2" in text or "digest" in text for text in texts)
    assert await findings(sql) == []
    assert await sql.fetchval("SELECT count(*) FROM pending_audit_event") == 0


@pytest.mark.usefixtures("key")
async def test_what_a_workspace_was_and_became(sql: Sql) -> None:
    """By each statement that changes it or its parts, also a link of them. Another workspace has no event."""
    await insert(sql, "workspace", id="globex", name="W", version=1)
    assert (await events(sql))[0][2] == [
        ["workspace", None, {"id": "acme", "name": "W", "require_hat_limit": False, "unique_descriptions": False}]
    ]
    for statement, expected in WORKSPACE_CHANGES:
        before = await last(sql)
        await sql.execute(statement)
        assert await events(sql, before) == [("workspace.changed", None, diff) for diff in expected], statement
    assert [diff for *_, diff in await events(sql, 1, "globex")] == [[["hat_skill", "all", None]]]
    assert await findings(sql) == []


@pytest.mark.usefixtures("key")
async def test_what_is_long_is_bounded(sql: Sql) -> None:
    """Of many parts the first ones are there, and how many are not; of a long text its digest."""
    before = await last(sql)
    await sql.execute("INSERT INTO tool SELECT 'acme', 't' || n, 'n' || n, 's', false FROM generate_series(1, 3000) n")
    await sql.execute("INSERT INTO hat VALUES ('acme', 'h', 'H', '', repeat('x', 9000), 'workspace')")
    tools, hat = [
        json.loads(row[0])
        for row in await sql.fetch("SELECT details FROM audit_event WHERE number > $1 ORDER BY number", before)
    ]
    assert tools["diff_left_out"] + len(tools["diff"]) == 3000
    assert len(tools["diff"]) > 500
    assert len(json.dumps(tools)) < 128 * 1024
    assert hat["diff"][0][2]["instructions"].keys() == {"sha256", "bytes"}


@pytest.mark.usefixtures("key")
async def test_each_key_of_many_has_its_event(sql: Sql) -> None:
    """However many one statement changes, in each workspace."""
    await insert(sql, "workspace", id="globex", name="W", version=1)
    for number in range(200):
        await insert_key(sql, workspace_id="globex" if number % 4 == 0 else "acme")
    before = await last(sql), await last(sql, "globex")
    await sql.execute(f"UPDATE key SET {REVOKE}")  # noqa: S608 - a constant
    assert len(await events(sql, before[0])) == 151
    assert len(await events(sql, before[1], "globex")) == 50
    assert await findings(sql) == []


@pytest.mark.parametrize("order", ["event first", "event last"])
async def test_a_change_with_its_event_has_no_other(key: UUID, sql: Sql, order: str) -> None:
    """In whichever order a worker writes them: an older one writes the event last, also of a workspace."""
    other = await insert_key(sql)
    successor = await insert_key(sql)
    await sql.execute("DELETE FROM key WHERE id = $1", successor)
    before = await last(sql)
    row = await sql.fetchrow("SELECT * FROM key WHERE id = $1", key)
    assert row is not None

    async def change() -> None:
        await sql.execute("UPDATE key SET description = 'Another', limited_to_hats = true WHERE id = $1", other)
        await sql.execute("INSERT INTO key_hat VALUES ('acme', $1, 'h')", other)
        await sql.execute("INSERT INTO tool VALUES ('acme', 't', 'name', 'server', false)")
        await sql.execute("UPDATE workspace SET name = 'Another', version = version + 1")
        await sql.execute("UPDATE key SET expires_at = now() + interval '1 day' WHERE id = $1", key)
        await insert_key(
            sql, id=successor, type="user", user_id="bob", family_id=key, predecessor_id=key, limited_to_hats=True
        )
        await sql.execute("INSERT INTO key_hat VALUES ('acme', $1, 'h')", successor)

    async def record() -> None:
        await add_event(sql, action="key.updated", key_id=other)
        await add_event(sql, action="key.rotated", key_id=key, details=json.dumps({"successor_id": str(successor)}))
        await add_event(sql, action="workspace.applied")

    async with sql.transaction():
        for step in (record, change) if order == "event first" else (change, record):
            await step()
    assert [action for action, *_ in await events(sql, before)] == ["key.updated", "key.rotated", "workspace.applied"]
    assert await findings(sql) == []


async def test_an_event_of_another_thing_hides_no_change(key: UUID, sql: Sql) -> None:
    """Of another key, of the workspace, or of another workspace, in the same transaction."""
    await insert(sql, "workspace", id="globex", name="W", version=1)
    other = await insert_key(sql)
    before = await last(sql)
    async with sql.transaction():
        await add_event(sql, action="key.updated", key_id=other)
        await add_event(sql, "globex", action="workspace.applied")
        await sql.execute("UPDATE key SET description = 'Another'")
        await sql.execute("INSERT INTO member VALUES ('acme', 'ada', 'admin')")
    assert [(action, of) for action, of, _ in await events(sql, before)] == [
        ("key.updated", other),
        ("workspace.changed", None),
        ("key.changed", key),
    ]
    before = await last(sql)
    async with sql.transaction():
        await sql.execute("UPDATE key SET description = 'And another' WHERE id = $1", key)
        await add_event(sql)
    assert ("key.changed", key, [["description", "Another", "And another"]]) in await events(sql, before)


@pytest.mark.usefixtures("key")
async def test_what_is_replicated_has_no_event(sql: Sql) -> None:
    """It has one where it comes from, which is replicated too."""
    before = await last(sql)
    async with sql.transaction():
        await sql.execute("SET LOCAL session_replication_role = replica")
        await sql.execute("UPDATE key SET description = 'Another'")
        await sql.execute("INSERT INTO member VALUES ('acme', 'ada', 'admin')")
        await sql.execute("UPDATE workspace SET name = 'Another'")
    assert await events(sql, before) == []


async def test_a_workspace_that_is_gone_again_has_no_event(sql: Sql) -> None:
    """Events belong to workspaces."""
    async with sql.transaction():
        await insert(sql, "workspace", id="acme", name="W", version=1)
        await sql.execute("DELETE FROM workspace")
    assert await sql.fetchval("SELECT count(*) FROM audit_event") == 0


@pytest.mark.usefixtures("key")
async def test_the_lock_that_all_changes_share_comes_last(sql: Sql, database_url: str) -> None:
    """Also where the first statement passes the fence and a later one only has an event, of another workspace.

    Otherwise two transactions could wait for each other.
    """
    await insert(sql, "workspace", id="globex", name="W", version=1)
    async with connected(database_url) as by_hand, connected(database_url) as holder:
        change = by_hand.transaction()
        await change.start()
        await by_hand.execute("INSERT INTO member VALUES ('globex', 'ada', 'admin')")
        await by_hand.execute('UPDATE key SET labels = \'{"a": "b"}\'')
        pid = by_hand.get_server_pid()
        async with holder.transaction():
            await holder.execute("SELECT FROM audit_head WHERE workspace_id = 'acme' FOR UPDATE")
            commit = asyncio.create_task(change.commit())
            async with asyncio.timeout(20):
                while not await sql.fetchval(
                    "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1", pid
                ):
                    await asyncio.sleep(0.01)
            await sql.execute("SELECT FROM fence FOR UPDATE NOWAIT")
        await commit
    assert await findings(sql) == []


async def test_no_column_is_forgotten(sql: Sql) -> None:
    """Each column of a key and of a workspace is watched, but for those that say nothing of it."""
    unwatched = {
        "key": {"version", "updated_at", "last_used_at", "used_on"},
        "workspace": {"version", "updated_at", "created_at", "unused_rule_since"},
    }
    for table, others in unwatched.items():
        rows = await sql.fetch(
            """
            SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 AND NOT attisdropped
              AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = attrelid AND attnum = ANY(tgattr)
                              AND tgname LIKE '%by_hand%')
            """,
            table,
        )
        assert {row["attname"] for row in rows} == others
