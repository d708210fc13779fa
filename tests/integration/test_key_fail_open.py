"""What is left out, empty or zero in a request about keys never issues, shows or revokes more than what is set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from tests.support.calls import count_keys, list_keys
from tests.support.service import Service, refusal
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    import asyncpg
    from google.protobuf.message import Message

pytestmark = GRPCIO_IF_SHORT

ORDER: dict[str, Any] = {"workspace_id": "acme", "description": "Bot"}
LIMIT = key_pb2.HatLimit(hat_ids=["engineer"])
ISSUES: dict[str, pb.IssueKeyRequest] = {
    "workspace": pb.IssueKeyRequest(type=key_pb2.KEY_TYPE_WORKSPACE, hat_limit=LIMIT, actor="ada", **ORDER),
    "user": pb.IssueKeyRequest(type=key_pb2.KEY_TYPE_USER, user_id="cyd", hat_limit=LIMIT, actor="cyd", **ORDER),
    "unlimited": pb.IssueKeyRequest(
        type=key_pb2.KEY_TYPE_USER, user_id="cyd", unlimited=[key_pb2.KEY_LIMIT_HATS], actor="cyd", **ORDER
    ),
}


def without(request: Message, field: str) -> Any:
    """Return a request without one of its fields."""
    changed = type(request)()
    changed.CopyFrom(request)
    changed.ClearField(field)
    return changed


@pytest.mark.parametrize("name", ISSUES)
async def test_an_issue_without_a_field_is_refused(service: Service, sql: asyncpg.Connection[Any], name: str) -> None:
    """Each of them: nothing of what defines the key, or whose power counts, has a default."""
    request = ISSUES[name]
    for field, _ in request.ListFields():
        refused = await refusal(service.console.keys.IssueKey(without(request, field.name)))
        assert refused.code is grpc.StatusCode.INVALID_ARGUMENT, field.name
        assert refused.reason == ("ACTOR_REQUIRED" if field.name == "actor" else "INVALID_REQUEST")
        if field.name in {"hat_limit", "unlimited"}:
            assert list(refused.fields) == ["hat_limit", "unlimited"]
        else:
            assert field.name in refused.fields
    assert await sql.fetchval("SELECT count(*) FROM key") == 0
    assert (await service.console.keys.IssueKey(request)).token


@pytest.mark.parametrize("name", ["workspace", "user"])
async def test_a_limit_with_an_empty_list_reaches_nothing(service: Service, name: str) -> None:
    """It is stored, shown and enforced as a limit."""
    request = ISSUES[name]
    request = type(request).FromString(request.SerializeToString())
    request.hat_limit.ClearField("hat_ids")
    issued = await service.console.keys.IssueKey(request)
    assert issued.key.HasField("hat_limit")
    assert not issued.key.hat_limit.hat_ids
    granted = (await service.service.authorize(issued.token)).granted
    assert not granted.tool_set.hats
    assert not granted.tool_set.tools
    assert await service.service.denial(issued.token, tool_id="git.commit") == "TOOL_NOT_ALLOWED"


async def test_an_unspecified_limit_lifts_none(service: Service) -> None:
    """It is refused by its place, alone and beside another one."""
    none, hats = key_pb2.KEY_LIMIT_UNSPECIFIED, key_pb2.KEY_LIMIT_HATS
    for unlimited in ([none], [hats, none], [none, hats]):
        request = pb.IssueKeyRequest(type=key_pb2.KEY_TYPE_WORKSPACE, unlimited=unlimited, actor="ada", **ORDER)
        refused = await refusal(service.console.keys.IssueKey(request))
        assert list(refused.fields) == [f"unlimited[{unlimited.index(none)}]"]
    twice = pb.IssueKeyRequest(
        type=key_pb2.KEY_TYPE_WORKSPACE, unlimited=[key_pb2.KEY_LIMIT_HATS] * 2, actor="ada", **ORDER
    )
    assert list((await refusal(service.console.keys.IssueKey(twice))).fields) == ["unlimited[1]"]


async def test_no_revocation_without_a_target_or_an_actor(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """An empty id or token is no id or token."""
    issued = await service.operator.issue()
    for fields, fault in (
        ({}, "target"),
        ({"key_id": ""}, "key_id"),
        ({"token": ""}, "token"),
        ({"key_id": "00000000-0000-0000-0000-000000000000"}, None),
    ):
        refused = await refusal(service.console.revoke(**fields, actor="ada"))
        assert list(refused.fields) == ([fault] if fault else []), fields
    for target in ({"key_id": issued.key.id}, {"token": issued.token}):
        assert (await refusal(service.console.revoke(**target))).reason == "ACTOR_REQUIRED"
    assert await sql.fetchval("SELECT count(*) FROM key WHERE revoked_at IS NOT NULL") == 0


async def test_no_list_shows_an_actor_more_than_their_own(service: Service) -> None:
    """Whatever is left out of the filter: a filter aims a list, and only the actor's role widens it."""
    for user_id in ("bob", "cyd"):
        await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id=user_id)
    await service.operator.issue()
    full = pb.KeyFilter(
        types=[key_pb2.KEY_TYPE_USER],
        states=[key_pb2.KEY_STATE_ACTIVE],
        user_ids=["bob", "cyd"],
        unused_since=Timestamp(seconds=253_402_300_799),
    )
    for wanted in (pb.KeyFilter(), *(without(full, field.name) for field, _ in full.ListFields()), full):
        page = await list_keys(service.console, filter=wanted, actor="cyd")
        assert [key.user_id for key in page.keys] == ["cyd"]
        counted = await count_keys(service.console, filter=wanted, actor="cyd")
        assert [each.count for each in counted.counts] == [1]
        for asked in (list_keys, count_keys):
            assert (await refusal(asked(service.console, filter=wanted))).reason == "ACTOR_REQUIRED"
            refused = await refusal(asked(service.console, workspace_id="", filter=wanted, actor="cyd"))
            assert list(refused.fields) == ["workspace_id"]


async def test_a_time_of_zero_is_a_time(service: Service) -> None:
    """It matches no key, instead of every key."""
    await service.operator.issue()
    wanted = pb.KeyFilter(unused_since=Timestamp())
    assert not (await list_keys(service.operator, filter=wanted)).keys
    assert not (await count_keys(service.operator, filter=wanted)).counts
