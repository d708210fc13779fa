"""A change that is made again changes nothing, writes no event and returns the same (all but what makes a secret)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from skilder.keys.v1 import common_pb2
from skilder.keys.v1.catalog_service_pb2 import ApplyWorkspaceResponse
from skilder.keys.v1.key_service_pb2 import RevokeKeysResponse
from tests.support.calls import METHODS, call
from tests.support.fail_open import CASES
from tests.support.transport import ONLY_GRPCIO

if TYPE_CHECKING:
    import asyncpg

    from tests.support.effects import Case, World


def changes(method: str) -> bool:
    """Return whether a method makes a change, and is no method that makes a secret."""
    descriptor = METHODS[method]
    ability = common_pb2.Ability.Name(descriptor.GetOptions().Extensions[common_pb2.ability])
    return ability.endswith("_WRITE") and "request_id" not in descriptor.input_type.fields_by_name


CHANGES = [case for case in CASES if changes(case.method) and not case.refused and not case.shallow]


async def events(sql: asyncpg.Connection[Any]) -> int:
    """Return how many events were recorded."""
    count: int = await sql.fetchval("SELECT count(*) FROM audit_event")
    return count


@ONLY_GRPCIO
@pytest.mark.parametrize("case", CHANGES, ids=lambda case: f"{case.method} {case.name}")
async def test_a_change_made_again_changes_nothing(
    world_of_effects: World, sql: asyncpg.Connection[Any], case: Case
) -> None:
    """The second response is the first, or says that there was nothing left to do.

    That is, of an applied workspace it has no changes and the same version; of many keys to revoke, it has none.
    """
    world = world_of_effects
    client = getattr(world.service, case.caller)
    request: Any = await case.make(world)
    if case.method == "KeyService/UpdateKey":
        request.ClearField("expected_version")
    is_apply = case.method in {"CatalogService/ApplyWorkspace", "CatalogService/UpdateWorkspace"}
    if is_apply:
        if case.method == "CatalogService/ApplyWorkspace":
            request.workspace.name = "Another name"
        request.ClearField("expected_version")
    before = await events(sql)
    first = await call(client, case.method, request)
    is_bulk = case.method == "KeyService/RevokeKeys"
    recorded = RevokeKeysResponse.FromString(first).key_count if is_bulk else 1
    assert recorded > 0
    assert await events(sql) == before + recorded
    again = await call(client, case.method, request)
    assert await events(sql) == before + recorded
    if is_bulk:
        assert RevokeKeysResponse.FromString(again) == RevokeKeysResponse()
    elif is_apply:
        version = ApplyWorkspaceResponse.FromString(first).version
        assert ApplyWorkspaceResponse.FromString(again) == ApplyWorkspaceResponse(version=version)
    else:
        assert again == first
