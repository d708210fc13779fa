"""What the database itself refuses, even where the code has a bug."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.support.ids import new_key_id
from tests.support.rows import NO_HASH, insert, insert_key
from tests.support.together import TOGETHER_IF_SHORT

if TYPE_CHECKING:
    from uuid import UUID

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too


USER: dict[str, Any] = {"type": "user", "user_id": "ada"}
RUNTIME: dict[str, Any] = {"type": "runtime", "runtime_id": "runtime-7"}
REVOKED: dict[str, Any] = {
    "revoked_at": datetime(2026, 7, 1, tzinfo=UTC),
    "revoked_by_kind": "user",
    "revoked_by_id": "ada",
    "revoke_reason": "",
}
SUSPENDED: dict[str, Any] = {
    "suspended_at": datetime(2026, 7, 1, tzinfo=UTC),
    "suspended_by_kind": "user",
    "suspended_by_id": "ada",
    "suspend_reason": "",
}
REQUEST: dict[str, Any] = {"request_caller": "console", "request_id": "r-1", "request_digest": b"x" * 32}


@pytest.fixture(autouse=True)
async def workspaces(sql: Sql) -> None:
    """Two workspaces: `acme` with one of each part, and `globex` with a hat, a team and a member."""
    for workspace_id in ("acme", "globex"):
        await insert(sql, "workspace", id=workspace_id, name="Name", version=1)
        await insert(sql, "member", workspace_id=workspace_id, user_id=f"{workspace_id}-member", role="viewer")
        await insert(sql, "team", workspace_id=workspace_id, id=f"{workspace_id}-team", name="Team")
        hat: dict[str, Any] = {"name": "Hat", "description": "", "instructions": "", "audience": "teams"}
        await insert(sql, "hat", workspace_id=workspace_id, id=f"{workspace_id}-hat", **hat)
    await insert(sql, "hat", workspace_id="acme", id="everyone", **hat | {"audience": "workspace"})
    await insert(sql, "hat_team", workspace_id="acme", hat_id="acme-hat", team_id="acme-team")
    await insert(sql, "skill", workspace_id="acme", id="skill", name="Skill", description="")
    await insert(sql, "tool", workspace_id="acme", id="tool", name="tool", mcp_server="server", disabled=False)


async def refused(sql: Sql, statement: str, *values: object) -> asyncpg.PostgresError:
    """Run a statement that must be refused, at the latest at commit, and return the error."""

    async def run() -> None:
        async with sql.transaction():
            await sql.execute(statement, *values)
            await sql.execute("SET CONSTRAINTS ALL IMMEDIATE")

    with pytest.raises(asyncpg.PostgresError) as caught:
        await run()
    return caught.value


async def refused_row(sql: Sql, table: str, **values: Any) -> tuple[type[Exception], str | None]:
    """Insert a row that must be refused, and return the error's class and the constraint's name."""
    with pytest.raises(asyncpg.PostgresError) as caught:
        await (insert_key(sql, **values) if table == "key" else insert(sql, table, **values))
    return type(caught.value), getattr(caught.value, "constraint_name", None)


@pytest.mark.parametrize(
    "statement", ["UPDATE audit_event SET caller = 'x'", "DELETE FROM audit_event", "TRUNCATE audit_event"]
)
@pytest.mark.parametrize("empty", [True, False])
async def test_the_audit_trail_is_append_only(sql: Sql, statement: str, empty: bool) -> None:  # noqa: FBT001
    """For every statement, whether or not it would match a row."""
    if not empty:
        event = {"workspace_id": "acme", "caller": "console", "peer": "ipv4:127.0.0.1:1", "details": "{}"}
        await insert(sql, "audit_event", action="workspace.applied", **event)
    error = await refused(sql, statement)
    assert (type(error), str(error)) == (asyncpg.RaiseError, "the audit trail is only ever added to")


@pytest.mark.parametrize(
    "change",
    [
        "revoked_at = NULL, revoked_by_kind = NULL, revoked_by_id = NULL, revoke_reason = NULL",
        "revoked_at = revoked_at - interval '1 day'",
        "revoked_by_kind = 'caller'",
        "revoked_by_id = 'bob'",
        "revoke_reason = 'another'",
        "secret_hash = '$argon2id$v=19$m=8,t=1,p=1$other$other'",
        "guarded_hash = '$argon2id$v=19$m=8,t=1,p=1$other$other'",
        "expires_at = now() + interval '1 day'",
        "suspended_at = now(), suspended_by_kind = 'user', suspended_by_id = 'ada', suspend_reason = ''",
        "limited_to_hats = true",
        "networks = '{10.0.0.0/8}'",
    ],
)
@TOGETHER_IF_SHORT
async def test_a_revocation_is_for_good(sql: Sql, change: str) -> None:
    """It cannot be undone or changed, and the key cannot get another secret. An update without a change passes."""
    id_ = await insert_key(sql, **REVOKED)
    error = await refused(sql, f"UPDATE key SET {change} WHERE id = $1", id_)  # noqa: S608 - the constants above
    assert (type(error), str(error)) == (asyncpg.RaiseError, f"key {id_} is revoked, which cannot be undone")
    await sql.execute("UPDATE key SET revoked_by_id = revoked_by_id, last_used_at = now() WHERE id = $1", id_)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": new_key_id()},
        {"type": "user", "user_id": "ada"},
        {"type": "runtime", "runtime_id": "runtime-7"},
        {"workspace_id": "globex"},
        {"family_id": new_key_id()},
        {"predecessor_id": new_key_id()},
        {"created_at": datetime(2020, 1, 1, tzinfo=UTC)},
    ],
)
@TOGETHER_IF_SHORT
async def test_the_purpose_of_a_key_cannot_change(sql: Sql, changes: dict[str, Any]) -> None:
    """Type, workspace, user, creation time and the keys that it follows stay as issued."""
    id_ = await insert_key(sql)
    places = ", ".join(f"{name} = ${index}" for index, name in enumerate(changes, 2))
    error = await refused(sql, f"UPDATE key SET {places} WHERE id = $1", id_, *changes.values())  # noqa: S608
    assert (type(error), str(error)) == (asyncpg.RaiseError, f"what key {id_} is for cannot change")


async def test_the_owner_of_a_key_cannot_change(sql: Sql) -> None:
    """Neither the user of a user key nor the instance of a runtime key."""
    for order, column in ((USER, "user_id"), (RUNTIME, "runtime_id")):
        id_ = await insert_key(sql, **order)
        error = await refused(sql, f"UPDATE key SET {column} = 'other' WHERE id = $1", id_)  # noqa: S608
        assert (type(error), str(error)) == (asyncpg.RaiseError, f"what key {id_} is for cannot change")


@pytest.mark.parametrize(
    ("row", "constraint"),
    [
        pytest.param({"type": "user"}, "key_check", id="a user key without a user"),
        pytest.param({"user_id": "ada"}, "key_check", id="a workspace key with a user"),
        pytest.param({"type": "runtime"}, "key_check1", id="a runtime key without an instance"),
        pytest.param({"runtime_id": "runtime-7"}, "key_check1", id="a workspace key with an instance"),
        pytest.param(RUNTIME | {"limited_to_hats": True}, "key_check2", id="a runtime key with hats"),
        pytest.param(REQUEST | {"request_digest": None}, "key_check3", id="a request without a digest"),
        pytest.param(REVOKED | {"revoked_by_id": None}, "key_revocation_check", id="a revocation by nobody"),
        pytest.param({"type": "other"}, "key_type_check", id="an unknown type"),
        pytest.param({"description": ""}, "key_description_check", id="an empty description"),
        pytest.param({"description": "x" * 201}, "key_description_check", id="a long description"),
        pytest.param({"secret_hash": "WSK_0123456789"}, "key_secret_hash_check", id="a token for a hash"),
        pytest.param({"secret_hash": "$argon2i$v=19$"}, "key_secret_hash_check", id="another kind of hash"),
        pytest.param({"type": "user", "user_id": ""}, "key_user_id_check", id="an empty user"),
        pytest.param({"type": "user", "user_id": "x" * 256}, "key_user_id_check", id="a long user"),
        pytest.param(RUNTIME | {"runtime_id": "x" * 256}, "key_runtime_id_check", id="a long instance"),
        pytest.param(REQUEST | {"request_id": "x" * 65}, "key_request_id_check", id="a long request"),
        pytest.param(REQUEST | {"request_digest": b"x" * 31}, "key_request_digest_check", id="a short digest"),
        pytest.param(REVOKED | {"revoke_reason": "x" * 501}, "key_revoke_reason_check", id="a long reason"),
        pytest.param({"secret_hash": None}, "key_hash_check", id="no hash"),
        pytest.param(
            SUSPENDED | {"secret_hash": None, "guarded_hash": "WSK_0123456789"},
            "key_guarded_hash_check",
            id="a token for a guarded hash",
        ),
        pytest.param(SUSPENDED | {"suspended_by_id": None}, "key_suspension_check", id="a suspension by nobody"),
        pytest.param(SUSPENDED | {"suspended_by_kind": "other"}, "key_suspended_by_kind_check", id="by something"),
        pytest.param(SUSPENDED | {"suspend_reason": "x" * 501}, "key_suspend_reason_check", id="a longer reason"),
        pytest.param({"expires_at": datetime(2020, 1, 1, tzinfo=UTC)}, "key_expiry_check", id="never valid"),
        pytest.param({"networks": []}, "key_networks_check", id="no network"),
        pytest.param({"networks": [ip_network("10.0.0.0/8")] * 33}, "key_networks_check", id="too many networks"),
        pytest.param({"networks": [ip_network("10.0.0.0/8"), None]}, "key_networks_check", id="a network of null"),
        pytest.param({"version": 0}, "key_version_check", id="version 0"),
    ],
)
@TOGETHER_IF_SHORT
async def test_every_rule_of_a_key_has_a_constraint(sql: Sql, row: dict[str, Any], constraint: str) -> None:
    """A row that breaks one rule is refused by that rule's constraint."""
    assert await refused_row(sql, "key", **row) == (asyncpg.CheckViolationError, constraint)


@pytest.mark.parametrize(
    ("row", "error", "constraint"),
    [
        ({"family_id": "first"}, None, None),
        ({"family_id": "first", "predecessor_id": "first"}, None, None),
        ({"predecessor_id": "first"}, asyncpg.CheckViolationError, "key_family_check"),
        ({"family_id": "itself"}, asyncpg.CheckViolationError, "key_family_check"),
        ({"family_id": "first", "predecessor_id": "itself"}, asyncpg.CheckViolationError, "key_family_check"),
        ({"family_id": "foreign"}, asyncpg.ForeignKeyViolationError, "key_family_fkey"),
        (
            {"family_id": "first", "predecessor_id": "foreign"},
            asyncpg.ForeignKeyViolationError,
            "key_predecessor_fkey",
        ),
    ],
)
@TOGETHER_IF_SHORT
async def test_a_key_follows_keys_of_its_own_workspace(
    sql: Sql, row: dict[str, str], error: type[Exception] | None, constraint: str | None
) -> None:
    """Never itself; and who follows a key belongs to its family."""
    named = {"itself": new_key_id(), "first": await insert_key(sql)}
    named["foreign"] = await insert_key(sql, workspace_id="globex")
    values = {column: named[name] for column, name in row.items()} | {"id": named["itself"]}
    if error is None:
        await insert_key(sql, **values)
    else:
        assert await refused_row(sql, "key", **values) == (error, constraint)


async def test_a_key_has_a_workspace_and_a_unique_request(sql: Sql) -> None:
    """Its workspace exists and cannot be deleted; one request of a caller issues one key."""
    unknown = await refused_row(sql, "key", workspace_id="nowhere")
    assert unknown == (asyncpg.ForeignKeyViolationError, "key_workspace_id_fkey")
    id_ = await insert_key(sql, **REQUEST)
    again = await refused_row(sql, "key", **REQUEST)
    assert again == (asyncpg.UniqueViolationError, "key_request")
    same = await refused_row(sql, "key", id=id_)
    assert same == (asyncpg.UniqueViolationError, "key_pkey")
    await insert_key(sql, **REQUEST | {"request_caller": "operator"})
    error = await refused(sql, "DELETE FROM workspace WHERE id = 'acme'")
    assert isinstance(error, asyncpg.ForeignKeyViolationError)


async def test_the_audit_trail_keeps_the_id_of_a_key(sql: Sql) -> None:
    """Also of one that is gone; an event has one of the actions that there are."""
    id_ = await insert_key(sql)
    event = {"workspace_id": "acme", "caller": "console", "peer": "ipv4:127.0.0.1:1", "details": "{}"}
    await insert(sql, "audit_event", action="key.issued", key_id=id_, **event)
    await sql.execute("DELETE FROM key WHERE id = $1", id_)
    assert await sql.fetchval("SELECT key_id FROM audit_event WHERE action = 'key.issued'") == id_
    unknown = await refused_row(sql, "audit_event", action="key.made", **event)
    assert unknown == (asyncpg.CheckViolationError, "audit_event_action_check")


@pytest.mark.parametrize(
    ("row", "error", "constraint"),
    [
        (
            {"workspace_id": "globex", "hat_id": "globex-hat"},
            asyncpg.ForeignKeyViolationError,
            "key_hat_workspace_id_key_id_fkey",
        ),
        ({"workspace_id": "acme", "hat_id": ""}, asyncpg.CheckViolationError, "key_hat_hat_id_check"),
        ({"workspace_id": "acme", "hat_id": "h" * 65}, asyncpg.CheckViolationError, "key_hat_hat_id_check"),
    ],
)
@TOGETHER_IF_SHORT
async def test_a_limit_holds_hat_ids_of_the_keys_own_workspace(
    sql: Sql, row: dict[str, Any], error: type[Exception], constraint: str
) -> None:
    """Neither ids under another workspace, nor texts that no hat could have as its id."""
    id_: UUID = await insert_key(sql, limited_to_hats=True)
    await insert(sql, "key_hat", workspace_id="acme", key_id=id_, hat_id="acme-hat")
    assert await refused_row(sql, "key_hat", key_id=id_, **row) == (error, constraint)


async def test_removing_a_hat_leaves_its_keys_limited(sql: Sql) -> None:
    """To the same ids as before, so the hat is reached again when it comes back."""
    id_ = await insert_key(sql, limited_to_hats=True)
    await insert(sql, "key_hat", workspace_id="acme", key_id=id_, hat_id="acme-hat")
    await sql.execute("DELETE FROM hat WHERE id = 'acme-hat'")
    assert await sql.fetchval("SELECT array_agg(hat_id) FROM key_hat") == ["acme-hat"]
    assert await sql.fetchval("SELECT limited_to_hats FROM key") is True


@pytest.mark.parametrize(
    ("statement", "error", "constraint"),
    [
        pytest.param(
            "INSERT INTO team VALUES ('acme', 'self', 'Self', 'self')",
            asyncpg.CheckViolationError,
            "team_check",
            id="a team that is its own parent",
        ),
        pytest.param(
            "INSERT INTO team VALUES ('acme', 'lost', 'Lost', 'globex-team')",
            asyncpg.ForeignKeyViolationError,
            "team_workspace_id_parent_id_fkey",
            id="a parent in another workspace",
        ),
        pytest.param(
            "DELETE FROM team WHERE id = 'acme-team'",
            asyncpg.ForeignKeyViolationError,
            "hat_team_workspace_id_team_id_fkey",
            id="a team that a hat names is removed",
        ),
        pytest.param(
            "INSERT INTO hat_team VALUES ('acme', 'acme-hat', 'globex-team')",
            asyncpg.ForeignKeyViolationError,
            "hat_team_workspace_id_team_id_fkey",
            id="a hat for a team of another workspace",
        ),
        pytest.param(
            "INSERT INTO hat_team VALUES ('acme', 'everyone', 'acme-team')",
            asyncpg.ForeignKeyViolationError,
            "hat_team_hat_fkey",
            id="a team for a hat that serves the whole workspace",
        ),
        pytest.param(
            "UPDATE hat SET audience = 'workspace' WHERE id = 'acme-hat'",
            asyncpg.ForeignKeyViolationError,
            "hat_team_hat_fkey",
            id="a hat with a team that is to serve the whole workspace",
        ),
        pytest.param(
            "INSERT INTO hat_team VALUES ('acme', 'everyone', 'acme-team', 'workspace')",
            asyncpg.CheckViolationError,
            "hat_team_audience_check",
            id="a link that says that it is for the whole workspace",
        ),
        pytest.param(
            "UPDATE hat SET audience = 'everybody' WHERE id = 'everyone'",
            asyncpg.CheckViolationError,
            "hat_audience_check",
            id="an unknown audience",
        ),
        pytest.param(
            "INSERT INTO hat (workspace_id, id, name, description, instructions) VALUES ('acme', 'h', 'H', '', '')",
            asyncpg.NotNullViolationError,
            None,
            id="a hat that does not say whom it serves",
        ),
        pytest.param(
            "INSERT INTO tool (workspace_id, id, name, mcp_server) VALUES ('acme', 't', 't', 's')",
            asyncpg.NotNullViolationError,
            None,
            id="a tool that does not say whether it is disabled",
        ),
        pytest.param(
            "INSERT INTO team_member VALUES ('acme', 'acme-team', 'globex-member')",
            asyncpg.ForeignKeyViolationError,
            "team_member_workspace_id_user_id_fkey",
            id="a stranger in a team",
        ),
        pytest.param(
            "INSERT INTO hat_skill VALUES ('globex', 'globex-hat', 'skill')",
            asyncpg.ForeignKeyViolationError,
            "hat_skill_workspace_id_skill_id_fkey",
            id="a skill of another workspace",
        ),
        pytest.param(
            "INSERT INTO skill_tool VALUES ('acme', 'skill', 'nothing')",
            asyncpg.ForeignKeyViolationError,
            "skill_tool_workspace_id_tool_id_fkey",
            id="a tool that is not there",
        ),
        pytest.param(
            "INSERT INTO tool VALUES ('acme', 'other', 'tool', 'server', false)",
            asyncpg.UniqueViolationError,
            "tool_name_key",
            id="two tools of one name on a server",
        ),
        pytest.param(
            "INSERT INTO member VALUES ('acme', 'bob', 'owner')",
            asyncpg.CheckViolationError,
            "member_role_check",
            id="an unknown role",
        ),
        pytest.param(
            "INSERT INTO member VALUES ('acme', 'acme-member', 'admin')",
            asyncpg.UniqueViolationError,
            "member_pkey",
            id="a member twice",
        ),
        pytest.param(
            "INSERT INTO workspace (id, name, version) VALUES ('new', 'New', 0)",
            asyncpg.CheckViolationError,
            "workspace_version_check",
            id="a version before the first",
        ),
        pytest.param(
            "UPDATE hat SET instructions = repeat('x', 10001)",
            asyncpg.CheckViolationError,
            "hat_instructions_check",
            id="long instructions",
        ),
    ],
)
@TOGETHER_IF_SHORT
async def test_every_rule_of_a_workspace_has_a_constraint(
    sql: Sql, statement: str, error: type[Exception], constraint: str
) -> None:
    """Parts belong to one workspace, and no link is dangling."""
    found = await refused(sql, statement)
    assert (type(found), found.constraint_name) == (error, constraint)


async def test_the_services_own_changes_are_allowed(sql: Sql) -> None:
    """Revoking, renewing an active key's secret, recording a use, and swapping two tools' names in one transaction."""
    id_ = await insert_key(sql, limited_to_hats=True)
    await sql.execute("UPDATE key SET secret_hash = $2 WHERE id = $1", id_, NO_HASH + "2")
    await sql.execute("UPDATE key SET last_used_at = $1", datetime.now(UTC) - timedelta(days=1))
    await sql.execute(
        "UPDATE key SET revoked_at = now(), revoked_by_kind = 'user', revoked_by_id = 'ada', revoke_reason = ''"
    )
    await insert(sql, "tool", workspace_id="acme", id="other", name="other", mcp_server="server", disabled=False)
    await sql.execute("UPDATE tool SET name = CASE id WHEN 'tool' THEN 'other' ELSE 'tool' END")
    names = await sql.fetch("SELECT id, name FROM tool ORDER BY id")
    assert [tuple(row) for row in names] == [("other", "tool"), ("tool", "other")]
