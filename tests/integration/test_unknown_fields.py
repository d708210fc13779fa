"""A call whose request this version does not know whole is refused, by every method: unit tests have every place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from tests.support.calls import METHODS, call
from tests.support.service import Client, Refusal, Service, refusal
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.unknown import UNKNOWN_FIELDS, enums_in, joined, messages_in, with_unknown_field, with_unknown_value
from tests.support.valid import valid_requests

if TYPE_CHECKING:
    from google.protobuf.message import Message

UNKNOWN = UNKNOWN_FIELDS["a text"]


async def assert_refused(client: Client, method: str, request: Message | bytes, path: str) -> Refusal:
    """Fail unless a call is refused because of the number 99."""
    refused = await refusal(call(client, method, request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "UNKNOWN_FIELD"), path
    assert refused.metadata == {"path": path, "numbers": "99"}
    return refused


@GRPCIO_IF_SHORT
@pytest.mark.parametrize("method", METHODS)
@TOGETHER_IF_SHORT
async def test_unknown_fields_and_values_are_refused(service: Service, method: str) -> None:
    """At the top, and in the first and last element of every list."""
    client = await service.caller_of(method)
    for request in valid_requests()[method]:
        for place in messages_in(request):
            await assert_refused(client, method, with_unknown_field(request, place, UNKNOWN), place.path)
        for place, field, _ in enums_in(request):
            changed = with_unknown_value(request, place, field, 99)
            await assert_refused(client, method, changed, joined(place.path, field))
    refused = await assert_refused(client, method, UNKNOWN, "")
    assert refused.message == (
        "This version of the service does not know the fields or values 99 in the request. "
        "It may be older than the client: upgrade the service before its clients."
    )


async def test_a_grant_from_memory_is_refused_too(service: Service) -> None:
    """A field that would narrow the grant is not ignored on the fast path either."""
    issued = await service.operator.issue()
    request = pb.AuthorizeRequest(token=issued.token)
    for _ in range(3):
        assert (await service.service.authorize(issued.token)).HasField("granted")
    for content in UNKNOWN_FIELDS.values():
        await assert_refused(
            service.service, "AuthorizationService/Authorize", request.SerializeToString() + content, ""
        )
    batch = pb.BatchAuthorizeRequest(requests=[request, request])
    batch.requests[1].MergeFromString(UNKNOWN)
    await assert_refused(service.service, "AuthorizationService/BatchAuthorize", batch, "requests[1]")
