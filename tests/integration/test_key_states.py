"""The state of a key: the same in every response, in filters and counts, and what Authorize says of its token."""

from __future__ import annotations

from itertools import chain, combinations
from typing import TYPE_CHECKING, Any

import pytest

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.key_service_pb2 import PREVIOUS_KEYS_KEEP, SuspendKeyRequest
from tests.support.calls import count_keys, delete_workspace, get_key, list_keys, remove
from tests.support.lengths import by_form
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from skilder.keys.v1.key_service_pb2 import IssueKeyResponse
    from tests.support.service import Service

pytestmark = GRPCIO_IF_SHORT

KINDS: dict[str, dict[str, Any]] = {
    "workspace": {"type": key_pb2.KEY_TYPE_WORKSPACE},
    "user who stays": {"type": key_pb2.KEY_TYPE_USER, "user_id": "cyd"},
    "user who leaves": {"type": key_pb2.KEY_TYPE_USER, "user_id": "bob"},
    "runtime": {
        "type": key_pb2.KEY_TYPE_RUNTIME,
        "runtime_id": "runtime-7",
        "previous_keys": PREVIOUS_KEYS_KEEP,
    },
}
SUFFIXES = (
    "",
    ", revoked",
    ", expired",
    ", expired, revoked",
    ", suspended",
    ", suspended, expired",
    ", suspended, revoked",
)
STATES = [each for each in key_pb2.KeyState.values() if each]


async def leave(service: Service) -> None:
    """Remove `bob` from the workspace."""
    workspace = small_workspace()
    remove(workspace.members, "bob")
    await service.operator.apply(workspace)


async def verdict(service: Service, token: str) -> str:
    """Return ACTIVE if Authorize grants a token, or the reason why it denies it."""
    response = await service.service.authorize(token)
    return "ACTIVE" if response.HasField("granted") else await service.service.denial(token)


async def issued_and_revoked(service: Service, sql: asyncpg.Connection[Any]) -> dict[str, IssueKeyResponse]:
    """Issue keys of each kind: some are suspended, some expire, some are revoked, and some several of that."""
    keys = {}
    for name, kind in KINDS.items():
        for suffix in SUFFIXES:
            keys[name + suffix] = await service.operator.issue(**kind, description=name + suffix)
    for name, issued in keys.items():
        if "suspended" in name:
            await service.operator.keys.SuspendKey(SuspendKeyRequest(key_id=issued.key.id))
    await expire(sql, *(name for name in keys if "expired" in name))
    for name, issued in keys.items():
        if name.endswith("revoked"):
            await service.operator.revoke(key_id=issued.key.id)
    return keys


async def expire(sql: asyncpg.Connection[Any], *names: str) -> None:
    """Let keys expire, by their descriptions."""
    await sql.execute(
        "UPDATE key SET expires_at = created_at + interval '1 microsecond' WHERE description = ANY($1)", names
    )


def expected_state(name: str, *, leaves: bool, deleted: bool) -> str:
    """Return the state of a key, by its name."""
    applies = {
        "REVOKED": name.endswith("revoked"),
        "WORKSPACE_GONE": deleted,
        "MEMBER_REMOVED": leaves and "leaves" in name,
        "EXPIRED": "expired" in name,
        "SUSPENDED": "suspended" in name,
        "ACTIVE": True,
    }
    return next(state for state, does_apply in applies.items() if does_apply)


@pytest.mark.parametrize("leaves", [False, True], ids=["stays", "leaves"])
@pytest.mark.parametrize("deleted", [False, True], ids=["workspace", "deleted workspace"])
async def test_the_state_is_what_authorize_says(
    service: Service, sql: asyncpg.Connection[Any], *, leaves: bool, deleted: bool
) -> None:
    """In every situation, also in the order of the reasons; for every key in every filter and count by state.

    The short form has the filters with no, one, two and all states.
    """
    keys = await issued_and_revoked(service, sql)
    if leaves:
        await leave(service)
    if deleted:
        await delete_workspace(service.operator)
    states = {name: await verdict(service, issued.token) for name, issued in keys.items()}
    expected = {name: expected_state(name, leaves=leaves, deleted=deleted) for name in keys}
    assert states == expected
    for name, issued in keys.items():
        found = await get_key(service.operator, issued.key.id)
        assert key_pb2.KeyState.Name(found.state) == f"KEY_STATE_{states[name]}", name
        # A retry of the revocation returns the key as it is now.
        if name.endswith("revoked"):
            assert await service.operator.revoke(key_id=issued.key.id) == found
    sizes = by_form((0, 1, 2, len(STATES)), range(len(STATES) + 1))
    for wanted in chain.from_iterable(combinations(STATES, size) for size in sizes):
        names = {f"KEY_STATE_{state}": state for state in expected.values()}
        matching = {
            name
            for name, state in states.items()
            if not wanted or key_pb2.KeyState.Value(f"KEY_STATE_{state}") in wanted
        }
        page = await list_keys(service.operator, filter={"states": wanted})
        assert {key.description for key in page.keys} == matching, wanted
        assert len(page.keys) == len(matching)
        for key in page.keys:
            assert names[key_pb2.KeyState.Name(key.state)] == states[key.description]
        counted = await count_keys(service.operator, filter={"states": wanted})
        found_counts = {(each.type, each.state): each.count for each in counted.counts}
        expected_counts: dict[tuple[int, int], int] = {}
        for key in page.keys:
            expected_counts[key.type, key.state] = expected_counts.get((key.type, key.state), 0) + 1
        assert found_counts == expected_counts, wanted
        assert list(found_counts) == sorted(found_counts)
        assert not counted.partial


async def test_states_combine_with_other_filters(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Types and users, for lists and counts alike."""
    keys = await issued_and_revoked(service, sql)
    await leave(service)
    has_left = {name for name in keys if "leaves" in name and not name.endswith("revoked")}
    old, off = key_pb2.KEY_STATE_EXPIRED, key_pb2.KEY_STATE_SUSPENDED
    active, gone, left = key_pb2.KEY_STATE_ACTIVE, key_pb2.KEY_STATE_REVOKED, key_pb2.KEY_STATE_MEMBER_REMOVED
    users, shared = key_pb2.KEY_TYPE_USER, key_pb2.KEY_TYPE_WORKSPACE
    cases: list[tuple[dict[str, Any], set[str]]] = [
        ({"states": [left], "types": [users]}, has_left),
        ({"states": [left], "types": [shared]}, set()),
        ({"states": [left], "types": [shared, users]}, has_left),
        ({"states": [left], "user_ids": ["bob", "cyd"]}, has_left),
        ({"states": [left, gone], "user_ids": ["bob"]}, {name for name in keys if "leaves" in name}),
        ({"states": [active], "types": [users]}, {"user who stays"}),
        ({"states": [old], "types": [users]}, {"user who stays, expired", "user who stays, suspended, expired"}),
        ({"states": [off], "types": [users]}, {"user who stays, suspended"}),
        ({"states": [old, off], "user_ids": ["bob"]}, set()),
        ({"states": [off, active], "types": [shared]}, {"workspace", "workspace, suspended"}),
        (
            {"states": [active, gone], "types": [users]},
            {"user who stays", *(name for name in keys if name.startswith("user") and name.endswith("revoked"))},
        ),
        ({"states": [active, left], "types": [users, shared]}, {"workspace", "user who stays"} | has_left),
        ({"states": [key_pb2.KEY_STATE_WORKSPACE_GONE]}, set()),
    ]
    for wanted, names in cases:
        page = await list_keys(service.operator, filter=wanted)
        assert sorted(key.description for key in page.keys) == sorted(names), wanted
        counted = await count_keys(service.operator, filter=wanted)
        assert sum(each.count for each in counted.counts) == len(names), wanted


async def test_a_user_who_comes_back_makes_the_key_good_again(service: Service) -> None:
    """Nothing of the state is stored, so nothing has to be undone."""
    issued = await service.operator.issue(**KINDS["user who leaves"])
    await leave(service)
    assert (await get_key(service.operator, issued.key.id)).state == key_pb2.KEY_STATE_MEMBER_REMOVED
    await service.operator.apply(small_workspace())
    assert (await get_key(service.operator, issued.key.id)).state == key_pb2.KEY_STATE_ACTIVE
    assert (await service.service.authorize(issued.token)).HasField("granted")
