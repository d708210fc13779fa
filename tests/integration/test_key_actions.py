"""`Key.actions`: what an actor may do with a key, which is what the calls then allow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder_keys.domain.keys import KeyAction
from tests.integration.test_rotate import RUNTIME, USER
from tests.support.calls import delete_workspace, get_key, list_keys
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from tests.support.service import Client, Service

    Sql = asyncpg.Connection[Any]

pytestmark = GRPCIO_IF_SHORT

ADMIN, OWNER, OTHER = "ada", "bob", "cyd"
SUSPENDED = "suspended_at = now(), suspended_by_kind = 'user', suspended_by_id = '{}', suspend_reason = ''"
STATES: dict[str, tuple[dict[str, Any], str]] = {
    "of a user": (USER, ""),
    "of a workspace": ({}, ""),
    "of a runtime": (RUNTIME, ""),
    "suspended by its user": (USER, SUSPENDED.format(OWNER)),
    "suspended by an admin": (USER, SUSPENDED.format(ADMIN)),
    "expired": (USER, "created_at = created_at, expires_at = created_at + interval '1 microsecond'"),
    "revoked": (USER, "revoked_at = now(), revoked_by_kind = 'user', revoked_by_id = 'ada', revoke_reason = ''"),
    "rotated": (USER, "ROTATE"),
    "rotated, and the successor revoked": (USER, "ROTATE AND REVOKE"),
}


async def made(service: Service, sql: Sql, name: str) -> str:
    """Issue a key, bring it into a state, and return its id."""
    order, change = STATES[name]
    if order is RUNTIME:
        order = {**order, "previous_keys": "PREVIOUS_KEYS_KEEP"}
    key_id = str((await service.operator.issue(**order)).key.id)
    if change.startswith("ROTATE"):
        rotated = await service.operator.rotate(key_id)
        if change.endswith("REVOKE"):
            await service.operator.revoke(key_id=rotated.key.id)
    elif change:
        await sql.execute(f"UPDATE key SET {change} WHERE id = $1", key_id)  # noqa: S608 - constants
    return key_id


async def changes(client: Client, action: KeyAction, key_id: str, actor: str) -> bool:
    """Return whether a call is allowed and changes the key."""
    before = (await get_key(client, key_id)).version
    of_key: dict[str, Any] = {"key_id": key_id, "actor": actor}
    try:
        match action:
            case KeyAction.UPDATE:
                request = pb.UpdateKeyRequest(key=key_pb2.Key(id=key_id, description="Another"), actor=actor)
                request.update_mask.paths.append("description")
                await client.keys.UpdateKey(request)
            case KeyAction.ROTATE:
                await client.keys.RotateKey(pb.RotateKeyRequest(**of_key))
                return True  # the key itself may keep the end that it has
            case KeyAction.SUSPEND:
                await client.keys.SuspendKey(pb.SuspendKeyRequest(**of_key))
            case KeyAction.RESUME:
                await client.keys.ResumeKey(pb.ResumeKeyRequest(**of_key))
            case KeyAction.REVOKE:
                await client.keys.RevokeKey(pb.RevokeKeyRequest(**of_key))
    except grpc.aio.AioRpcError as error:
        if error.code() not in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.FAILED_PRECONDITION}:
            raise
        return False
    return (await get_key(client, key_id)).version > before


def names(key: key_pb2.Key) -> set[str]:
    """Return the actions of a key."""
    return {key_pb2.KeyAction.Name(each).removeprefix("KEY_ACTION_").lower() for each in key.actions}


@pytest.mark.parametrize("name", STATES)
async def test_the_actions_are_the_calls_that_are_allowed(service: Service, sql: Sql, name: str) -> None:
    """Whoever asks: the caller itself, an admin, and the key's user. What would change nothing is no action."""
    key_id = await made(service, sql, name)
    for actor in ("", ADMIN, OWNER):
        if actor == OWNER and name in {"of a workspace", "of a runtime"}:
            continue  # who may not see it
        shown = await get_key(service.operator, key_id, actor=actor)
        listed = await list_keys(service.operator, workspace_id="acme", actor=actor)
        assert next(each for each in listed.keys if each.id == key_id).actions == shown.actions
        assert list(shown.actions) == sorted(shown.actions)
        allowed = {
            action.value
            for action in KeyAction
            if await changes(service.operator, action, await made(service, sql, name), actor)
        }
        assert names(shown) == allowed, actor


async def test_nobody_acts_where_nobody_can(service: Service, sql: Sql) -> None:
    """Of a key whose user has left, or whose workspace was deleted, the rest remains."""
    key_id = await made(service, sql, "of a user")
    workspace = small_workspace()
    del workspace.members[:]
    workspace.members.add(user_id=ADMIN, role="MEMBER_ROLE_ADMIN")
    await service.operator.apply(workspace, max_removals=10)
    assert names(await get_key(service.operator, key_id, actor=ADMIN)) == {"update", "suspend", "revoke"}
    await delete_workspace(service.operator)
    assert names(await get_key(service.operator, key_id)) == {"suspend", "revoke"}
    assert not await changes(service.operator, KeyAction.UPDATE, key_id, "")
    assert await changes(service.operator, KeyAction.SUSPEND, key_id, "")
    assert names(await get_key(service.operator, key_id)) == {"resume", "revoke"}


async def test_changes_return_the_actions_that_are_left(service: Service, sql: Sql) -> None:
    """For the actor of the change."""
    key_id = await made(service, sql, "of a user")
    of_key: dict[str, Any] = {"key_id": key_id, "actor": OWNER}
    suspended = await service.operator.keys.SuspendKey(pb.SuspendKeyRequest(**of_key))
    assert names(suspended.key) == {"update", "resume", "revoke"}
    resumed = await service.operator.keys.ResumeKey(pb.ResumeKeyRequest(**of_key))
    assert names(resumed.key) == {"update", "rotate", "suspend", "revoke"}
    explained = await service.operator.keys.ExplainKey(pb.ExplainKeyRequest(**of_key))
    assert explained.key.actions == resumed.key.actions
    rotated = await service.operator.keys.RotateKey(pb.RotateKeyRequest(**of_key))
    assert names(rotated.key) == {"update", "rotate", "suspend", "revoke"}
    assert names(rotated.predecessor) == {"update", "suspend", "revoke"}
    revoked = await service.operator.keys.RevokeKey(pb.RevokeKeyRequest(**of_key))
    assert names(revoked.key) == set()
    reached = await service.operator.keys.ListToolUsers(
        pb.ListToolUsersRequest(workspace_id="acme", tool_id="web.search", actor=OWNER)
    )
    assert [names(each.key) for each in reached.users if each.HasField("key")] == [
        {"update", "rotate", "suspend", "revoke"}
    ]
