"""SuspendKey and ResumeKey: a key that is stopped for a while, on every process and until it is resumed."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.key_service_pb2 import ResumeKeyRequest, SuspendKeyRequest
from tests.support.calls import caller, get_key, user
from tests.support.fence import epoch, touched, warm
from tests.support.fleet import ORIGIN
from tests.support.service import refusal
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    import asyncpg

    from tests.support.fleet import Process
    from tests.support.service import Client, Service

    Sql = asyncpg.Connection[Any]

pytestmark = GRPCIO_IF_SHORT

RUNTIME = {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"}


async def suspend(client: Client, key_id: str, **fields: Any) -> key_pb2.Key:
    """Suspend a key and return it."""
    response = await client.keys.SuspendKey(SuspendKeyRequest(key_id=key_id, **fields))
    key: key_pb2.Key = response.key
    return key


async def resume(client: Client, key_id: str, **fields: Any) -> key_pb2.Key:
    """Resume a key and return it."""
    response = await client.keys.ResumeKey(ResumeKeyRequest(key_id=key_id, **fields))
    key: key_pb2.Key = response.key
    return key


async def test_a_suspended_key_is_denied_until_it_is_resumed(service: Service) -> None:
    """For every use of its token. It shows by whom, when and why."""
    issued = await service.operator.issue()
    id_ = issued.key.id
    assert (await service.service.authorize(issued.token)).HasField("granted")
    suspended = await suspend(service.operator, id_, reason="Odd calls", actor="ada")
    assert await service.service.denial(issued.token) == "SUSPENDED"
    assert await service.service.denial(issued.token, tool_id="git.commit") == "SUSPENDED"
    assert suspended.state == key_pb2.KEY_STATE_SUSPENDED
    assert (suspended.suspended_by, suspended.suspend_reason) == (user("ada"), "Odd calls")
    assert suspended.suspended_at == suspended.updated_at
    assert suspended.version == 2
    assert await get_key(service.operator, id_) == suspended
    resumed = await resume(service.operator, id_, reason="All was well")
    assert (await service.service.authorize(issued.token)).HasField("granted")
    assert (resumed.state, resumed.version) == (key_pb2.KEY_STATE_ACTIVE, 3)
    assert not any(resumed.HasField(name) for name in ("suspended_at", "suspended_by"))
    assert not resumed.suspend_reason
    assert (await suspend(service.operator, id_)).suspended_by == caller("operator")


async def test_a_suspended_runtime_cannot_call(service: Service) -> None:
    """Its next call is refused like that of a stranger, and it may call again afterwards."""
    issued, other = await service.operator.issue(**RUNTIME), await service.operator.issue()
    runtime = await service.client(issued.token)
    assert (await runtime.authorize(other.token)).HasField("granted")
    await suspend(service.operator, issued.key.id)
    assert (await refusal(runtime.authorize(other.token))).code is grpc.StatusCode.UNAUTHENTICATED
    await resume(service.operator, issued.key.id)
    assert (await runtime.authorize(other.token)).HasField("granted")


async def test_both_are_idempotent(service: Service, sql: Sql) -> None:
    """Again, each changes nothing: neither the reason nor the version, and it writes no event."""
    issued = await service.operator.issue()
    id_ = issued.key.id
    assert await resume(service.operator, id_, reason="not suspended") == issued.key
    first = await suspend(service.operator, id_, reason="first", actor="ada")
    assert await suspend(service.operator, id_, reason="second") == first
    resumed = await resume(service.operator, id_)
    assert await resume(service.operator, id_) == resumed
    events = await sql.fetch(
        "SELECT action, actor, details->>'reason' AS reason FROM audit_event WHERE key_id = $1", id_
    )
    assert sorted(map(tuple, events))[1:] == [("key.resumed", None, ""), ("key.suspended", "ada", "first")]


async def test_a_revoked_key_is_neither_suspended_nor_resumed(service: Service, sql: Sql) -> None:
    """Whether or not it was suspended before. Its revocation stays as it is."""
    for was_suspended in (False, True):
        issued = await service.operator.issue()
        if was_suspended:
            await suspend(service.operator, issued.key.id)
        revoked = await service.operator.revoke(key_id=issued.key.id)
        assert revoked.HasField("suspended_at") is was_suspended
        for asked in (suspend, resume):
            refused = await refusal(asked(service.operator, issued.key.id))
            assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_NOT_ACTIVE")
            assert refused.metadata == {"key_id": issued.key.id, "state": "REVOKED"}
        assert await get_key(service.operator, issued.key.id) == revoked
        assert await service.service.denial(issued.token) == "REVOKED"
    assert await sql.fetchval("SELECT count(*) FROM audit_event WHERE action = 'key.resumed'") == 0


@pytest.mark.parametrize(
    ("actor", "fields", "reason"),
    [
        ("ada", {}, None),
        ("ada", {"type": key_pb2.KEY_TYPE_USER, "user_id": "bob"}, None),
        ("ada", RUNTIME, None),
        ("bob", {}, "ACTOR_NOT_ALLOWED"),
        ("bob", {"type": key_pb2.KEY_TYPE_USER, "user_id": "bob"}, None),
        ("bob", {"type": key_pb2.KEY_TYPE_USER, "user_id": "cyd"}, "ACTOR_NOT_ALLOWED"),
        ("bob", RUNTIME, "ACTOR_NOT_ALLOWED"),
        ("dan", {}, "ACTOR_NOT_MEMBER"),
    ],
)
async def test_who_may_suspend_which_keys(
    service: Service, actor: str, fields: dict[str, Any], reason: str | None
) -> None:
    """Whoever may revoke it. Who suspended a key may resume it too."""
    issued = await service.operator.issue(**fields)
    if reason is None:
        assert (await suspend(service.operator, issued.key.id, actor=actor)).suspended_by == user(actor)
        assert (await resume(service.operator, issued.key.id, actor=actor)).state == key_pb2.KEY_STATE_ACTIVE
        return
    for asked in (suspend, resume):
        refused = await refusal(asked(service.operator, issued.key.id, actor=actor))
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)
    assert (await service.service.authorize(issued.token)).HasField("granted")


async def test_a_member_cannot_undo_what_somebody_else_did(service: Service) -> None:
    """Whoever stole the session of a user must not resume the key that an admin or the platform has suspended."""
    issued = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob")
    for actor in ("ada", ""):
        await suspend(service.operator, issued.key.id, actor=actor)
        refused = await refusal(resume(service.operator, issued.key.id, actor="bob"))
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACTOR_NOT_ALLOWED")
        # Nor by suspending it once more, which changes nothing.
        assert (await suspend(service.operator, issued.key.id, actor="bob")).suspended_by != user("bob")
        await refusal(resume(service.operator, issued.key.id, actor="bob"))
        assert await service.service.denial(issued.token) == "SUSPENDED"
        assert (await resume(service.operator, issued.key.id, actor="ada")).state == key_pb2.KEY_STATE_ACTIVE


async def test_a_retry_of_the_issue_leaves_the_key_suspended(service: Service) -> None:
    """It gets a new secret, which is as good as the first one was: not at all, until the key is resumed."""
    issued = await service.operator.issue(request_id="r")
    await suspend(service.operator, issued.key.id)
    again = await service.operator.issue(request_id="r")
    assert again.key.state == key_pb2.KEY_STATE_SUSPENDED
    assert await service.service.denial(issued.token) == "UNKNOWN"
    assert await service.service.denial(again.token) == "SUSPENDED"
    await resume(service.operator, issued.key.id)
    assert (await service.service.authorize(again.token)).HasField("granted")


async def test_a_suspended_key_is_revoked_by_its_token(service: Service) -> None:
    """Revoking works from any state."""
    issued = await service.operator.issue()
    await suspend(service.operator, issued.key.id)
    assert (await service.operator.revoke(token=issued.token)).state == key_pb2.KEY_STATE_REVOKED


async def test_every_process_denies_when_the_suspension_returns(writer: Process, reader: Process, sql: Sql) -> None:
    """Memory drops the key, which is one change; the denial is remembered afterwards, and so is the grant."""
    one, other = writer, reader
    key, token = await one.issue()
    await warm(other, token)
    before = await epoch(sql)
    await one.changes.suspend(str(key.id), "", ORIGIN)
    assert await other.outcome(token) == "SUSPENDED"
    assert await touched(sql, before) == {(key.id, None, None, None)}
    hits = other.memory.hits
    assert await other.outcome(token) == "SUSPENDED"
    assert other.memory.hits == hits + 1
    before = await epoch(sql)
    await one.changes.resume(str(key.id), "", ORIGIN)
    assert await other.outcome(token) == "granted"
    assert await touched(sql, before) == {(key.id, None, None, None)}


async def test_a_suspended_key_has_no_first_use(writer: Process, sql: Sql) -> None:
    """With a lease or without."""
    key, token = await writer.issue()
    await writer.changes.suspend(str(key.id), "", ORIGIN)
    assert await writer.outcome(token) == "SUSPENDED"
    await writer.follow()
    assert await writer.outcome(token) == "SUSPENDED"
    assert await sql.fetchval("SELECT last_used_at FROM key") is None


async def test_a_resume_never_undoes_a_revocation(writer: Process, sql: Sql) -> None:
    """Whichever of the two gets the row first: in the end the key is revoked."""
    for _ in range(10):
        key, token = await writer.issue()
        await writer.changes.suspend(str(key.id), "", ORIGIN)
        results = await asyncio.gather(
            writer.changes.resume(str(key.id), "", ORIGIN), writer.revoke(key), return_exceptions=True
        )
        assert results[1] is None
        assert await writer.outcome(token) == "REVOKED"
    assert await sql.fetchval("SELECT count(*) FROM key WHERE revoked_at IS NULL") == 0
