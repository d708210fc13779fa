"""The key policy of a workspace: how it is set, and what it allows keys that are issued."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder.keys.v1.key_service_pb2 import RotateKeyRequest, UpdateKeyRequest
from skilder.keys.v1.workspace_pb2 import KeyPolicy
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.storage import policy_keys
from tests.support.calls import delete_workspace, get_key, get_workspace, list_workspaces
from tests.support.rows import insert_key
from tests.support.service import refusal
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.updates import update
from tests.support.waiting import until
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from skilder.keys.v1.workspace_pb2 import Workspace
    from tests.support.service import Client, Service

pytestmark = GRPCIO_IF_SHORT

DAY = 86_400
STRICT = KeyPolicy(
    max_lifetime=Duration(seconds=90 * DAY),
    max_active_keys_per_user=2,
    require_hat_limit=True,
    unique_descriptions=True,
)
POLICY = pb.WORKSPACE_PART_KEY_POLICY
USER: dict[str, Any] = {"type": key_pb2.KEY_TYPE_USER, "user_id": "bob", "unlimited": [key_pb2.KEY_LIMIT_HATS]}


def with_policy(policy: KeyPolicy | None, **fields: Any) -> Workspace:
    """Return the small workspace with a policy."""
    workspace = small_workspace()
    if policy is not None:
        workspace.key_policy.CopyFrom(policy)
    for name, value in fields.items():
        setattr(workspace, name, value)
    return workspace


async def policy_of(client: Client) -> KeyPolicy | None:
    """Return the policy of `acme`; None if there is none."""
    workspace = (await get_workspace(client)).workspace
    return workspace.key_policy if workspace.HasField("key_policy") else None


def changes_of(response: Any) -> list[tuple[int, str, int]]:
    """Return the changes of a response."""
    return [(each.part, each.id, each.action) for each in response.changes]


async def set_policy(service: Service, **rules: Any) -> None:
    """Give `acme` a policy with these rules only."""
    await update(service.operator, put=pb.WorkspaceParts(key_policy=KeyPolicy(**rules)))


@pytest.mark.parametrize("method", ["apply", "update"])
async def test_a_policy_is_set_stays_changes_and_goes(service: Service, method: str) -> None:
    """Unset in a request it stays; empty, it goes. Each change is a new version; a dry run writes nothing."""
    operator = service.operator

    async def put(policy: KeyPolicy | None, **fields: Any) -> Any:
        if method == "apply":
            return await operator.apply(with_policy(policy), **fields)
        return await update(operator, put=pb.WorkspaceParts(key_policy=policy), **fields)

    lenient = KeyPolicy(max_lifetime=Duration(seconds=1))
    for policy, expected, action in (
        (None, None, None),
        (KeyPolicy(), None, None),
        (lenient, lenient, pb.CHANGE_ACTION_ADDED),
        (None, lenient, None),
        (STRICT, STRICT, pb.CHANGE_ACTION_UPDATED),
        (STRICT, STRICT, None),
        (KeyPolicy(), None, pb.CHANGE_ACTION_REMOVED),
    ):
        before = await get_workspace(operator)
        planned = await put(policy, dry_run=True)
        assert await get_workspace(operator) == before
        made = await put(policy)
        assert made == planned
        assert changes_of(made) == ([] if action is None else [(POLICY, "acme", action)])
        assert made.version == before.version + (action is not None)
        assert await policy_of(operator) == expected


async def test_a_policy_changes_with_parts(service: Service) -> None:
    """It is one change among others; a workspace that is made with a policy has it; a name alone leaves it."""
    response = await service.operator.apply(with_policy(STRICT, id="new"))
    assert (POLICY, "new", pb.CHANGE_ACTION_ADDED) in changes_of(response)
    assert (await get_workspace(service.operator, "new")).workspace.key_policy == STRICT
    await service.operator.apply(with_policy(STRICT))
    renamed = with_policy(None, name="Another")
    del renamed.tools[-1]
    renamed.skills[-1].tool_ids.remove("git.push")
    response = await service.operator.apply(renamed)
    assert POLICY not in {each.part for each in response.changes}
    assert await policy_of(service.operator) == STRICT
    changed = with_policy(KeyPolicy(require_hat_limit=True), name="Another")
    response = await service.operator.apply(changed)
    assert {each.part for each in response.changes} == {POLICY, pb.WORKSPACE_PART_TOOL, pb.WORKSPACE_PART_SKILL}
    assert await policy_of(service.operator) == KeyPolicy(require_hat_limit=True)


async def test_a_removed_policy_is_no_removed_part(service: Service) -> None:
    """`max_removals` counts members, teams, hats, skills and tools."""
    await service.operator.apply(with_policy(STRICT))
    await service.operator.apply(with_policy(KeyPolicy()), max_removals=0)
    assert await policy_of(service.operator) is None


async def test_a_policy_is_read_with_a_mask(service: Service) -> None:
    """Alone, or not at all; lists of workspaces and deletion are as before."""
    await service.operator.apply(with_policy(STRICT))
    for paths, expected in ((["key_policy"], STRICT), (["id", "members"], KeyPolicy())):
        request = pb.GetWorkspaceRequest(workspace_id="acme", read_mask=FieldMask(paths=paths))
        workspace = (await service.operator.catalog.GetWorkspace(request)).workspace
        assert workspace.key_policy == expected
        assert {each.name for each, _ in workspace.ListFields()} == set(paths)
    assert [each.id for each in (await list_workspaces(service.operator, actor="ada")).workspaces] == ["acme"]
    await delete_workspace(service.operator)


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({"max_lifetime": Duration()}, "max_lifetime"),
        ({"max_lifetime": Duration(seconds=-1)}, "max_lifetime"),
        ({"max_lifetime": Duration(nanos=999_999_000)}, "max_lifetime"),
        ({"max_lifetime": Duration(seconds=1, nanos=-1)}, "max_lifetime"),
        ({"max_lifetime": Duration(seconds=2**62)}, "max_lifetime"),
        ({"max_lifetime": Duration(seconds=3654 * DAY)}, "max_lifetime"),
        ({"max_active_keys_per_user": -1}, "max_active_keys_per_user"),
        ({"max_active_keys_per_user": 10_001}, "max_active_keys_per_user"),
    ],
)
async def test_a_rule_out_of_bounds_is_named(service: Service, rules: dict[str, Any], field: str) -> None:
    """By both methods; nothing is changed."""
    policy, before = KeyPolicy(**rules), await get_workspace(service.operator)
    for call, path in (
        (service.operator.apply(with_policy(policy)), "workspace"),
        (update(service.operator, put=pb.WorkspaceParts(key_policy=policy)), "put"),
    ):
        refused = await refusal(call)
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert list(refused.fields) == [f"{path}.key_policy.{field}"]
    assert await get_workspace(service.operator) == before


async def test_a_policy_is_not_removed_as_a_part(service: Service) -> None:
    """An empty one says so."""
    refused = await refusal(update(service.operator, remove=[pb.PartRef(part=POLICY, id="acme")]))
    assert list(refused.fields) == ["remove[0].part"]


async def test_the_audit_trail_has_the_policy(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """With its rules, where it changed."""
    await service.operator.apply(with_policy(STRICT))
    await update(service.operator, put=pb.WorkspaceParts(name="Another"))
    await update(service.operator, put=pb.WorkspaceParts(key_policy=KeyPolicy()))
    rows = await sql.fetch("SELECT details FROM audit_event ORDER BY id DESC LIMIT 3")
    removed, renamed, added = (json.loads(row["details"]) for row in rows)
    assert added["changes"] == {"key_policy": {"added": ["acme"]}}
    assert added["key_policy"] == {
        "max_lifetime": 90 * DAY,
        "max_active_keys_per_user": 2,
        "require_hat_limit": True,
        "unique_descriptions": True,
    }
    assert "key_policy" not in renamed
    assert (removed["changes"], removed["key_policy"]) == ({"key_policy": {"removed": ["acme"]}}, {})


async def test_a_policy_that_is_set_by_hand_holds(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """It makes a new version; an apply of what was there before removes it."""
    before = await get_workspace(service.operator)
    await sql.execute("UPDATE workspace SET require_hat_limit = true, max_lifetime = '30 days' WHERE id = 'acme'")
    after = await get_workspace(service.operator)
    assert after.version == before.version + 1
    assert after.workspace.key_policy == KeyPolicy(require_hat_limit=True, max_lifetime=Duration(seconds=30 * DAY))
    assert (await refusal(service.operator.issue())).reason == "POLICY_VIOLATION"
    await service.operator.apply(with_policy(KeyPolicy()))
    await service.operator.issue()


async def test_keys_without_an_expiry_get_the_longest_lifetime(service: Service) -> None:
    """Of every type. A shorter one that is asked for stays; a longer one is refused, in whichever way it is said."""
    await set_policy(service, max_lifetime=Duration(seconds=90 * DAY))
    for fields in ({}, USER, {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-1"}):
        key = (await service.operator.issue(**fields)).key
        lifetime = key.expires_at.ToDatetime() - key.created_at.ToDatetime()
        assert timedelta(days=1) < lifetime <= timedelta(days=90)
    for seconds in (1, 90 * DAY):
        key = (await service.operator.issue(lifetime=Duration(seconds=seconds))).key
        assert key.expires_at.ToDatetime() - key.created_at.ToDatetime() == timedelta(seconds=seconds)
    later = datetime.now(UTC) + timedelta(days=91)
    for fields in ({"lifetime": Duration(seconds=90 * DAY, nanos=1_000_000)}, {"expires_at": later}):
        refused = await refusal(service.operator.issue(**fields))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "POLICY_VIOLATION")
        assert refused.metadata == {"rule": "MAX_LIFETIME", "limit": f"{90 * DAY}s"}
        assert "90 days" in refused.message
    await service.operator.issue(expires_at=later - timedelta(days=2))


async def test_workspace_keys_must_be_limited_to_hats(service: Service) -> None:
    """User keys reach the hats of their user, and need no limit."""
    await set_policy(service, require_hat_limit=True)
    refused = await refusal(service.operator.issue())
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "POLICY_VIOLATION")
    assert refused.metadata == {"rule": "REQUIRE_HAT_LIMIT", "limit": "true"}
    await service.operator.issue(hat_limit={"hat_ids": []})
    await service.operator.issue(**USER)


async def test_a_user_has_so_many_keys(service: Service) -> None:
    """What is revoked or expired does not count; keys of others, and workspace keys, are others'."""
    await set_policy(service, max_active_keys_per_user=2)
    first, _ = [await service.operator.issue(**USER) for _ in range(2)]
    await service.operator.issue(**USER | {"user_id": "cyd"})
    await service.operator.issue()
    refused = await refusal(service.operator.issue(**USER))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "POLICY_VIOLATION")
    assert refused.metadata == {"rule": "MAX_ACTIVE_KEYS_PER_USER", "limit": "2"}
    await service.operator.revoke(key_id=first.key.id)
    await service.operator.issue(**USER, lifetime=Duration(seconds=1))
    assert (await refusal(service.operator.issue(**USER))).reason == "POLICY_VIOLATION"

    async def is_issued() -> bool:
        try:
            await service.operator.issue(**USER)
        except grpc.aio.AioRpcError:
            return False
        return True

    await until(is_issued)  # when the short one has expired
    await set_policy(service, max_active_keys_per_user=0)
    assert (await refusal(service.operator.issue(**USER | {"user_id": "ada"}))).metadata["limit"] == "0"


async def test_a_description_is_taken_while_its_key_lives(service: Service) -> None:
    """In its workspace, in upper and lower case. The error names the key that has it."""
    await set_policy(service, unique_descriptions=True)
    await service.operator.apply(small_workspace("other"))
    await service.operator.issue(workspace_id="other", description="Desk bot")
    issued = await service.operator.issue(description="Desk bot")
    for description in ("Desk bot", "DESK Bot"):
        refused = await refusal(service.operator.issue(description=description))
        assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "DESCRIPTION_TAKEN")
        assert refused.metadata == {"key_id": issued.key.id}
    await service.operator.issue(description="Desk bot 2")
    await service.operator.revoke(key_id=issued.key.id)
    await service.operator.issue(description="Desk bot")


@pytest.mark.parametrize(
    ("rules", "fields", "most"),
    [
        ({"unique_descriptions": True}, {"description": "The one"}, 1),
        ({"max_active_keys_per_user": 3}, USER, 3),
        ({"max_active_keys_per_user": 2, "unique_descriptions": True}, USER | {"description": "The one"}, 1),
    ],
)
async def test_keys_that_are_issued_at_once_keep_the_rules(
    service: Service, rules: dict[str, Any], fields: dict[str, Any], most: int
) -> None:
    """Exactly as many as are allowed are issued, however many are asked for at the same time."""
    await set_policy(service, **rules)
    calls = [service.operator.issue(**fields) for _ in range(20)]
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert sum(not isinstance(each, BaseException) for each in results) == most


async def test_a_key_waits_for_one_that_may_have_its_description(
    service: Service, sql: asyncpg.Connection[Any]
) -> None:
    """It is compared with what another transaction, which is not finished yet, has issued."""
    await set_policy(service, unique_descriptions=True)

    async def is_decided() -> bool:
        waiting = "SELECT true FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
        return issuing.done() or bool(await sql.fetchval(waiting))

    async with sql.transaction():
        await policy_keys.lock_description(sql, WorkspaceId("acme"), "the ONE")
        await insert_key(sql, description="The one")
        issuing = asyncio.create_task(service.operator.issue(description="The one"))
        await until(is_decided)
        assert not issuing.done()
    assert (await refusal(issuing)).reason == "DESCRIPTION_TAKEN"


async def test_a_retry_is_no_second_key(service: Service) -> None:
    """It returns the key that was issued, though that is one of those that the rules count, and though they changed."""
    await set_policy(service, max_active_keys_per_user=1, unique_descriptions=True)
    once: dict[str, Any] = USER | {"request_id": "once", "description": "The one"}
    issued = await service.operator.issue(**once)
    again = await asyncio.gather(*(service.operator.issue(**once) for _ in range(5)))
    assert {each.key.id for each in again} == {issued.key.id}
    at_once = await asyncio.gather(
        *(service.operator.issue(**once | {"request_id": "two", "user_id": "cyd", "description": "Two"}) for _ in "abc")
    )
    assert len({each.key.id for each in at_once}) == 1
    await set_policy(service, max_active_keys_per_user=0, max_lifetime=Duration(seconds=1))
    renewed = await service.operator.issue(**once)
    assert renewed.key.id == issued.key.id
    assert not renewed.key.HasField("expires_at")


async def test_a_stricter_policy_changes_no_key(service: Service) -> None:
    """Keys go on as they were issued."""
    issued = [await service.operator.issue(**fields) for fields in ({}, {}, USER, USER, USER)]
    await service.operator.apply(with_policy(STRICT))
    for each in issued:
        found = await get_key(service.operator, each.key.id)
        found.ClearField("violations")
        assert found == each.key
        assert (await service.service.authorize(each.token)).HasField("granted")


async def rotate(service: Service, key_id: str, **fields: Any) -> key_pb2.Key:
    """Rotate a key and return its successor."""
    response = await service.operator.keys.RotateKey(RotateKeyRequest(key_id=key_id, **fields))
    key: key_pb2.Key = response.key
    return key


async def test_a_successor_keeps_to_the_policy_too(service: Service) -> None:
    """What is asked for is refused if it is too long; what follows from the predecessor is cut."""
    key = (await service.operator.issue()).key
    limited = (await service.operator.issue(hat_limit={"hat_ids": []})).key
    await service.operator.apply(
        with_policy(KeyPolicy(max_lifetime=Duration(seconds=90 * DAY), require_hat_limit=True))
    )
    for fields, rule in (
        ({"key_id": key.id}, "REQUIRE_HAT_LIMIT"),
        ({"key_id": limited.id, "lifetime": Duration(seconds=91 * DAY)}, "MAX_LIFETIME"),
        ({"key_id": limited.id, "expires_at": datetime.now(UTC) + timedelta(days=91)}, "MAX_LIFETIME"),
    ):
        refused = await refusal(service.operator.keys.RotateKey(RotateKeyRequest(**fields)))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "POLICY_VIOLATION")
        assert refused.metadata["rule"] == rule
    successor = await rotate(service, limited.id)
    assert successor.expires_at.ToDatetime() - successor.created_at.ToDatetime() == timedelta(days=90)
    shorter = await rotate(service, successor.id, lifetime=Duration(seconds=DAY))
    assert shorter.expires_at.ToDatetime() - shorter.created_at.ToDatetime() == timedelta(days=1)


async def test_a_family_counts_as_one_key(service: Service) -> None:
    """A key and its successor may have the same description, and are one of the keys of their user."""
    await set_policy(service, unique_descriptions=True, max_active_keys_per_user=1)
    key = (await service.operator.issue(**USER, description="The one")).key
    await rotate(service, (await rotate(service, key.id)).id)
    assert (await refusal(service.operator.issue(**USER, description="Another"))).reason == "POLICY_VIOLATION"
    taken = await refusal(service.operator.issue(description="The one"))
    assert taken.reason == "DESCRIPTION_TAKEN"
    assert not (await get_key(service.operator, key.id)).violations


async def test_a_change_keeps_to_the_policy_too(service: Service) -> None:
    """What changes must keep to it; what stays need not. A lifetime counts from the issue."""
    issue = service.operator.issue
    await issue(description="Taken")
    old, limited = (await issue(description="Old")).key, (await issue(description="New", hat_limit={"hat_ids": []})).key
    await set_policy(service, max_lifetime=Duration(seconds=30 * DAY), require_hat_limit=True, unique_descriptions=True)

    async def change(key: key_pb2.Key, *unlimited: int, **fields: Any) -> Any:
        mask = FieldMask(paths=[*fields, *(["hat_limit"] if unlimited == (key_pb2.KEY_LIMIT_HATS,) else ())])
        changed = key_pb2.Key(id=key.id, **fields)
        request = UpdateKeyRequest(key=changed, update_mask=mask, unlimited=unlimited)  # type: ignore[arg-type]
        return await service.operator.keys.UpdateKey(request)

    created = limited.created_at.ToDatetime(tzinfo=UTC)
    longer = await refusal(change(limited, expires_at=created + timedelta(days=31)))
    assert (longer.reason, longer.metadata["rule"]) == ("POLICY_VIOLATION", "MAX_LIFETIME")
    lifted = await refusal(change(limited, key_pb2.KEY_LIMIT_HATS))
    assert (lifted.reason, lifted.metadata["rule"]) == ("POLICY_VIOLATION", "REQUIRE_HAT_LIMIT")
    for description in ("taken", "OLD"):
        assert (await refusal(change(limited, description=description))).reason == "DESCRIPTION_TAKEN"
    await change(limited, expires_at=created + timedelta(days=30))
    await change(limited, description="NEW")
    await change(old, description="Older")  # has no limit to hats, and no expiry
    assert (await get_key(service.operator, old.id)).description == "Older"
