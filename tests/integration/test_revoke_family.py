"""RevokeKey with the scope FAMILY ends every generation of a key, in one transaction and with one wait."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.key_service_pb2 import (
    REVOKE_SCOPE_FAMILY,
    REVOKE_SCOPE_KEY,
    REVOKE_SCOPE_UNSPECIFIED,
    RevokeKeyRequest,
    RevokeKeyResponse,
)
from tests.support.calls import get_key, user
from tests.support.service import Client, Service, refusal
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    import asyncpg

pytestmark = GRPCIO_IF_SHORT


async def family(service: Service, count: int = 3, **order: Any) -> tuple[list[str], list[str]]:
    """Issue a key and rotate it; return the ids and tokens of its generations, all of which work."""
    issued = await service.operator.issue(**order)
    ids, tokens = [issued.key.id], [issued.token]
    for _ in range(count - 1):
        rotated = await service.operator.rotate(ids[-1])
        ids.append(rotated.key.id)
        tokens.append(rotated.token)
    for token in tokens:
        assert (await service.service.authorize(token)).HasField("granted")
    return ids, tokens


async def revoke(client: Client, **fields: Any) -> RevokeKeyResponse:
    """Revoke a family."""
    response: RevokeKeyResponse = await client.keys.RevokeKey(RevokeKeyRequest(scope=REVOKE_SCOPE_FAMILY, **fields))
    return response


@pytest.mark.parametrize("by_token", [False, True])
@pytest.mark.parametrize("generation", [0, 1, 2])
async def test_every_generation_is_denied_at_once(
    service: Service, sql: asyncpg.Connection[Any], generation: int, *, by_token: bool
) -> None:
    """Whichever of them is named, and however; the response names the others."""
    ids, tokens = await family(service)
    epoch = await sql.fetchval("SELECT epoch FROM fence")
    target = {"token": tokens[generation]} if by_token else {"key_id": ids[generation]}
    response = await revoke(service.operator, reason="stolen", **target)
    for token in tokens:
        assert await service.service.denial(token) == "REVOKED"
    assert response.key == await get_key(service.operator, ids[generation])
    assert list(response.other_key_ids) == [id_ for id_ in ids if id_ != ids[generation]]
    for id_ in ids:
        key = await get_key(service.operator, id_)
        assert (key.state, key.revoke_reason) == (key_pb2.KEY_STATE_REVOKED, "stolen")
    assert await sql.fetchval("SELECT epoch FROM fence") == epoch + 1, "one change, so one wait"
    events = await sql.fetch("SELECT key_id::text FROM audit_event WHERE action = 'key.revoked' ORDER BY key_id")
    assert [event["key_id"] for event in events] == ids


@pytest.mark.parametrize("scope", [REVOKE_SCOPE_UNSPECIFIED, REVOKE_SCOPE_KEY])
async def test_the_key_alone_is_revoked_otherwise(service: Service, scope: Any) -> None:
    """Its neighbours go on."""
    ids, tokens = await family(service)
    response = await service.operator.keys.RevokeKey(RevokeKeyRequest(key_id=ids[1], scope=scope))
    assert list(response.other_key_ids) == []
    assert await service.service.denial(tokens[1]) == "REVOKED"
    for token in (tokens[0], tokens[2]):
        assert (await service.service.authorize(token)).HasField("granted")


async def test_another_family_goes_on(service: Service) -> None:
    """Also that of the same user with the same words."""
    ids, _ = await family(service)
    _, others = await family(service)
    await revoke(service.operator, key_id=ids[0])
    for token in others:
        assert (await service.service.authorize(token)).HasField("granted")


async def test_a_key_that_was_never_rotated_is_a_family(service: Service) -> None:
    """Of one."""
    (id_,), (token,) = await family(service, 1)
    assert list((await revoke(service.operator, key_id=id_)).other_key_ids) == []
    assert await service.service.denial(token) == "REVOKED"


async def test_revoking_a_family_again_changes_nothing(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """What was revoked before keeps its time, person and reason; the response is the same."""
    ids, _ = await family(service)
    await service.operator.revoke(key_id=ids[1], reason="alone")
    first = await revoke(service.operator, key_id=ids[0], reason="first")
    again = await revoke(service.console, key_id=ids[0], reason="second", actor="ada")
    assert again == first
    reasons = [(await get_key(service.operator, id_)).revoke_reason for id_ in ids]
    assert reasons == ["first", "alone", "first"]
    assert await sql.fetchval("SELECT count(*) FROM audit_event WHERE action = 'key.revoked'") == 3


async def test_a_token_proves_its_own_key_only(service: Service) -> None:
    """Whoever found it may revoke that key; for the family they need to be allowed to revoke it by its id."""
    ids, tokens = await family(service)
    refused = await refusal(revoke(service.console, token=tokens[0], actor="bob"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACTOR_NOT_ALLOWED")
    for token in tokens:
        assert (await service.service.authorize(token)).HasField("granted")
    response = await revoke(service.console, token=tokens[0], actor="ada")
    assert response.key.revoked_by == user("ada")
    own, _ = await family(service, type=key_pb2.KEY_TYPE_USER, user_id="bob")
    assert len((await revoke(service.console, key_id=own[2], actor="bob")).other_key_ids) == 2
    assert len(ids) == 3


async def test_a_malformed_target_is_refused(service: Service) -> None:
    """As for one key."""
    for target, field in (({"token": "hello"}, "token"), ({"key_id": "hello"}, "key_id"), ({}, "target")):
        refused = await refusal(revoke(service.operator, **target))
        assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    unknown = await refusal(revoke(service.operator, key_id="00000000-0000-0000-0000-000000000000"))
    assert unknown.reason == "KEY_NOT_FOUND"
