"""A request with a field or an enum value that this version does not know is refused, wherever it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1.authorization_service_pb2 import AuthorizeRequest, BatchAuthorizeRequest
from skilder.keys.v1.catalog_service_pb2 import ApplyWorkspaceRequest
from skilder.keys.v1.key_service_pb2 import IssueKeyRequest
from skilder.keys.v1.workspace_pb2 import Workspace
from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.rpc.decoding import SLICE_BYTES, Decoder
from skilder_keys.rpc.errors import UnknownFieldError
from tests.support.unknown import (
    UNKNOWN_FIELDS,
    UNKNOWN_VALUES,
    Place,
    enums_in,
    joined,
    messages_in,
    with_unknown_field,
    with_unknown_value,
)
from tests.support.valid import valid_requests

if TYPE_CHECKING:
    from google.protobuf.message import Message


def long_request() -> ApplyWorkspaceRequest:
    """Return a request that is parsed in slices, with a part that is longer than a slice."""
    (request, *_) = valid_requests()["CatalogService/ApplyWorkspace"]
    assert isinstance(request, ApplyWorkspaceRequest)
    for index in range(3000):
        request.workspace.tools.add(id=f"tool-{index}", name="x" * 50, mcp_server="y")
    request.workspace.hats[0].skill_ids.extend(f"{'s' * 60}{index}" for index in range(SLICE_BYTES // 50))
    assert len(request.SerializeToString()) > 2 * SLICE_BYTES
    return request


REQUESTS: dict[str, Message] = {
    f"{method} {index}": request
    for method, requests in valid_requests().items()
    for index, request in enumerate(requests)
} | {"long": long_request()}
MESSAGES = [
    pytest.param(request, place, id=f"{name} {place.path}")
    for name, request in REQUESTS.items()
    for place in messages_in(request)
]
ENUMS = [
    pytest.param(request, place, field, id=f"{name} {joined(place.path, field)}")
    for name, request in REQUESTS.items()
    for place, field, _ in enums_in(request)
]


def varint(number: int) -> bytes:
    """Return a number in protobuf's varint encoding."""
    return bytes((number,)) if number < 0x80 else bytes((number & 0x7F | 0x80,)) + varint(number >> 7)


def refused(request_type: type[Message], body: bytes) -> tuple[str, str]:
    """Return the path and the numbers in the error for a request."""
    with pytest.raises(UnknownFieldError) as caught:
        Decoder(request_type).decode(body)
    assert "upgrade the service before its clients." in str(caught.value)
    return caught.value.details["path"], caught.value.details["numbers"]


def test_there_are_messages_and_enums_to_test() -> None:
    """At the top, in messages and in lists; among them Timestamp, which is not one of ours."""
    paths = {param.id for param in MESSAGES}
    places = [place.of(request) for request in REQUESTS.values() for place in messages_in(request)]
    assert {"KeyService/GetKey 0 ", "AuthorizationService/BatchAuthorize 0 requests[1]"} <= paths
    assert any(isinstance(each, Timestamp) for each in places)
    assert {"KeyService/IssueKey 0 type", "CatalogService/ApplyWorkspace 0 workspace.members[0].role"} <= {
        param.id for param in ENUMS
    }


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
def test_a_request_without_unknown_fields_is_accepted(request_: Message) -> None:
    """It is unchanged."""
    assert Decoder(type(request_)).decode(request_.SerializeToString()) == request_


@pytest.mark.parametrize(("request_", "place"), MESSAGES)
@pytest.mark.parametrize("content", UNKNOWN_FIELDS.values(), ids=UNKNOWN_FIELDS)
def test_an_unknown_field_is_refused(request_: Message, place: Place, content: bytes) -> None:
    """In every message of every request, whatever it holds. The error has the path of the message."""
    body = with_unknown_field(request_, place, content).SerializeToString()
    assert refused(type(request_), body) == (place.path, "99")


@pytest.mark.parametrize(("request_", "place", "field"), ENUMS)
@pytest.mark.parametrize("number", UNKNOWN_VALUES)
def test_an_unknown_value_is_refused(request_: Message, place: Place, field: str, number: int) -> None:
    """In every enum field of every request. The error has the path of the field."""
    body = with_unknown_value(request_, place, field, number).SerializeToString()
    assert refused(type(request_), body) == (joined(place.path, field), str(number))


@pytest.mark.parametrize("tail", [b"", b"\x1a\x80\x80\x0a" + b"a" * 163840], ids=["short", "long"])
def test_a_known_number_with_another_type_is_unknown(tail: bytes) -> None:
    """As protobuf reads it; the value would be lost."""
    number_of_a_text = b"\x08\x05"
    assert refused(AuthorizeRequest, number_of_a_text) == ("", "1")
    assert refused(ApplyWorkspaceRequest, number_of_a_text + tail) == ("", "1")


def test_the_error_names_ten_numbers_at_most() -> None:
    """Each one once, in order."""
    fields = b"".join(b"%c\x06\x00" % (0x80 + 8 * number) for number in range(12))
    assert refused(AuthorizeRequest, fields + fields) == ("", ",".join(str(96 + each) for each in range(10)))


@pytest.mark.parametrize(
    ("request_type", "before", "path"),
    [
        (ApplyWorkspaceRequest, b"", ""),
        (ApplyWorkspaceRequest, b"\x0a", "workspace"),
        (ApplyWorkspaceRequest, b"\x0a\x3a", "workspace.tools[0]"),
        (ApplyWorkspaceRequest, b"\x0a\x2a", "workspace.hats[0]"),
        (BatchAuthorizeRequest, b"\x0a", "requests[0]"),
    ],
    ids=["top", "workspace", "tool", "hat", "request"],
)
@pytest.mark.parametrize("field", [b"\x98\x06\x01", b"\x9a\x06\x00", b"\x9b\x06"], ids=["numbers", "texts", "groups"])
def test_very_many_unknown_fields_are_refused(
    request_type: type[Message], before: bytes, path: str, field: bytes
) -> None:
    """In a long message before they are parsed: each one would become an object."""
    body = field * (2**20 // len(field))
    for tag in before[::-1]:
        body = bytes((tag,)) + varint(len(body)) + body
    assert refused(request_type, body) == (path, "99")


def test_the_lists_are_bounded_first() -> None:
    """No element is looked at before its list was counted."""
    workspace = Workspace()
    for _ in range(10_001):
        workspace.members.add(role=99)
    with pytest.raises(InvalidRequestError, match="at most 10000 are allowed"):
        Decoder(ApplyWorkspaceRequest).decode(ApplyWorkspaceRequest(workspace=workspace).SerializeToString())


@pytest.mark.parametrize("content", UNKNOWN_FIELDS)
def test_an_unknown_field_in_an_entry_of_a_map_is_found(content: str) -> None:
    """Protobuf would drop the whole entry."""
    entry = b"\x0a\x04team\x12\x07support"
    good = IssueKeyRequest(labels={"env": "live"}).SerializeToString()
    assert dict(Decoder(IssueKeyRequest).decode(good + _label(entry)).labels) == {"env": "live", "team": "support"}
    found = refused(IssueKeyRequest, good + _label(entry + UNKNOWN_FIELDS[content]))
    assert found == ("labels[1]", "99")
    # A name that is a number.
    assert refused(IssueKeyRequest, _label(b"\x08\x01")) == ("labels[0]", "1")


def _label(entry: bytes) -> bytes:
    """Return an entry of the labels of an IssueKeyRequest."""
    return bytes((13 << 3 | 2,)) + varint(len(entry)) + entry
