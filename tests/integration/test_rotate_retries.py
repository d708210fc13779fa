"""Retries of RotateKey: by request_id, with the rules of IssueKey."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from tests.support.calls import get_key, list_keys
from tests.support.service import Service, refusal
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    import asyncpg

pytestmark = GRPCIO_IF_SHORT


async def test_a_retry_before_the_first_use_returns_the_same_successor_with_a_new_token(
    service: Service, sql: asyncpg.Connection[Any]
) -> None:
    """The first one, which may never have arrived, stops working; the grace and the predecessor stay as they are."""
    issued = await service.operator.issue()
    request: dict[str, Any] = {"request_id": "r-1", "grace": Duration(seconds=3600)}
    first = await service.operator.rotate(issued.key.id, **request)
    again = await service.operator.rotate(issued.key.id, **request)
    assert (again.key, again.predecessor) == (first.key, first.predecessor)
    assert again.token != first.token
    assert await service.service.denial(first.token) == "UNKNOWN"
    assert (await service.service.authorize(again.token)).granted.key.id == first.key.id
    actions = [row["action"] for row in await sql.fetch("SELECT action FROM audit_event ORDER BY id")]
    assert actions[-3:] == ["key.issued", "key.rotated", "key.renewed"]


async def test_a_retry_works_without_a_grace(service: Service) -> None:
    """Though the predecessor has expired since the first try."""
    issued = await service.operator.issue()
    first = await service.operator.rotate(issued.key.id, request_id="r-1", grace=Duration())
    again = await service.operator.rotate(issued.key.id, request_id="r-1", grace=Duration())
    assert again.key == first.key


async def test_a_retry_after_the_first_use_is_refused(service: Service) -> None:
    """The token did arrive. The error names the successor, which stays as it is."""
    issued = await service.operator.issue()
    first = await service.operator.rotate(issued.key.id, request_id="r-1")
    await service.service.authorize(first.token)
    refused = await refusal(service.operator.rotate(issued.key.id, request_id="r-1"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_USED")
    assert refused.metadata == {"key_id": first.key.id}
    assert (await service.service.authorize(first.token)).HasField("granted")


async def test_a_retry_after_the_revocation_is_refused(service: Service) -> None:
    """The successor never comes back; with another id there is another one."""
    issued = await service.operator.issue()
    first = await service.operator.rotate(issued.key.id, request_id="r-1")
    await service.operator.revoke(key_id=first.key.id)
    refused = await refusal(service.operator.rotate(issued.key.id, request_id="r-1"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_REVOKED")
    assert refused.metadata == {"key_id": first.key.id}
    assert (await service.operator.rotate(issued.key.id, request_id="r-2")).key.id != first.key.id


@pytest.mark.parametrize(
    "change",
    [
        {"grace": Duration(seconds=60)},
        {"grace": Duration()},
        {"lifetime": Duration(seconds=60)},
        {"actor": "ada"},
        {"key_id": "another"},
    ],
)
async def test_a_request_id_is_valid_for_one_request(service: Service, change: dict[str, Any]) -> None:
    """With any other argument, of either method, it is refused; nothing is changed."""
    issued, other = await service.operator.issue(), await service.operator.issue()
    first = await service.operator.rotate(issued.key.id, request_id="r-1")
    key_id = other.key.id if "key_id" in change else issued.key.id
    fields = {name: value for name, value in change.items() if name != "key_id"}
    for call in (
        service.operator.rotate(key_id, request_id="r-1", **fields),
        service.operator.issue(request_id="r-1"),
    ):
        refused = await refusal(call)
        assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["request_id"])
    assert (await service.service.authorize(first.token)).HasField("granted")
    assert await get_key(service.operator, other.key.id) == other.key


async def test_the_request_id_of_an_issue_rotates_nothing(service: Service) -> None:
    """Ids of both methods are the same ids."""
    issued = await service.operator.issue(request_id="r-1")
    refused = await refusal(service.operator.rotate(issued.key.id, request_id="r-1"))
    assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["request_id"])
    assert not (await get_key(service.operator, issued.key.id)).successor_id


async def test_two_callers_have_separate_request_ids(service: Service) -> None:
    """The other's request is another rotation, which comes too late."""
    issued = await service.operator.issue()
    await service.operator.rotate(issued.key.id, request_id="r-1", actor="ada")
    refused = await refusal(service.console.rotate(issued.key.id, request_id="r-1", actor="ada"))
    assert refused.reason == "KEY_ALREADY_ROTATED"


async def test_identical_requests_at_once_make_one_successor(service: Service) -> None:
    """All get the same key, and exactly one of their tokens is valid."""
    issued = await service.operator.issue()
    rotated = await asyncio.gather(*(service.operator.rotate(issued.key.id, request_id="r-1") for _ in range(10)))
    assert len({each.key.id for each in rotated}) == 1
    assert len({each.token for each in rotated}) == 10
    verdicts = [(await service.service.authorize(each.token)).WhichOneof("verdict") for each in rotated]
    assert sorted(str(verdict) for verdict in verdicts) == ["denied"] * 9 + ["granted"]
    assert len((await list_keys(service.operator)).keys) == 2
