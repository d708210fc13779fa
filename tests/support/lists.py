"""Methods that list: requests that list everything, and what there is to list."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from skilder.keys.v1.activity_service_pb2 import VERDICT_GRANTED, ActivityFilter, ListActivityRequest
from skilder.keys.v1.audit_service_pb2 import AUDIT_ACTION_KEY_ISSUED, EventFilter, ListEventsRequest
from skilder.keys.v1.catalog_service_pb2 import (
    ListHatsRequest,
    ListMembersRequest,
    ListToolsRequest,
    ListWorkspacesRequest,
)
from skilder.keys.v1.common_pb2 import ToolName
from skilder.keys.v1.key_pb2 import KEY_LIMIT_HATS, KEY_TYPE_USER, KEY_TYPE_WORKSPACE
from skilder.keys.v1.key_service_pb2 import (
    KEY_ORDER_EXPIRES_NEXT,
    ExplainKeyRequest,
    KeyFilter,
    ListKeysRequest,
    ListToolUsersRequest,
)
from skilder.keys.v1.workspace_pb2 import MEMBER_ROLE_ADMIN
from tests.support.activity_facts import Fact, insert_facts
from tests.support.rows import insert_key, without_events
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from tests.support.service import Service

COUNT = 1101
MEMBERS = 600
"""How many of the users of a tool are members; the others are keys."""


@dataclass(frozen=True, slots=True)
class Listing:
    """A method that lists.

    Attributes:
        request: A request that lists everything.
        fill: Makes COUNT elements, on request as large as is allowed.
        others: For each field that chooses what is listed, another value.
        seen: How many elements each actor sees; None for who is refused. Without an actor, all are seen.
        unbound: For each field that does not choose what is listed, another value.
        apart: Fields that list something else, and go with none of the others; they have a test of their own.
        elements: The field of the response with the elements; empty for the first field.
    """

    request: Any
    fill: Callable[..., Awaitable[None]]
    others: dict[str, Any]
    seen: dict[str, int | None]
    unbound: dict[str, Any] = field(default_factory=dict)
    apart: set[str] = field(default_factory=set)
    elements: str = ""


_COPIES = """
INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind, created_by_id)
SELECT gen_random_uuid(), type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind, created_by_id
FROM key, generate_series(1, $2) WHERE id = $1
"""
_WIDE = "\N{ROBOT FACE}"
# The trigger would note each row for the fence.
_LIMITS = """
ALTER TABLE key_hat DISABLE TRIGGER key_hat_change;
INSERT INTO key_hat
SELECT workspace_id, id, CASE number WHEN 100 THEN 'everyone' ELSE rpad('hat' || number, 64, 'x') END
FROM key, generate_series(1, 100) AS number WHERE limited_to_hats;
ALTER TABLE key_hat ENABLE ALWAYS TRIGGER key_hat_change;
"""


async def _insert_keys(service: Service, sql: asyncpg.Connection[Any], count: int, *, large: bool) -> None:
    for _ in range(3):
        await service.operator.issue(type=KEY_TYPE_USER, user_id="bob", unlimited=[KEY_LIMIT_HATS])
    fields: dict[str, Any] = {"description": _WIDE * 200, "created_by_id": _WIDE * 255, "limited_to_hats": True}
    first = await insert_key(sql, **fields if large else {})
    async with without_events(sql):
        await sql.execute(_COPIES, first, count - 4)
        if large:
            await sql.execute(_LIMITS)


async def _fill_keys(service: Service, sql: asyncpg.Connection[Any], *, large: bool = False) -> None:
    for name in ("acme", "other"):
        await service.operator.apply(small_workspace(name))
    await _insert_keys(service, sql, COUNT, large=large)


async def _fill_workspaces(service: Service, sql: asyncpg.Connection[Any], *, large: bool = False) -> None:
    for name in ("acme", "other"):
        await service.operator.apply(small_workspace(name))
    async with without_events(sql):
        await sql.execute(
            """
            INSERT INTO workspace (id, name, version)
            SELECT 'w' || lpad(n::text, 4, '0'), $2, 1 FROM generate_series(0, $1 - 1) AS n
            """,
            COUNT - 2,
            _WIDE * 128 if large else "W",
        )


# $1 is the number of the last element. With $2, elements are so large that a page ends early.
_PARTS = {
    "members": """
        INSERT INTO member
        SELECT 'acme', 'm' || lpad(n::text, 4, '0') || CASE WHEN $2 THEN repeat('🤖', 250) ELSE '' END, 'viewer'
        FROM generate_series(4, $1::int) AS n
    """,
    "hats": """
        INSERT INTO hat SELECT 'acme', 'h' || lpad(n::text, 4, '0'), repeat('🤖', CASE WHEN $2 THEN 128 ELSE 1 END),
                               repeat('🤖', CASE WHEN $2 THEN 500 ELSE 0 END), '', 'workspace'
        FROM generate_series(5, $1::int) AS n
    """,
    "tools": """
        INSERT INTO tool
        SELECT 'acme', 't' || lpad(n::text, 4, '0') || CASE WHEN $2 THEN repeat('🤖', 250) ELSE '' END,
               lpad(n::text, 4, '0') || CASE WHEN $2 THEN repeat('🤖', 250) ELSE '' END,
               repeat('🤖', CASE WHEN $2 THEN 255 ELSE 1 END), true
        FROM generate_series(6, $1::int) AS n
    """,
}
_SKILLS = """
INSERT INTO skill SELECT 'acme', lpad(n::text, 64, 's'), 'S', '' FROM generate_series(1, 20) AS n;
INSERT INTO hat_skill SELECT 'acme', hat.id, skill.id FROM hat, skill
WHERE skill.id LIKE 'ss%' AND hat.workspace_id = 'acme';
INSERT INTO team SELECT 'acme', lpad(n::text, 64, 't'), 'T' FROM generate_series(1, 45) AS n;
INSERT INTO team_member SELECT 'acme', team.id, user_id FROM member, team
WHERE team.id LIKE 'tt%' AND member.workspace_id = 'acme';
"""


def _fill_parts(parts: str, last: int = COUNT) -> Callable[..., Awaitable[None]]:
    async def fill(service: Service, sql: asyncpg.Connection[Any], *, large: bool = False) -> None:
        for name in ("acme", "other"):
            await service.operator.apply(small_workspace(name))
        await sql.execute(_PARTS[parts], last, large)
        if large:
            await sql.execute(_SKILLS)

    return fill


_BOBS_KEY = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
# The key reaches three tools of the small workspace, and does not reach two.
_REACHED = """
UPDATE tool SET disabled = false WHERE workspace_id = 'acme' AND id ~ '^t[0-9]';
INSERT INTO skill_tool SELECT 'acme', 'search', id FROM tool WHERE workspace_id = 'acme' AND id ~ '^t[0-9]';
"""
_FIRST_TOOLS_NOT_REACHED = 2


async def _fill_reached_tools(service: Service, sql: asyncpg.Connection[Any], *, large: bool = False) -> None:
    await _fill_parts("tools", COUNT + _FIRST_TOOLS_NOT_REACHED)(service, sql, large=large)
    await sql.execute(_REACHED)
    await insert_key(sql, id=_BOBS_KEY, type="user", user_id="bob")
    if large:
        # The hats take a part of the first page.
        await sql.execute(_PARTS["hats"], COUNT, large)


async def _fill_tool_users(service: Service, sql: asyncpg.Connection[Any], *, large: bool = False) -> None:
    await _fill_parts("members", MEMBERS)(service, sql, large=large)
    await _insert_keys(service, sql, COUNT - MEMBERS, large=large)


async def _fill_activity(service: Service, sql: asyncpg.Connection[Any], *, large: bool = False) -> None:
    for name in ("acme", "other"):
        await service.operator.apply(small_workspace(name))
    stem = _WIDE * 250 if large else ""
    key_id = await insert_key(sql)
    bobs = await insert_key(sql, type="user", user_id="bob")
    now = int(await sql.fetchval("SELECT extract(epoch FROM now()) / 60"))
    facts = [
        Fact(
            now - number % 100, bobs if number < _OF_BOB else key_id, tool=f"{stem}{number:05}", caller=f"{stem}gateway"
        )
        for number in range(COUNT)
    ]
    await insert_facts(sql, facts)


_OF_BOB = 3


async def _fill_events(service: Service, sql: asyncpg.Connection[Any], *, large: bool = False) -> None:
    for name in ("acme", "other"):
        await service.operator.apply(small_workspace(name))
    await sql.execute(
        """
        INSERT INTO audit_event (action, workspace_id, caller, peer, details)
        SELECT 'workspace.updated', 'acme', 'console', '', jsonb_build_object('name', repeat('x', $2))
        FROM generate_series(2, $1::int)
        """,
        COUNT,
        4000 if large else 1,
    )


def _list_of_parts(kind: Any, parts: str, **others: Any) -> Listing:
    others |= {"workspace_id": "other", "actor": "ada", "text": "s"}
    # Whoever may see the workspace sees all of it.
    seen = {"ada": COUNT, "bob": COUNT, "cyd": COUNT, "nobody": None}
    return Listing(kind(workspace_id="acme"), _fill_parts(parts), others, seen)


LISTS = {
    "KeyService/ListKeys": Listing(
        ListKeysRequest(workspace_id="acme"),
        _fill_keys,
        {
            "workspace_id": "other",
            "actor": "ada",
            "filter": KeyFilter(types=[KEY_TYPE_WORKSPACE]),
            "order_by": KEY_ORDER_EXPIRES_NEXT,
        },
        {"ada": COUNT, "bob": 3, "cyd": 0, "nobody": None},
    ),
    "KeyService/ExplainKey": Listing(
        ExplainKeyRequest(key_id=str(_BOBS_KEY)),
        _fill_reached_tools,
        {
            "key_id": "01890a5d-ac96-774b-bcce-b302099a8058",
            "tool_id": "web.search",
            "tool_name": ToolName(mcp_server="web", name="web_search"),
            "actor": "ada",
        },
        {"ada": COUNT, "bob": COUNT, "cyd": None, "nobody": None},
        unbound={"source_ip": "192.0.2.1"},
        elements="tools",
    ),
    "KeyService/ListToolUsers": Listing(
        ListToolUsersRequest(workspace_id="acme", tool_id="web.search"),
        _fill_tool_users,
        {
            "workspace_id": "other",
            "tool_id": "slack.history",
            "tool_name": ToolName(mcp_server="slack", name="slack_post_message"),
            "actor": "ada",
        },
        # Bob himself, and his three keys.
        {"ada": COUNT, "bob": 4, "cyd": 1, "nobody": None},
    ),
    "ActivityService/ListActivity": Listing(
        ListActivityRequest(workspace_id="acme"),
        _fill_activity,
        {
            "workspace_id": "other",
            "actor": "ada",
            "filter": ActivityFilter(verdict=VERDICT_GRANTED),
        },
        {"ada": COUNT, "bob": _OF_BOB, "cyd": 0, "nobody": None},
        apart={"unproven"},
    ),
    "AuditService/ListEvents": Listing(
        ListEventsRequest(workspace_id="acme"),
        _fill_events,
        {"workspace_id": "other", "actor": "ada", "filter": EventFilter(actions=[AUDIT_ACTION_KEY_ISSUED])},
        {"ada": COUNT, "bob": None, "cyd": None, "nobody": None},
    ),
    "CatalogService/ListWorkspaces": Listing(
        ListWorkspacesRequest(),
        _fill_workspaces,
        {"actor": "ada", "user_id": "ada", "show_deleted": True},
        {"ada": 2, "bob": 2, "nobody": 0},
    ),
    "CatalogService/ListMembers": _list_of_parts(
        ListMembersRequest, "members", team_id="support", role=MEMBER_ROLE_ADMIN
    ),
    "CatalogService/ListHats": _list_of_parts(ListHatsRequest, "hats", user_id="ada"),
    "CatalogService/ListTools": _list_of_parts(ListToolsRequest, "tools", mcp_server="web", skill_id="search"),
}
