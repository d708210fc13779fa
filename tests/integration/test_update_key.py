"""UpdateKey: what a mask names is changed, at once and on every process, and nothing else."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.key_service_pb2 import UpdateKeyRequest
from skilder_keys.domain.access import NO_LIMITS
from skilder_keys.domain.ids import HatId
from skilder_keys.domain.key_update import KeyUpdate
from tests.support.calls import delete_workspace, get_key, remove
from tests.support.fence import epoch, touched, warm
from tests.support.fleet import ORIGIN
from tests.support.service import refusal
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from tests.support.fleet import Process
    from tests.support.service import Client, Service

    Sql = asyncpg.Connection[Any]

pytestmark = GRPCIO_IF_SHORT

RUNTIME: dict[str, Any] = {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"}
OF_BOB: dict[str, Any] = {"type": key_pb2.KEY_TYPE_USER, "user_id": "bob"}


def stamp(moment: datetime) -> Timestamp:
    """Return a time as a message."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


async def update(
    client: Client,
    key_id: str,
    *,
    lift: tuple[int, ...] = (),
    also: tuple[str, ...] = (),
    version: int | None = None,
    actor: str = "",
    **fields: Any,
) -> key_pb2.Key:
    """Update the fields of a key, besides those to lift, and return it."""
    unlimited: Any = lift
    response = await client.keys.UpdateKey(
        UpdateKeyRequest(
            key=key_pb2.Key(id=key_id, **fields),
            update_mask=FieldMask(paths=[*fields, *also]),
            unlimited=unlimited,
            expected_version=version,
            actor=actor,
        )
    )
    key: key_pb2.Key = response.key
    return key


async def reach(service: Service, token: str, **fields: str) -> set[str]:
    """Return the hats that a token reaches."""
    response = await service.service.authorize(token, **fields)
    assert response.HasField("granted"), response
    return {hat.id for hat in response.granted.tool_set.hats}


async def test_only_what_the_mask_names_is_changed(service: Service) -> None:
    """Each field alone, and all at once; the version counts each call that changes something."""
    at = stamp(datetime.now(UTC) + timedelta(days=30))
    issued = await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})
    id_, expected = issued.key.id, issued.key
    changes: list[dict[str, Any]] = [
        {"description": "Another"},
        {"expires_at": at},
        {"network_limit": key_pb2.NetworkLimit(networks=["10.0.0.0/8", "2001:db8::/32"])},
        {"labels": {"team": "a", "env": ""}},
        {"labels": {"team": "b"}},
        {"hat_limit": key_pb2.HatLimit(hat_ids=["engineer"])},
    ]
    for version, fields in enumerate(changes, 2):
        changed = await update(service.operator, id_, **fields)
        expected.MergeFrom(key_pb2.Key(version=version))
        for name, value in fields.items():
            expected.ClearField(name)  # type: ignore[arg-type]
            expected.MergeFrom(key_pb2.Key(**{name: value}))
        expected.updated_at.CopyFrom(changed.updated_at)
        assert changed == expected
        assert changed.updated_at.ToDatetime() > changed.created_at.ToDatetime()
        assert await get_key(service.operator, id_) == changed
    assert await reach(service, issued.token, source_ip="10.1.2.3") == {"engineer"}
    granted = (await service.service.authorize(issued.token, source_ip="10.1.2.3")).granted.key
    assert (granted.description, granted.expires_at) == ("Another", at)
    everything = await update(
        service.operator,
        id_,
        description="A third one",
        lift=(key_pb2.KEY_LIMIT_HATS, key_pb2.KEY_LIMIT_EXPIRY, key_pb2.KEY_LIMIT_NETWORKS),
        also=("hat_limit", "expires_at", "network_limit"),
    )
    assert (everything.description, everything.version) == ("A third one", 8)
    assert not any(everything.HasField(name) for name in ("hat_limit", "expires_at", "network_limit"))
    assert await reach(service, issued.token) == {"customer-care", "engineer", "everyone", "support-desk"}


async def test_an_empty_limit_means_no_hats(service: Service) -> None:
    """On a limited key and on one without a limit; what widens is said."""
    for fields in ({"hat_limit": {"hat_ids": ["engineer"]}}, {}):
        issued = await service.operator.issue(**fields)
        changed = await update(service.operator, issued.key.id, hat_limit=key_pb2.HatLimit())
        assert changed.HasField("hat_limit")
        assert await reach(service, issued.token) == set()
        refused = await refusal(update(service.operator, issued.key.id, also=("hat_limit",)))
        assert list(refused.fields) == ["key.hat_limit"]
        assert await reach(service, issued.token) == set()
        wider = key_pb2.HatLimit(hat_ids=["engineer", "everyone"])
        assert (await update(service.operator, issued.key.id, hat_limit=wider)).hat_limit == wider
        assert await reach(service, issued.token) == {"engineer", "everyone"}


async def test_an_update_that_changes_nothing(service: Service, sql: Sql) -> None:
    """Neither the version nor the epoch, and it writes no event; the order of the hats does not matter."""
    at = stamp(datetime.now(UTC) + timedelta(days=30))
    limit = ["engineer", "everyone"]
    issued = await service.operator.issue(hat_limit={"hat_ids": limit}, expires_at=at)
    before = await epoch(sql), await sql.fetchval("SELECT count(*) FROM audit_event")
    same: dict[str, Any] = {"description": issued.key.description, "expires_at": at}
    again = await update(service.operator, issued.key.id, hat_limit=key_pb2.HatLimit(hat_ids=limit[::-1]), **same)
    assert again == issued.key
    assert (await epoch(sql), await sql.fetchval("SELECT count(*) FROM audit_event")) == before


async def test_an_update_is_recorded_with_both_values(service: Service, sql: Sql) -> None:
    """Of what was changed."""
    issued = await service.operator.issue(**OF_BOB, hat_limit={"hat_ids": ["engineer"]})
    await update(
        service.operator,
        issued.key.id,
        description="Another",
        lift=(key_pb2.KEY_LIMIT_HATS,),
        also=("hat_limit",),
        actor="bob",
    )
    row = await sql.fetchrow("SELECT * FROM audit_event WHERE action = 'key.updated'")
    assert row is not None
    assert (row["key_id"], row["actor"], row["caller"]) == (row["key_id"], "bob", "operator")
    assert json.loads(row["details"]) == {
        "user_id": "bob",
        "runtime_id": None,
        "changes": {"description": ["Slack Support Bot", "Another"], "hat_limit": [["engineer"], None]},
    }


async def test_the_expected_version_guards_an_update(service: Service) -> None:
    """Another one is refused, and the current one is named. A use of the key does not count."""
    issued = await service.operator.issue()
    await service.service.authorize(issued.token)
    assert (await update(service.operator, issued.key.id, description="2", version=1)).version == 2
    for version in (0, 1, 3, -1):
        refused = await refusal(update(service.operator, issued.key.id, description="3", version=version))
        assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "VERSION_MISMATCH")
        assert refused.metadata == {"current_version": "2"}
        assert f"Key {issued.key.id} is at version 2" in refused.message
    assert (await get_key(service.operator, issued.key.id)).description == "2"


@pytest.mark.parametrize(
    ("fields", "options", "places"),
    [
        ({}, {}, ["update_mask"]),
        ({"user_id": "bob"}, {}, ["update_mask.paths[0]", "key.user_id"]),
        ({"state": key_pb2.KEY_STATE_ACTIVE}, {}, ["update_mask.paths[0]", "key.state"]),
        ({"hint": "x"}, {}, ["update_mask.paths[0]", "key.hint"]),
        ({}, {"also": ("*",)}, ["update_mask.paths[0]"]),
        ({}, {"also": ("hat_limit.hat_ids",)}, ["update_mask.paths[0]"]),
        ({}, {"also": ("hat_limit",)}, ["key.hat_limit"]),
        ({}, {"also": ("expires_at",), "lift": (key_pb2.KEY_LIMIT_HATS,)}, ["key.expires_at", "unlimited"]),
        ({}, {"also": ("hat_limit",), "lift": (99,)}, None),
        ({"description": ""}, {}, ["key.description"]),
        ({"description": "two\nlines"}, {}, ["key.description"]),
        ({"expires_at": Timestamp(seconds=1)}, {}, ["key.expires_at"]),
        ({"expires_at": Timestamp()}, {}, ["key.expires_at"]),
        ({"expires_at": Timestamp(seconds=4_000_000_000)}, {}, ["key.expires_at"]),
        ({"hat_limit": key_pb2.HatLimit(hat_ids=["engineer", "nothing"])}, {}, ["key.hat_limit.hat_ids[1]"]),
        ({"hat_limit": key_pb2.HatLimit(hat_ids=["x"] * 101)}, {}, ["key.hat_limit.hat_ids"]),
        ({"network_limit": key_pb2.NetworkLimit()}, {}, ["key.network_limit.networks"]),
        ({"network_limit": key_pb2.NetworkLimit(networks=["10.0.0.1/8"])}, {}, ["key.network_limit.networks[0]"]),
    ],
)
@TOGETHER_IF_SHORT
async def test_a_bad_update_is_refused_and_changes_nothing(
    service: Service, fields: dict[str, Any], options: dict[str, Any], places: list[str] | None
) -> None:
    """The fields at fault are named."""
    issued = await service.operator.issue()
    refused = await refusal(update(service.operator, issued.key.id, **options, **fields))
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    if places is not None:
        assert list(refused.fields) == places
    assert await get_key(service.operator, issued.key.id) == issued.key


async def test_a_hat_that_is_gone_may_stay_in_the_list(service: Service) -> None:
    """But it cannot be added."""
    issued = await service.operator.issue(hat_limit={"hat_ids": ["engineer"]})
    other = await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})
    workspace = small_workspace()
    remove(workspace.hats, "engineer")
    await service.operator.apply(workspace)
    limit = key_pb2.HatLimit(hat_ids=["engineer", "everyone"])
    assert (await update(service.operator, issued.key.id, hat_limit=limit)).hat_limit == limit
    refused = await refusal(update(service.operator, other.key.id, hat_limit=limit))
    assert list(refused.fields) == ["key.hat_limit.hat_ids[0]"]


async def test_which_keys_cannot_be_changed(service: Service) -> None:
    """A revoked one, and one of a deleted workspace."""
    issued = await service.operator.issue()
    await service.operator.revoke(key_id=issued.key.id)
    refused = await refusal(update(service.operator, issued.key.id, description="x"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "KEY_NOT_ACTIVE")
    assert refused.metadata == {"key_id": issued.key.id, "state": "REVOKED"}
    await service.operator.apply(small_workspace("gone"))
    of_gone = await service.operator.issue(workspace_id="gone")
    await delete_workspace(service.operator, "gone")
    refused = await refusal(update(service.operator, of_gone.key.id, description="x"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WORKSPACE_DELETED")


async def test_a_runtime_key_has_a_life_but_no_hats(service: Service) -> None:
    """The platform may change it; nobody else."""
    issued = await service.operator.issue(**RUNTIME)
    at = stamp(datetime.now(UTC) + timedelta(days=30))
    assert (await update(service.operator, issued.key.id, expires_at=at)).expires_at == at
    for fields in ({"hat_limit": key_pb2.HatLimit()}, {"lift": (key_pb2.KEY_LIMIT_HATS,), "also": ("hat_limit",)}):
        refused = await refusal(update(service.operator, issued.key.id, **fields))
        assert list(refused.fields) == ["key.hat_limit"]
    refused = await refusal(update(service.operator, issued.key.id, description="x", actor="ada"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACTOR_NOT_ALLOWED")


@pytest.mark.parametrize(
    ("actor", "fields", "reason"),
    [
        ("ada", {}, None),
        ("ada", OF_BOB, None),
        ("bob", OF_BOB, None),
        ("bob", {}, "ACTOR_NOT_ALLOWED"),
        ("cyd", OF_BOB, "ACTOR_NOT_ALLOWED"),
        ("dan", OF_BOB, "ACTOR_NOT_MEMBER"),
    ],
)
@TOGETHER_IF_SHORT
async def test_who_may_change_which_keys(
    service: Service, actor: str, fields: dict[str, Any], reason: str | None
) -> None:
    """Admins any key but those of runtimes, members their own."""
    issued = await service.operator.issue(**fields)
    if reason is None:
        assert (await update(service.operator, issued.key.id, description="x", actor=actor)).description == "x"
    else:
        refused = await refusal(update(service.operator, issued.key.id, description="x", actor=actor))
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)
        assert await get_key(service.operator, issued.key.id) == issued.key


def narrowed(*hat_ids: str) -> KeyUpdate:
    """Return an update of the hats."""
    return KeyUpdate(("hat_limit",), ("hat_limit",), hat_ids=tuple(map(HatId, hat_ids)))


async def test_every_process_follows_when_the_update_returns(writer: Process, reader: Process, sql: Sql) -> None:
    """A narrower limit, in one change of that key: what it had in memory is gone, also the set that is encoded."""
    key, token = await writer.issue()
    await warm(reader, token)
    assert await reader.outcome(token, "git.commit") == "granted"
    before = await epoch(sql)
    await writer.changes.update(str(key.id), narrowed("everyone"), ORIGIN)
    assert await reader.outcome(token, "git.commit") == "TOOL_NOT_ALLOWED"
    assert await touched(sql, before) == {(key.id, None, None, None)}
    before = await epoch(sql)
    await writer.changes.update(str(key.id), narrowed("engineer"), ORIGIN)
    assert await reader.outcome(token, "git.commit") == "granted"
    assert await touched(sql, before) == {(key.id, None, None, None)}, "a list of the same length"


async def test_an_expiry_in_the_next_moment_ends_a_warm_grant(writer: Process, reader: Process, sql: Sql) -> None:
    """The key was in memory without an expiry."""
    key, token = await writer.issue()
    await warm(reader, token)
    now: datetime = await sql.fetchval("SELECT clock_timestamp()")
    soon = KeyUpdate(("expires_at",), ("expires_at",), expires_at=now + timedelta(seconds=1))
    await writer.changes.update(str(key.id), soon, ORIGIN)
    async with asyncio.timeout(60):
        while await reader.outcome(token) != "EXPIRED":
            await asyncio.sleep(0.002)
    assert await sql.fetchval("SELECT clock_timestamp() >= expires_at FROM key")
    later = KeyUpdate(("expires_at",), ("expires_at",), expires_at=now + timedelta(days=1))
    await writer.changes.update(str(key.id), later, ORIGIN)
    assert await reader.outcome(token) == "granted", "an expired key may live again"


async def test_two_updates_at_once_come_one_after_the_other(writer: Process) -> None:
    """Neither is lost, and each counts; of two with the same expected version one is refused."""
    key, _ = await writer.issue()
    described = KeyUpdate(("description",), ("description",), "another")
    await asyncio.gather(
        *(writer.changes.update(str(key.id), each, ORIGIN) for each in (described, narrowed("engineer")))
    )
    found = await writer.keys.get(str(key.id), None, NO_LIMITS)
    assert (found.description, found.hat_ids, found.version) == ("another", ("engineer",), 3)
    guarded = [
        KeyUpdate(("description",), ("description",), f"by {name}", expected_version=3) for name in ("one", "another")
    ]
    results = await asyncio.gather(
        *(writer.changes.update(str(key.id), each, ORIGIN) for each in guarded), return_exceptions=True
    )
    assert sorted(type(each).__name__ for each in results) == ["Key", "VersionMismatchError"]


async def test_a_new_expiry_counts_for_the_successor(service: Service) -> None:
    """Also of a key that was rotated before, whose expiry that has cut; a change of something else does not."""
    key = (await service.operator.issue()).key

    async def lifetime_of_a_successor() -> timedelta:
        successor = (await service.operator.rotate(key.id)).key
        await service.operator.revoke(key_id=successor.id)
        return successor.expires_at.ToDatetime() - successor.created_at.ToDatetime()

    await service.operator.revoke(key_id=(await service.operator.rotate(key.id)).key.id)
    for days in (20, 5):
        lifetime = timedelta(days=days)
        await update(service.operator, key.id, expires_at=stamp(key.created_at.ToDatetime() + lifetime))
        assert await lifetime_of_a_successor() == lifetime
        await update(service.operator, key.id, description=f"{days} days")
        assert await lifetime_of_a_successor() == lifetime
