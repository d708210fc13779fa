"""RotateKey gives a key a successor, and lets the key itself expire after a grace."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.key_service_pb2 import SuspendKeyRequest
from skilder_keys.domain.token import Token
from skilder_keys.storage.key_families import COPIED
from tests.support.calls import caller, delete_workspace, get_key, list_keys, remove, user
from tests.support.service import Service, refusal, serving
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    import asyncpg

pytestmark = GRPCIO_IF_SHORT

DAY = 24 * 3600
USER: dict[str, Any] = {"type": key_pb2.KEY_TYPE_USER, "user_id": "bob"}
RUNTIME: dict[str, Any] = {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"}

OF_ONE_GENERATION = {
    "id": "each key has its own",
    "secret_hash": "each key has its own",
    "guarded_hash": "each key has its own",
    "request_caller": "of the request that made it",
    "request_id": "of the request that made it",
    "request_digest": "of the request that made it",
    "created_at": "when the key was made",
    "created_by_kind": "who made the key",
    "created_by_id": "who made the key",
    "last_used_at": "a new key was never used",
    "used_on": "a new key was never used",
    "revoked_at": "only an active key is rotated",
    "revoked_by_kind": "only an active key is rotated",
    "revoked_by_id": "only an active key is rotated",
    "revoke_reason": "only an active key is rotated",
    "suspended_at": "only an active key is rotated",
    "suspended_by_kind": "only an active key is rotated",
    "suspended_by_id": "only an active key is rotated",
    "suspend_reason": "only an active key is rotated",
    "expires_at": "the successor begins a new life",
    "unrotated_expires_at": "the successor was not rotated",
    "family_id": "the link",
    "predecessor_id": "the link",
    "version": "counts the changes of one key",
    "updated_at": "of the changes of one key",
}
"""The columns of `key` that a successor does not have from its predecessor, and why."""

TABLES_ABOUT_KEYS = {"key", "key_hat"}
"""The tables with rows of a key: the hats are copied. (Audit events are of one generation, and outlive their key.)"""


def seconds_between(later: Timestamp, earlier: Timestamp) -> float:
    """Return the seconds from one time to another."""
    return (later.ToNanoseconds() - earlier.ToNanoseconds()) / 1e9


async def actions(sql: asyncpg.Connection[Any]) -> list[str]:
    """Return what the audit trail records about keys, in order."""
    rows = await sql.fetch("SELECT action FROM audit_event WHERE key_id IS NOT NULL ORDER BY id")
    return [row["action"] for row in rows]


@pytest.mark.parametrize(
    ("order", "actor"),
    [
        pytest.param({}, "", id="workspace"),
        pytest.param({"hat_limit": {"hat_ids": ["everyone", "engineer"]}}, "ada", id="limited"),
        pytest.param({"hat_limit": {"hat_ids": []}}, "", id="limited to no hat"),
        pytest.param(USER, "bob", id="user"),
        pytest.param(RUNTIME, "", id="runtime"),
        pytest.param({"lifetime": Duration(seconds=90 * DAY)}, "", id="with an expiry"),
    ],
)
async def test_a_successor_is_the_same_key_with_another_token(
    service: Service, sql: asyncpg.Connection[Any], order: dict[str, Any], actor: str
) -> None:
    """It differs in what every key has of its own, and lives as long; both are linked, and both work for a day."""
    first = await service.operator.issue(**order)
    before = await service.service.authorize(first.token)
    rotated = await service.operator.rotate(first.key.id, actor=actor)
    key, predecessor = rotated.key, rotated.predecessor
    assert str(Token.parse(rotated.token).key_id) == key.id != first.key.id
    expected = key_pb2.Key()
    expected.CopyFrom(first.key)
    expected.id, expected.hint = key.id, f"{rotated.token[:4]}{rotated.token[16:26]}"
    expected.predecessor_id = expected.family_id = first.key.id
    for name in ("created_at", "updated_at"):
        getattr(expected, name).CopyFrom(key.created_at)
    expected.created_by.CopyFrom(user(actor) if actor else caller("operator"))
    if first.key.HasField("expires_at"):
        expected.expires_at.CopyFrom(key.expires_at)
        assert seconds_between(key.expires_at, key.created_at) == seconds_between(
            first.key.expires_at, first.key.created_at
        )
    assert key == expected
    assert 0 <= seconds_between(predecessor.expires_at, key.created_at) - DAY < 60
    assert (predecessor.state, predecessor.successor_id) == (key_pb2.KEY_STATE_ACTIVE, key.id)
    assert predecessor.version == first.key.version + 1
    assert await get_key(service.operator, key.id) == key
    assert (await get_key(service.operator, first.key.id)).successor_id == key.id
    granted = (await service.service.authorize(rotated.token)).granted
    assert granted.key.family_id == first.key.id
    assert granted.tool_set == before.granted.tool_set
    old = (await service.service.authorize(first.token)).granted.key
    assert (old.expires_at, old.family_id) == (predecessor.expires_at, first.key.id)
    assert await actions(sql) == ["key.issued", "key.rotated"]


async def test_every_column_is_copied_or_of_one_generation(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """A column that a later version adds must be in one of the two lists; the copied ones are equal."""
    issued = await service.operator.issue(hat_limit={"hat_ids": ["engineer"]})
    rotated = await service.operator.rotate(issued.key.id)
    rows = [
        dict(await sql.fetchrow("SELECT * FROM key WHERE id = $1", key.id))  # type: ignore[arg-type]
        for key in (issued.key, rotated.key)
    ]
    assert set(rows[0]) == set(COPIED) | set(OF_ONE_GENERATION)
    assert set(COPIED).isdisjoint(OF_ONE_GENERATION)
    tables = await sql.fetch(
        "SELECT DISTINCT conrelid::regclass::text FROM pg_constraint WHERE confrelid = 'key'::regclass"
    )
    assert {each[0] for each in tables} == TABLES_ABOUT_KEYS
    for name in COPIED:
        assert rows[0][name] == rows[1][name], name


async def test_a_removed_hat_stays_in_the_limit_of_a_successor(service: Service) -> None:
    """It grants nothing, and grants again when the hat comes back."""
    first = await service.operator.issue(hat_limit={"hat_ids": ["engineer", "everyone"]})
    without = small_workspace()
    remove(without.hats, "engineer")
    await service.operator.apply(without)
    rotated = await service.operator.rotate(first.key.id)
    assert list(rotated.key.hat_limit.hat_ids) == ["engineer", "everyone"]
    await service.operator.apply(small_workspace())
    tools = (await service.service.authorize(rotated.token)).granted.tool_set.tools
    assert "git.commit" in {tool.id for tool in tools}


@pytest.mark.parametrize("grace", [0, 1, 30 * DAY])
async def test_the_grace_is_chosen(service: Service, grace: int) -> None:
    """From none at all to thirty days; after it the old token is denied, and the new one still works."""
    first = await service.operator.issue()
    await service.service.authorize(first.token)
    rotated = await service.operator.rotate(first.key.id, grace=Duration(seconds=grace))
    left = seconds_between(rotated.predecessor.expires_at, rotated.key.created_at)
    assert grace <= left < grace + 60
    if grace == 0:
        assert await service.service.denial(first.token) == "EXPIRED"
        assert rotated.predecessor.state == key_pb2.KEY_STATE_EXPIRED
    elif grace == 1:
        async with asyncio.timeout(60):
            while (await service.service.authorize(first.token)).HasField("granted"):
                await asyncio.sleep(0.05)
        assert await service.service.denial(first.token) == "EXPIRED"
    assert (await service.service.authorize(rotated.token)).HasField("granted")


async def test_a_grace_lengthens_no_life(service: Service) -> None:
    """A key that expires sooner still does."""
    first = await service.operator.issue(lifetime=Duration(seconds=3600))
    rotated = await service.operator.rotate(first.key.id, grace=Duration(seconds=30 * DAY))
    assert rotated.predecessor.expires_at == first.key.expires_at


async def test_the_successors_expiry_is_chosen(service: Service) -> None:
    """As a lifetime, as a time, or as long as before: through several generations, and after a rotation cut it."""
    first = await service.operator.issue(lifetime=Duration(seconds=10 * DAY))
    second = await service.operator.rotate(first.key.id, lifetime=Duration(seconds=20 * DAY))
    assert seconds_between(second.key.expires_at, second.key.created_at) == 20 * DAY
    at = Timestamp(seconds=second.key.created_at.seconds + 5 * DAY)
    third = await service.operator.rotate(second.key.id, expires_at=at)
    assert third.key.expires_at == at
    await service.operator.revoke(key_id=third.key.id)
    again = await service.operator.rotate(second.key.id)
    assert seconds_between(again.key.expires_at, again.key.created_at) == 20 * DAY
    assert again.predecessor.expires_at == third.predecessor.expires_at, "the first grace still counts"


async def test_a_key_without_an_expiry_has_such_a_successor(service: Service) -> None:
    """Also the second one, when the rotation has given it an expiry."""
    first = await service.operator.issue()
    for _ in range(2):
        rotated = await service.operator.rotate(first.key.id)
        assert not rotated.key.HasField("expires_at")
        await service.operator.revoke(key_id=rotated.key.id)


async def test_a_chain_of_generations_is_one_family(service: Service) -> None:
    """Each knows its neighbours."""
    keys = [(await service.operator.issue()).key]
    for _ in range(3):
        keys.append((await service.operator.rotate(keys[-1].id)).key)
    found = [await get_key(service.operator, key.id) for key in keys]
    assert {key.family_id for key in found} == {keys[0].id}
    assert [key.predecessor_id for key in found] == ["", *(key.id for key in keys[:-1])]
    assert [key.successor_id for key in found] == [*(key.id for key in keys[1:]), ""]
    assert [key.id for key in (await list_keys(service.operator)).keys] == [key.id for key in keys[::-1]]


async def test_a_key_with_a_live_successor_is_not_rotated_again(service: Service) -> None:
    """The error names it. A successor that was revoked or has expired is not live."""
    first = await service.operator.issue()
    second = await service.operator.rotate(first.key.id, lifetime=Duration(seconds=1))
    refused = await refusal(service.operator.rotate(first.key.id))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_ALREADY_ROTATED")
    assert refused.metadata == {"successor_id": second.key.id}
    async with asyncio.timeout(60):
        while (await service.service.authorize(second.token)).HasField("granted"):
            await asyncio.sleep(0.05)
    third = await service.operator.rotate(first.key.id)
    assert (await refusal(service.operator.rotate(first.key.id))).metadata == {"successor_id": third.key.id}
    await service.operator.revoke(key_id=third.key.id)
    assert (await service.operator.rotate(first.key.id)).key.predecessor_id == first.key.id


async def _revoked(service: Service, key_id: str) -> None:
    await service.operator.revoke(key_id=key_id)


async def _expired(service: Service, key_id: str) -> None:
    await service.operator.rotate(key_id, grace=Duration())


async def _suspended(service: Service, key_id: str) -> None:
    await service.operator.keys.SuspendKey(SuspendKeyRequest(key_id=key_id))


async def _without_member(service: Service, _: str) -> None:
    workspace = small_workspace()
    remove(workspace.members, "bob")
    await service.operator.apply(workspace)


async def _without_workspace(service: Service, _: str) -> None:
    await delete_workspace(service.operator)


@pytest.mark.parametrize(
    ("end", "state"),
    [
        (_revoked, "REVOKED"),
        (_expired, "EXPIRED"),
        (_suspended, "SUSPENDED"),
        (_without_member, "MEMBER_REMOVED"),
        (_without_workspace, "WORKSPACE_GONE"),
    ],
)
async def test_only_an_active_key_is_rotated(
    service: Service, end: Callable[[Service, str], Awaitable[None]], state: str
) -> None:
    """A key that does not work gets no successor that would."""
    issued = await service.operator.issue(**USER)
    await end(service, issued.key.id)
    count = len((await list_keys(service.operator)).keys)
    refused = await refusal(service.operator.rotate(issued.key.id))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_NOT_ACTIVE")
    assert refused.metadata == {"key_id": issued.key.id, "state": state}
    assert len((await list_keys(service.operator)).keys) == count


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"grace": Duration(seconds=30 * DAY + 1)}, {"grace": "is 2592001 s; 0 s to 30 days are allowed"}),
        ({"grace": Duration(seconds=-1)}, {"grace": "is -1 s; 0 s to 30 days are allowed"}),
        ({"lifetime": Duration()}, {"lifetime": "is 0 s; 1 s to 3653 days are allowed"}),
        ({"lifetime": Duration(seconds=4000 * DAY)}, {"lifetime": "is 4000 days; 1 s to 3653 days are allowed"}),
        ({"request_id": "x y"}, None),
        ({"actor": "no one "}, None),
        (
            {"grace": Duration(seconds=1, nanos=-1)},
            {
                "grace": "is not a length of time: seconds and nanos of the same sign, nanos below a second, at most "
                "10,000 years"
            },
        ),
    ],
)
@TOGETHER_IF_SHORT
async def test_fields_at_fault_are_named(
    service: Service, fields: dict[str, Any], fault: dict[str, str] | None
) -> None:
    """And nothing is changed."""
    issued = await service.operator.issue()
    refused = await refusal(service.operator.rotate(issued.key.id, **fields))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert list(refused.fields) == list(fields)
    assert fault is None or refused.fields == fault
    assert await get_key(service.operator, issued.key.id) == issued.key


async def test_an_expiry_in_the_past_is_refused(service: Service) -> None:
    """By the database's clock."""
    issued = await service.operator.issue()
    refused = await refusal(service.operator.rotate(issued.key.id, expires_at=Timestamp(seconds=1_700_000_000)))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert "which is past" in refused.fields["expires_at"]
    assert await get_key(service.operator, issued.key.id) == issued.key


@pytest.mark.parametrize(
    ("actor", "order", "reason"),
    [
        ("ada", {}, None),
        ("bob", {}, "ACTOR_NOT_ALLOWED"),
        ("bob", USER, None),
        ("ada", USER, "ACTOR_NOT_ALLOWED"),
        ("ada", RUNTIME, "ACTOR_NOT_ALLOWED"),
        ("dan", {}, "ACTOR_NOT_MEMBER"),
    ],
)
@TOGETHER_IF_SHORT
async def test_who_may_rotate_which_keys(
    service: Service, actor: str, order: dict[str, Any], reason: str | None
) -> None:
    """Who may issue such keys: an admin gets no token of another user's key, and no person one of a runtime's."""
    issued = await service.operator.issue(**order)
    if reason is None:
        assert (await service.console.rotate(issued.key.id, actor=actor)).key.created_by == user(actor)
        return
    refused = await refusal(service.console.rotate(issued.key.id, actor=actor))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)
    assert not (await get_key(service.operator, issued.key.id)).successor_id


async def test_a_successor_works_at_once_on_every_server(transport: str, service: Service, tmp_path: Path) -> None:
    """And without a grace the predecessor ends at once: on the server that did it, and on one that has it in memory."""
    async with serving(service.database_url, tmp_path, transport=transport) as second:
        issued = await service.operator.issue()
        token, key = issued.token, issued.key
        for round_ in range(10):
            for each in (service, second):
                assert (await each.service.authorize(token)).HasField("granted")
            rotated = await service.operator.rotate(key.id, grace=Duration())
            for each in (second, service) if round_ % 2 else (service, second):
                assert (await each.service.authorize(rotated.token)).granted.key.id == rotated.key.id
                assert await each.service.denial(token) == "EXPIRED"
            token, key = rotated.token, rotated.key
