"""The audit trail: each change is recorded once, in full, together with the change itself."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import key_pb2
from skilder_keys.domain.audit_check import ExpectedHead
from tests.support.audit import findings
from tests.support.calls import call, delete_workspace, get_key, get_workspace, list_keys, part, remove
from tests.support.service import Service, refusal
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

pytestmark = GRPCIO_IF_SHORT

Event = dict[str, Any]


async def events(sql: asyncpg.Connection[Any]) -> list[Event]:
    """Return all events in order, with parsed details. Check their times and peers, and leave those out.

    The times must be recent, and the peers addresses of this machine.
    """
    found = []
    columns = "at, action, workspace_id, key_id, caller, actor, peer, details"
    for row in await sql.fetch(f"SELECT {columns} FROM audit_event ORDER BY id"):  # noqa: S608 - constants
        event = dict(row)
        assert timedelta(minutes=-1) < datetime.now(UTC) - event.pop("at") < timedelta(minutes=1)
        peer = event.pop("peer")
        assert peer.startswith(("ipv4:127.0.0.1:", "ipv6:%5B::1%5D:")), peer
        event["details"] = json.loads(event["details"])
        event["details"].pop("diff", None)  # test_audit_random.py and test_field_changes.py look at those
        if event["key_id"]:
            event["details"].pop("changes", None)  # test_key_events.py looks at those
        found.append(event)
    return found


def key_event(action: str, key_id: str, details: Event, *, caller: str = "operator", actor: str | None = None) -> Event:
    """Return the expected event of a change of a key of `acme`."""
    return {
        "action": action,
        "workspace_id": "acme",
        "key_id": UUID(key_id),
        "caller": caller,
        "actor": actor,
        "details": {"user_id": None, "runtime_id": None} | details,
    }


def workspace_event(action: str, details: Event, *, caller: str = "operator", actor: str | None = None) -> Event:
    """Return the expected event of a change of `acme` itself."""
    return {
        "action": action,
        "workspace_id": "acme",
        "key_id": None,
        "caller": caller,
        "actor": actor,
        "details": details,
    }


async def test_each_change_of_a_key_is_recorded_once(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Issued, renewed and revoked: which key, for whom, by whom and why."""
    shared = await service.operator.issue(
        hat_limit={"hat_ids": ["everyone", "engineer"]}, actor="ada", request_id="r-1"
    )
    await service.operator.issue(hat_limit={"hat_ids": ["everyone", "engineer"]}, actor="ada", request_id="r-1")
    user = await service.operator.issue(
        type=key_pb2.KEY_TYPE_USER, user_id="bob", description="Laptop", expires_at=Timestamp(seconds=1_893_456_000)
    )
    runtime = await service.operator.issue(type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="runtime-7", description="Runtime")
    await service.operator.revoke(key_id=shared.key.id, reason="Leaked", actor="ada")
    await service.operator.revoke(token=user.token, actor="mallory")
    await service.operator.revoke(key_id=runtime.key.id)
    hat_ids = ["engineer", "everyone"]
    bob, seven = {"user_id": "bob"}, {"runtime_id": "runtime-7"}
    without: dict[str, Any] = {"hat_ids": None, "networks": None, "expires_at": None, "labels": {}}
    issued = without | {"type": "workspace", "description": "Slack Support Bot", "hat_ids": hat_ids}
    laptop = without | {"type": "user", "description": "Laptop", "expires_at": "2030-01-01T00:00:00+00:00"}
    instance = without | {
        "type": "runtime",
        "description": "Runtime",
        "expires_at": (await get_key(service.operator, runtime.key.id)).expires_at.ToDatetime(UTC).isoformat(),
    }
    assert (await events(sql))[1:] == [
        key_event("key.issued", shared.key.id, issued, actor="ada"),
        key_event("key.renewed", shared.key.id, {}, actor="ada"),
        key_event("key.issued", user.key.id, laptop | bob, caller="operator"),
        key_event("key.issued", runtime.key.id, instance | seven, caller="operator"),
        key_event("key.revoked", shared.key.id, {"reason": "Leaked"}, actor="ada"),
        key_event("key.revoked", user.key.id, {"reason": ""} | bob, caller="operator", actor="mallory"),
        key_event("key.revoked", runtime.key.id, {"reason": ""} | seven, caller="operator"),
    ]


async def test_each_change_of_a_workspace_is_recorded_once(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """With the new version and the changed parts in order; a deletion has the version that was deleted."""
    workspace = small_workspace()
    workspace.name = "Acme Ltd"
    remove(workspace.members, "cyd")
    workspace.hats.add(id="new", name="New")
    workspace.hats.add(id="added", name="Added")
    part(workspace.tools, "git.push").disabled = False
    await service.operator.apply(workspace, actor="ada")
    await delete_workspace(service.operator, actor="ada")
    added = {
        "workspace": {"added": ["acme"]},
        "member": {"added": ["ada", "bob", "cyd"]},
        "team": {"added": ["customer", "engineering", "support"]},
        "hat": {"added": ["customer-care", "engineer", "everyone", "support-desk"]},
        "skill": {"added": ["code", "search", "slack-reading", "slack-replies"]},
        "tool": {"added": ["git.commit", "git.push", "slack.history", "slack.post", "web.search"]},
    }
    changed = {
        "workspace": {"updated": ["acme"]},
        "member": {"removed": ["cyd"]},
        "hat": {"added": ["added", "new"]},
        "tool": {"updated": ["git.push"]},
    }
    assert await events(sql) == [
        workspace_event("workspace.applied", {"version": 1, "changes": added}, caller="operator"),
        workspace_event("workspace.applied", {"version": 2, "changes": changed}, actor="ada"),
        workspace_event("workspace.deleted", {"version": 2}, actor="ada"),
    ]


async def test_calls_that_change_nothing_are_not_recorded(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Reading, authorizing, and repeating an apply, a revocation or a deletion leave no event."""
    issued = await service.operator.issue()
    await service.operator.revoke(key_id=issued.key.id)
    await service.operator.apply(small_workspace("globex"))
    await delete_workspace(service.operator, "globex")
    before = await events(sql)
    await service.operator.revoke(key_id=issued.key.id, reason="again")
    await service.operator.revoke(token=issued.token, reason="again")
    await delete_workspace(service.operator, "globex")
    for actor in ("", "ada"):
        assert (await service.operator.apply(small_workspace(), actor=actor)).version == 1
    await service.operator.authorize(issued.token)
    await get_key(service.operator, issued.key.id)
    await list_keys(service.operator)
    await get_workspace(service.operator)
    await call(service.operator, "CatalogService/ListWorkspaces", b"")
    assert await events(sql) == before


async def test_a_refused_call_is_not_recorded(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Whatever the reason, and however far the call got."""
    used = await service.operator.issue(request_id="used")
    await service.operator.authorize(used.token)
    other = small_workspace()
    other.name = "Another name"
    dangling = small_workspace()
    remove(dangling.teams, "engineering")
    before = await events(sql)
    refused = [
        await refusal(asked)
        for asked in (
            service.operator.issue(description=""),
            service.operator.issue(hat_limit={"hat_ids": ["nope"]}),
            service.operator.issue(workspace_id="nowhere"),
            service.operator.issue(actor="bob"),
            service.operator.issue(request_id="used"),
            service.operator.issue(request_id="used", description="Other"),
            service.service.issue(),
            service.operator.revoke(key_id=used.key.id, actor="bob"),
            service.operator.revoke(token="hello"),
            service.operator.apply(dangling),
            service.operator.apply(other, actor="bob"),
            service.operator.apply(other, expected_version=7),
            service.operator.apply(small_workspace("globex"), expected_version=7),
            delete_workspace(service.operator, actor="bob"),
            delete_workspace(service.operator, expected_version=7),
        )
    ]
    assert len({each.reason for each in refused}) == 6
    assert await events(sql) == before


async def test_a_change_that_cannot_be_recorded_is_not_made(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """If the audit table accepts no rows, every change fails as INTERNAL and is undone."""
    issued = await service.operator.issue(request_id="r-1")
    rows = (
        "SELECT key::text FROM key UNION ALL SELECT workspace::text FROM workspace UNION ALL SELECT hat::text FROM hat"
    )
    before = await sql.fetch(rows)
    await sql.execute("ALTER TABLE audit_event ADD CONSTRAINT full_up CHECK (id < 0) NOT VALID")
    other = small_workspace()
    remove(other.hats, "engineer")
    for asked in (
        service.operator.issue(),
        service.operator.issue(request_id="r-1"),
        service.operator.revoke(key_id=issued.key.id),
        service.operator.apply(other),
        service.operator.apply(small_workspace("globex")),
        delete_workspace(service.operator),
    ):
        refused = await refusal(asked)
        assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
        assert refused.message == "The service failed: see its log."
    assert await sql.fetch(rows) == before
    assert (await service.service.authorize(issued.token)).HasField("granted")


async def test_a_change_and_its_event_are_of_one_transaction(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Postgres shows which transaction wrote a row: each change and its event have the same."""
    issued = await service.operator.issue(request_id="r-1")
    same = "SELECT count(*) FROM audit_event JOIN {} AS it ON it.xmin = audit_event.xmin WHERE action = $1"
    assert await sql.fetchval(same.format("key"), "key.issued") == 1
    await service.operator.issue(request_id="r-1")
    assert await sql.fetchval(same.format("key"), "key.renewed") == 1
    await service.operator.revoke(key_id=issued.key.id)
    assert await sql.fetchval(same.format("key"), "key.revoked") == 1
    assert await sql.fetchval(same.format("workspace"), "workspace.applied") == 1
    await delete_workspace(service.operator)
    assert await sql.fetchval(same.format("workspace"), "workspace.deleted") == 1


async def test_the_details_hold_no_hash(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Neither of the secret nor of the request. That they hold no token is checked at the end of every test here."""
    issued = await service.operator.issue(request_id="r-1")
    await service.operator.issue(request_id="r-1")
    await service.operator.revoke(key_id=issued.key.id)
    hashes = await sql.fetchrow("SELECT secret_hash, encode(request_digest, 'hex') FROM key")
    assert hashes is not None
    for details in await sql.fetch("SELECT details::text FROM audit_event"):
        assert "argon2" not in details[0]
        assert not any(each in details[0] for each in hashes)


async def test_the_log_line_of_a_change_has_the_head(empty_service: Service, sql: asyncpg.Connection[Any]) -> None:
    """As `audit verify --expect-head` takes it: of calls that change something, and of no others."""
    service = empty_service
    await service.operator.apply(small_workspace())
    issued = await service.operator.issue()
    await service.operator.revoke(key_id=issued.key.id)
    await service.operator.revoke(key_id=issued.key.id)
    await service.operator.apply(small_workspace())
    await delete_workspace(service.operator)
    rows = await sql.fetch("SELECT workspace_id, number, encode(hash, 'hex') AS hash FROM audit_event ORDER BY id")
    logged = [each["audit_head"] for each in service.log.events if "audit_head" in each]
    assert logged == [":".join(map(str, row)) for row in rows]
    assert len(logged) == 4
    heads = [ExpectedHead.parse(each) for each in logged]
    assert await findings(sql, expected=heads) == []
    assert not any("audit_head" in each for each in service.log.calls("KeyService/RevokeKey")[1:])
