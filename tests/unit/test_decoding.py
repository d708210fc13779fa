"""Requests from bytes: the field to blame where they are none, and never another error."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.errors import InvalidRequestError, KeysError, MalformedMessageError
from service.rpc import authorization_service, catalog_service, key_service
from service.rpc.decoding import decode
from skilder.keys.v1.authorization_service_pb2 import AuthorizeRequest
from skilder.keys.v1.catalog_service_pb2 import ApplyWorkspaceRequest
from skilder.keys.v1.key_service_pb2 import GetKeyRequest, IssueKeyRequest, ListKeysRequest, RevokeKeyRequest
from skilder.keys.v1.workspace_pb2 import Hat, Member, Workspace
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from google.protobuf.message import Message

SERVICES = [key_service.DESCRIPTOR, catalog_service.DESCRIPTOR, authorization_service.DESCRIPTOR]
REQUESTS: list[Any] = [
    message_factory.GetMessageClass(method.input_type) for each in SERVICES for method in each.methods
]
APPLY = ApplyWorkspaceRequest(workspace=small_workspace(), actor="ada").SerializeToString()


def with_bytes(message: Message, bad: bytes) -> bytes:
    """Answers the bytes of a message with others in the place of the text BAD!, of the same length."""
    body = message.SerializeToString()
    assert body.count(b"BAD!") == 1
    return body.replace(b"BAD!", bad)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (GetKeyRequest(key_id="BAD!"), "key_id"),
        (AuthorizeRequest(token="a token", tool_id="BAD!"), "tool_id"),
        (RevokeKeyRequest(token="BAD!", reason="good"), "token"),
        (IssueKeyRequest(request_id="é", description="日本語 BAD! 日本語"), "description"),
        (IssueKeyRequest(hat_ids=["good", "é", "BAD!"]), "hat_ids[2]"),
        (IssueKeyRequest(hat_ids=["good", "good"], actor="BAD!"), "actor"),
        (ApplyWorkspaceRequest(workspace=Workspace(id="BAD!")), "workspace.id"),
        (
            ApplyWorkspaceRequest(workspace=Workspace(hats=[Hat(id="a", name="é"), Hat(id="b", name="BAD!")])),
            "workspace.hats[1].name",
        ),
        (
            ApplyWorkspaceRequest(
                workspace=Workspace(members=[Member(team_ids=["a"]), Member(team_ids=["b", "BAD!"])])
            ),
            "workspace.members[1].team_ids[1]",
        ),
    ],
)
@pytest.mark.parametrize("bad", [b"\xff\xfe\xfd\xfc", b"ok \xc3", b"\xed\xa0\x80!", b"\xc0\x80  ", b"\xf4\x90\x80\x80"])
def test_a_string_that_is_no_utf8_is_named(message: Message, field: str, bad: bytes) -> None:
    """Wherever it stands: stray and missing bytes, surrogates, second spellings, and code points there are none of."""
    with pytest.raises(InvalidRequestError) as caught:
        decode(type(message), with_bytes(message, bad))
    (violation,) = caught.value.violations
    assert (violation.field, violation.description) == (field, "is not valid UTF-8")
    assert caught.value.__cause__ is None


def test_good_bytes_are_the_message() -> None:
    """Also the empty one, and one with fields of a later version, which may hold anything."""
    assert decode(ApplyWorkspaceRequest, APPLY).workspace == small_workspace()
    assert decode(GetKeyRequest, b"") == GetKeyRequest()
    later = GetKeyRequest(key_id="a key").SerializeToString() + b"\xfa\x01\x02\xff\xfe"
    assert decode(GetKeyRequest, later).key_id == "a key"


@pytest.mark.parametrize(
    "body",
    [b"\x0a", b"\x0a\x05ab", b"\x00", b"\x0c", b"\x0b" * 10_000, b"\xff" * 20, b"\x0f", b"\x08" + b"\xff" * 11],
    ids=["no length", "too short", "field 0", "end of a group", "groups", "ones", "wire type 7", "long varint"],
)
@pytest.mark.parametrize("request_type", REQUESTS)
def test_what_is_no_message_is_refused(request_type: type[Message], body: bytes) -> None:
    """Without a field, as there is none to blame."""
    with pytest.raises(MalformedMessageError):
        decode(request_type, body)


@pytest.mark.parametrize("cut", [1, 2, 3, 10, 100])
def test_a_message_that_was_cut_short_is_refused(cut: int) -> None:
    """Its only field says it is longer."""
    body = ApplyWorkspaceRequest(workspace=small_workspace()).SerializeToString()
    with pytest.raises(MalformedMessageError):
        decode(ApplyWorkspaceRequest, body[:-cut])


def answers(request_type: Any, body: bytes) -> bool:
    """Tells whether bytes are the message that protobuf reads, or are refused with an error of ours."""
    try:
        message = decode(request_type, body)
    except KeysError as error:
        return isinstance(error, (InvalidRequestError, MalformedMessageError))
    return bool(message == request_type.FromString(body))


@settings(deadline=None)
@given(st.sampled_from(REQUESTS), st.binary())
def test_any_bytes_are_a_message_or_an_error_of_ours(request_type: Any, body: bytes) -> None:
    """Nothing else comes out."""
    assert answers(request_type, body)


@settings(deadline=None)
@given(st.integers(0, len(APPLY)), st.integers(0, 10), st.binary(max_size=10))
def test_any_damage_to_a_message_is_a_message_or_an_error_of_ours(at: int, gone: int, more: bytes) -> None:
    """Bytes taken out and put in anywhere, also for a method that takes another message."""
    body = APPLY[:at] + more + APPLY[at + gone :]
    assert all(answers(each, body) for each in (ApplyWorkspaceRequest, IssueKeyRequest, ListKeysRequest))
