"""Which caller may call which method: exactly as the contract's options say, for each role and each method."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from skilder.keys.v1 import common_pb2, key_pb2
from skilder_keys.rpc.options import ability_of
from tests.support.calls import METHODS, call, get_key
from tests.support.service import ROLES, Client, Refusal, Service, refusal
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.valid import valid_requests

if TYPE_CHECKING:
    from google.protobuf.message import Message

pytestmark = GRPCIO_IF_SHORT

READS = {"KEYS_READ", "CATALOG_READ", "ACTIVITY_READ", "AUDIT_READ"}
CHANGES = {"KEYS_WRITE", "CATALOG_WRITE"}
ROLE_ABILITIES: dict[str, set[str]] = {
    "operator": READS | CHANGES | {"AUTHORIZE"},
    "auditor": READS,
    "console": READS | CHANGES,
    "service": {"AUTHORIZE"},
    "runtime": {"AUTHORIZE", "ROTATE_OWN"},
}
"""The abilities of each role, by their names in the contract."""

WITH_ACTOR = [name for name, method in METHODS.items() if "actor" in method.input_type.fields_by_name]
RUNTIME: dict[str, Any] = {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"}
GARBAGE = b"\xff\xff\xff\xff"


def required(method: str) -> str:
    """Return the name of the ability that a method requires, as its option says."""
    number = METHODS[method].GetOptions().Extensions[common_pb2.ability]
    return common_pb2.Ability.Name(number).removeprefix("ABILITY_")


async def outcome(client: Client, method: str, request: Message | bytes) -> Refusal | None:
    """Return how a call failed; None if it did not."""
    try:
        await call(client, method, request)
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)
    return None


async def client_of(service: Service, role: str) -> Client:
    """Return a caller with a role."""
    if role == "runtime":
        return await service.client((await service.operator.issue(**RUNTIME)).token)
    client: Client = getattr(service, role)
    return client


def test_every_role_and_every_ability_is_tested() -> None:
    """A new one gets a place in the table of this test."""
    values = common_pb2.Ability.DESCRIPTOR.values
    abilities = {value.name.removeprefix("ABILITY_") for value in values if value.number}
    assert set.union(*ROLE_ABILITIES.values()) == abilities
    assert set(ROLE_ABILITIES) == {*ROLES, "runtime"}
    assert {required(method) for method in METHODS} <= abilities


@pytest.mark.parametrize("role", ROLE_ABILITIES)
@TOGETHER_IF_SHORT
async def test_a_role_may_call_the_methods_of_its_abilities_only(service: Service, role: str) -> None:
    """What a caller may not do is refused before its request is read: bytes that are no message get another error."""
    client = await client_of(service, role)
    for method in METHODS:
        refused = await refusal(call(client, method, GARBAGE))
        expected = (grpc.StatusCode.PERMISSION_DENIED, "CALLER_NOT_ALLOWED")
        if required(method) in ROLE_ABILITIES[role]:
            expected = (grpc.StatusCode.INVALID_ARGUMENT, "MALFORMED_MESSAGE")
        assert (refused.code, refused.reason) == expected, method


def test_a_method_without_an_ability_is_not_served() -> None:
    """So nobody can forget the option of a new method; gRPC's own health service has none."""
    (health, *_) = health_pb2.DESCRIPTOR.services_by_name["Health"].methods
    with pytest.raises(ValueError, match=r"grpc.health.v1.Health.Check has no `option \(ability\)`"):
        ability_of(health)


@pytest.mark.parametrize("method", WITH_ACTOR)
@TOGETHER_IF_SHORT
async def test_a_console_names_an_actor_in_every_request(service: Service, method: str) -> None:
    """Otherwise a console that lost the session of its user would act with its own power."""
    for complete in valid_requests()[method]:
        request: Any = type(complete)()
        request.CopyFrom(complete)
        request.actor = ""
        for each in (request, b""):
            refused = await refusal(call(service.console, method, each))
            assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "ACTOR_REQUIRED")
            assert refused.fields == {"actor": "is required: name the user for whom you make the call"}
        named = await outcome(service.console, method, complete)
        assert named is None or named.reason != "ACTOR_REQUIRED"


@pytest.mark.parametrize("method", WITH_ACTOR)
@pytest.mark.parametrize("role", ["operator", "auditor"])
@TOGETHER_IF_SHORT
async def test_the_other_roles_may_act_for_themselves(service: Service, role: str, method: str) -> None:
    """Only a console always acts for people."""
    refused = await outcome(getattr(service, role), method, b"")
    assert refused is None or refused.reason in {"INVALID_REQUEST", "CALLER_NOT_ALLOWED"}


async def test_an_auditor_reads_and_changes_nothing(service: Service) -> None:
    """It sees keys and workspaces, and is refused every change of them."""
    issued = await service.operator.issue()
    for method, requests in valid_requests().items():
        for request in requests:
            refused = await outcome(service.auditor, method, request)
            reason = None if refused is None else refused.reason
            assert (reason == "CALLER_NOT_ALLOWED") == (required(method) not in READS), method
    assert (await get_key(service.operator, issued.key.id)) == issued.key
