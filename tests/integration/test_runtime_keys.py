"""Runtime keys manage themselves: their lifetime, RotateOwnKey, and what another key means for those there are."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.key_service_pb2 import PREVIOUS_KEYS_KEEP, PREVIOUS_KEYS_REVOKE
from tests.support.calls import METHODS, call, get_key, list_keys, runtime
from tests.support.service import Service, refusal, serving
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

pytestmark = GRPCIO_IF_SHORT

DAY = 24 * 3600
RUNTIME: dict[str, Any] = {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"}
GARBAGE = b"\xff\xff\xff\xff"


def lifetime(key: key_pb2.Key) -> float:
    """Return how long a key lives, in seconds."""
    return (key.expires_at.ToNanoseconds() - key.created_at.ToNanoseconds()) / 1e9


async def test_a_runtime_key_lives_for_thirty_days(service: Service) -> None:
    """Unless the platform says otherwise. Other keys live on."""
    assert lifetime((await service.operator.issue(**RUNTIME)).key) == 30 * DAY
    chosen = await service.operator.issue(**RUNTIME | {"runtime_id": "r"}, lifetime=Duration(seconds=3600))
    assert lifetime(chosen.key) == 3600
    assert not (await service.operator.issue()).key.HasField("expires_at")


async def test_a_runtime_rotates_its_own_key(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """The bearer token says which. Both tokens work during the grace; the runtime is named as who did it."""
    issued = await service.operator.issue(**RUNTIME)
    instance = await service.client(issued.token)
    rotated = await instance.rotate_own(grace=Duration(seconds=3600))
    assert rotated.key.created_by == runtime("runtime-7")
    assert (rotated.key.runtime_id, rotated.key.family_id) == ("runtime-7", issued.key.id)
    assert (rotated.key.predecessor_id, rotated.predecessor.successor_id) == (issued.key.id, rotated.key.id)
    assert lifetime(rotated.key) == 30 * DAY
    read = await get_key(service.operator, rotated.key.id)
    assert (list(rotated.key.actions), len(read.actions)) == ([], 4)  # nothing of it is for the runtime to do
    del read.actions[:]
    assert read == rotated.key
    after = await service.client(rotated.token)
    for each in (instance, after):
        assert (await each.authorize(issued.token)).HasField("granted")
    event = await sql.fetchrow("SELECT caller, actor, key_id::text FROM audit_event WHERE action = 'key.rotated'")
    assert event is not None
    assert tuple(event) == ("runtime:runtime-7", None, issued.key.id)
    made_by = await sql.fetchrow("SELECT created_by_kind, created_by_id FROM key WHERE id = $1", rotated.key.id)
    assert made_by is not None
    assert tuple(made_by) == ("caller", "runtime:runtime-7"), "as workers of the version before can read it"
    assert service.log.calls("RuntimeService/RotateOwnKey")[-1]["key"] == rotated.key.id
    again = await after.rotate_own()
    assert (await (await service.client(again.token)).authorize(again.token)).HasField("granted")


async def test_a_runtime_can_do_nothing_else_that_is_new(service: Service) -> None:
    """Besides asking about tokens of its workspace. And nobody else can rotate a key of their own: they have none."""
    instance = await service.client((await service.operator.issue(**RUNTIME)).token)
    allowed = set()
    for method in METHODS:
        refused = await refusal(call(instance, method, GARBAGE))
        if refused.reason != "CALLER_NOT_ALLOWED":
            allowed.add(method)
    assert allowed == {
        "AuthorizationService/Authorize",
        "AuthorizationService/BatchAuthorize",
        "AuthorizationService/ReadToolSet",
        "RuntimeService/RotateOwnKey",
    }
    for client in (service.operator, service.console, service.service, service.auditor):
        refused = await refusal(client.rotate_own())
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
    agent = await service.operator.issue()
    assert (await refusal((await service.client(agent.token)).rotate_own())).reason == "UNAUTHENTICATED"


async def test_a_runtime_lengthens_no_life(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Neither that of the next key, nor, by a chain of rotations, that of later ones."""
    issued = await service.operator.issue(**RUNTIME, lifetime=Duration(seconds=10 * DAY))
    instance = await service.client(issued.token)
    refused = await refusal(instance.rotate_own(lifetime=Duration(seconds=10 * DAY + 1)))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == {"lifetime": "is 864001 s; 1 s to 10 days are allowed"}
    rotated = await instance.rotate_own(lifetime=Duration(seconds=5 * DAY))
    assert lifetime(rotated.key) == 5 * DAY
    refused = await refusal((await service.client(rotated.token)).rotate_own(lifetime=Duration(seconds=6 * DAY)))
    assert list(refused.fields) == ["lifetime"]
    await sql.execute("UPDATE key SET expires_at = NULL WHERE id = $1", rotated.key.id)
    assert lifetime((await (await service.client(rotated.token)).rotate_own()).key) == 30 * DAY


async def test_a_retry_returns_the_same_key_with_a_new_token(service: Service) -> None:
    """As long as the successor was not used; the old token proves that it is the same runtime."""
    instance = await service.client((await service.operator.issue(**RUNTIME)).token)
    first = await instance.rotate_own(request_id="r-1")
    again = await instance.rotate_own(request_id="r-1")
    assert (again.key, again.predecessor) == (first.key, first.predecessor)
    assert (await refusal((await service.client(first.token)).authorize(first.token))).reason == "UNAUTHENTICATED"
    await (await service.client(again.token)).authorize("hello")
    refused = await refusal(instance.rotate_own(request_id="r-1"))
    assert (refused.reason, refused.metadata) == ("REQUEST_USED", {"key_id": first.key.id})
    assert (await refusal(instance.rotate_own(request_id="r-2"))).metadata == {"successor_id": first.key.id}


async def test_runtimes_with_one_name_have_separate_request_ids(service: Service) -> None:
    """In two workspaces: neither learns of the other's keys."""
    await service.operator.apply(small_workspace("globex"))
    keys = []
    for workspace in ("acme", "globex"):
        issued = await service.operator.issue(**RUNTIME, workspace_id=workspace)
        keys.append((await (await service.client(issued.token)).rotate_own(request_id="r-1")).key)
    assert [key.workspace_id for key in keys] == ["acme", "globex"]


async def test_a_key_that_has_ended_cannot_rotate_itself(service: Service) -> None:
    """Revoked or expired, it is nobody's token any more."""
    issued = await service.operator.issue(**RUNTIME)
    instance = await service.client(issued.token)
    rotated = await instance.rotate_own(grace=Duration())
    assert (await refusal(instance.rotate_own())).reason == "UNAUTHENTICATED"
    await service.operator.revoke(key_id=rotated.key.id)
    assert (await refusal((await service.client(rotated.token)).rotate_own())).reason == "UNAUTHENTICATED"


async def test_another_key_for_a_runtime_needs_a_word_about_those_it_has(service: Service) -> None:
    """Without it nothing is issued. A key that was revoked or has expired does not count."""
    first = await service.operator.issue(**RUNTIME)
    newest = await service.operator.rotate(first.key.id)
    refused = await refusal(service.operator.issue(**RUNTIME))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "RUNTIME_HAS_KEYS")
    assert refused.metadata == {"family_id": first.key.id}
    assert len((await list_keys(service.operator)).keys) == 2
    await service.operator.apply(small_workspace("globex"))
    await service.operator.issue(**RUNTIME, workspace_id="globex")
    await service.operator.issue(**RUNTIME | {"runtime_id": "runtime-8"})
    for key in (first.key, newest.key):
        await service.operator.revoke(key_id=key.id)
    assert (await service.operator.issue(**RUNTIME)).key.family_id not in {first.key.id, ""}


async def test_the_keys_of_a_runtime_are_kept(service: Service) -> None:
    """Two families then go on beside each other."""
    first = await service.operator.issue(**RUNTIME)
    second = await service.operator.issue(**RUNTIME, previous_keys=PREVIOUS_KEYS_KEEP)
    assert second.key.family_id == second.key.id
    for token in (first.token, second.token):
        assert (await (await service.client(token)).authorize(token)).HasField("granted")


async def test_the_keys_of_a_runtime_are_revoked(transport: str, service: Service, tmp_path: Path) -> None:
    """Every generation of every family, at once and on every server; no other runtime's."""
    async with serving(service.database_url, tmp_path, transport=transport) as second:
        await service.operator.apply(small_workspace("globex"))
        others = [
            await service.operator.issue(**RUNTIME, workspace_id="globex"),
            await service.operator.issue(**RUNTIME | {"runtime_id": "runtime-8"}),
        ]
        one = await service.operator.issue(**RUNTIME)
        two = await service.operator.issue(**RUNTIME, previous_keys=PREVIOUS_KEYS_KEEP)
        old = [one.token, two.token, (await service.operator.rotate(two.key.id)).token]
        for token in old:
            assert (await second.service.authorize(token)).HasField("granted")
        new = await service.operator.issue(**RUNTIME, previous_keys=PREVIOUS_KEYS_REVOKE)
        for token in old:
            assert await second.service.denial(token) == "REVOKED"
        for each in (*others, new):
            assert (await second.service.authorize(each.token)).HasField("granted")
        key = await get_key(service.operator, one.key.id)
        assert key.revoke_reason == "another key was issued for the runtime instance"


async def test_a_retry_of_an_issue_revokes_nothing_new(service: Service) -> None:
    """It finds the key that it has issued, also where another would now be refused."""
    order = RUNTIME | {"request_id": "r-1"}
    first = await service.operator.issue(**order)
    assert (await service.operator.issue(**order)).key == first.key
    order |= {"request_id": "r-2", "previous_keys": PREVIOUS_KEYS_REVOKE}
    second = await service.operator.issue(**order)
    again = await service.operator.issue(**order)
    assert again.key == second.key
    assert (await service.service.authorize(again.token)).HasField("granted")
    changed = await refusal(service.operator.issue(**order | {"previous_keys": PREVIOUS_KEYS_KEEP}))
    assert list(changed.fields) == ["request_id"]


async def test_only_a_runtime_has_previous_keys(service: Service) -> None:
    """The field is refused for other types."""
    for type_ in ({}, {"type": key_pb2.KEY_TYPE_USER, "user_id": "bob"}):
        refused = await refusal(service.operator.issue(**type_, previous_keys=PREVIOUS_KEYS_REVOKE))
        assert refused.fields == {"previous_keys": "is set, but is for runtime keys only"}


async def test_one_of_several_issues_at_once_wins(service: Service) -> None:
    """So a runtime never gets two families because nobody saw the other."""
    for round_ in range(5):
        order = RUNTIME | {"runtime_id": f"runtime-{round_}"}
        results = await asyncio.gather(*(service.operator.issue(**order) for _ in range(5)), return_exceptions=True)
        refused = [each for each in results if isinstance(each, grpc.aio.AioRpcError)]
        assert len(refused) == 4
        assert {each.code() for each in refused} == {grpc.StatusCode.FAILED_PRECONDITION}
