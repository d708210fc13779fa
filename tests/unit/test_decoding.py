"""Decoding of requests: bad bytes are refused with the field at fault, and never with another error."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import message_factory
from hypothesis import given, settings
from hypothesis import strategies as st

from skilder.keys.v1.authorization_service_pb2 import AuthorizeRequest, BatchAuthorizeRequest
from skilder.keys.v1.catalog_service_pb2 import ApplyWorkspaceRequest
from skilder.keys.v1.key_pb2 import HatLimit
from skilder.keys.v1.key_service_pb2 import (
    CountKeysRequest,
    GetKeyRequest,
    IssueKeyRequest,
    ListKeysRequest,
    RevokeKeyRequest,
)
from skilder.keys.v1.workspace_pb2 import Hat, Member, Tool, Workspace
from skilder_keys.domain.errors import InvalidRequestError, KeysError
from skilder_keys.rpc import activity_service, authorization_service, catalog_service, key_service, runtime_service
from skilder_keys.rpc.decoding import SLICE_BYTES, Decoder
from skilder_keys.rpc.errors import MalformedMessageError, UnknownFieldError
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.message import Message

SERVICES = [
    each.DESCRIPTOR for each in (activity_service, key_service, catalog_service, authorization_service, runtime_service)
]
REQUESTS: list[Any] = [
    message_factory.GetMessageClass(method.input_type) for each in SERVICES for method in each.methods
]
APPLY = ApplyWorkspaceRequest(workspace=small_workspace(), actor="ada").SerializeToString()


def decode(request_type: type[Message], body: object) -> Any:
    """Parse a request."""
    return Decoder(request_type).decode(body)


def with_bytes(message: Message, bad: bytes) -> bytes:
    """Return the bytes of a message in which the text BAD! is replaced by other bytes of the same length."""
    body = message.SerializeToString()
    assert body.count(b"BAD!") == 1
    return body.replace(b"BAD!", bad)


FAULTS = {
    b"\xff\xfe\xfd\xfc": (0, "0xFF"),
    b"\xed\xa0\x80!": (0, "the first of U+D800, half of a surrogate pair"),
    b"ok \xc3": (3, "0xC3"),
    b"\xc0\x80  ": (0, "0xC0"),
    b"\xf4\x90\x80\x80": (0, "0xF4"),
}
"""Four bytes that are not UTF-8, with the position of the fault and its description."""


def at_fault(message: Message, bad: bytes) -> str:
    """Return the error about the bad byte of a message in which four other bytes replace BAD!."""
    before = len("日本語 ".encode()) if isinstance(message, IssueKeyRequest) and message.description else 0
    place, reported = FAULTS[bad]
    return f"byte {before + place + 1} is {reported}"


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (GetKeyRequest(key_id="BAD!"), "key_id"),
        (AuthorizeRequest(token="a token", tool_id="BAD!"), "tool_id"),
        (RevokeKeyRequest(token="BAD!", reason="good"), "token"),
        (IssueKeyRequest(request_id="é", description="日本語 BAD! 日本語"), "description"),
        (IssueKeyRequest(hat_limit=HatLimit(hat_ids=["good", "é", "BAD!"])), "hat_limit.hat_ids[2]"),
        (IssueKeyRequest(hat_limit=HatLimit(hat_ids=["good", "good"]), actor="BAD!"), "actor"),
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
@pytest.mark.parametrize("bad", FAULTS)
def test_a_string_that_is_not_utf8_is_refused_by_its_field(message: Message, field: str, bad: bytes) -> None:
    """For stray and missing bytes, surrogates, overlong forms and code points above the last, in any field."""
    with pytest.raises(InvalidRequestError) as caught:
        decode(type(message), with_bytes(message, bad))
    (violation,) = caught.value.violations
    entry = "of 'b' " if "hats[1]" in field else ""
    assert (violation.field, violation.description) == (field, f"{entry}is not valid UTF-8: {at_fault(message, bad)}")
    assert caught.value.__cause__ is None


def test_valid_bytes_are_parsed() -> None:
    """Also an empty message."""
    assert decode(ApplyWorkspaceRequest, APPLY).workspace == small_workspace()
    assert decode(GetKeyRequest, b"") == GetKeyRequest()


@pytest.mark.parametrize(
    "body",
    [b"\x0a", b"\x0a\x05ab", b"\x00", b"\x0c", b"\x0b" * 10_000, b"\xff" * 20, b"\x0f", b"\x08" + b"\xff" * 11],
    ids=["no length", "too short", "field 0", "end of a group", "groups", "ones", "wire type 7", "long varint"],
)
@pytest.mark.parametrize("request_type", REQUESTS)
def test_bytes_that_are_no_message_are_refused(request_type: type[Message], body: bytes) -> None:
    """Without a field, since no field is at fault."""
    with pytest.raises(MalformedMessageError):
        decode(request_type, body)


@pytest.mark.parametrize("cut", [1, 2, 3, 10, 100])
def test_a_truncated_message_is_refused(cut: int) -> None:
    """Its only field announces more bytes than there are."""
    body = ApplyWorkspaceRequest(workspace=small_workspace()).SerializeToString()
    with pytest.raises(MalformedMessageError):
        decode(ApplyWorkspaceRequest, body[:-cut])


def is_message_or_error(request_type: Any, body: bytes) -> bool:
    """Return whether bytes decode to the message that protobuf reads, or are refused with an error of ours.

    A message with unknown fields must be refused.
    """
    try:
        message = decode(request_type, body)
    except KeysError as error:
        return isinstance(error, (InvalidRequestError, MalformedMessageError, UnknownFieldError))
    read = request_type.FromString(body)
    size = read.ByteSize()
    read.DiscardUnknownFields()
    return bool(message == read) and size == read.ByteSize()


@settings(deadline=None)
@given(st.sampled_from(REQUESTS), st.binary())
def test_any_bytes_are_a_message_or_an_error_of_ours(request_type: Any, body: bytes) -> None:
    """No other exception is ever raised."""
    assert is_message_or_error(request_type, body)


@settings(deadline=None)
@given(st.integers(0, len(APPLY)), st.integers(0, 10), st.binary(max_size=10))
def test_any_damage_to_a_message_is_a_message_or_an_error_of_ours(at: int, gone: int, more: bytes) -> None:
    """For bytes removed or inserted anywhere, also for a method that expects another message."""
    body = APPLY[:at] + more + APPLY[at + gone :]
    assert all(is_message_or_error(each, body) for each in (ApplyWorkspaceRequest, IssueKeyRequest, ListKeysRequest))


def varint(number: int) -> bytes:
    """Return a number in protobuf's varint encoding."""
    return bytes((number,)) if number < 0x80 else bytes((number & 0x7F | 0x80,)) + varint(number >> 7)


def field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def the_violation(request_type: type[Message], body: bytes) -> tuple[str, str]:
    """Return the only field at fault, and its error."""
    with pytest.raises(InvalidRequestError) as caught:
        decode(request_type, body)
    (violation,) = caught.value.violations
    return violation.field, violation.description


LONG_LISTS: dict[str, tuple[type[Message], Callable[[int], bytes], int]] = {
    "requests": (BatchAuthorizeRequest, lambda count: field(1, b"") * count, 1000),
    "hat_limit.hat_ids": (IssueKeyRequest, lambda count: field(9, field(1, b"") * count), 100),
    "filter.user_ids": (ListKeysRequest, lambda count: field(9, field(3, b"") * count), 100),
    "filter.states": (CountKeysRequest, lambda count: field(2, field(2, b"\1" * count)), 100),
    "workspace.members": (ApplyWorkspaceRequest, lambda count: field(1, field(3, b"") * count), 10_000),
    "workspace.tools": (ApplyWorkspaceRequest, lambda count: field(1, field(7, b"") * count), 20_000),
    "workspace.hats[0].team_ids": (
        ApplyWorkspaceRequest,
        lambda count: field(1, field(5, field(5, b"") * count)),
        1000,
    ),
    "workspace.hats[1].skill_ids": (
        ApplyWorkspaceRequest,
        lambda count: field(1, field(5, b"") + field(5, field(6, b"") * count)),
        5000,
    ),
}


@pytest.mark.parametrize("path", LONG_LISTS)
@pytest.mark.parametrize("times", [1, 100], ids=["one too many", "a hundred times as many"])
def test_a_list_that_is_too_long_is_refused(path: str, times: int) -> None:
    """Whether the message is parsed at once or in slices. At most one slice was parsed by then."""
    request_type, body, maximum = LONG_LISTS[path]
    assert decode(request_type, body(maximum)) is not None
    name, words = the_violation(request_type, body(maximum * times + 1))
    assert name == path
    assert words.endswith(f"; at most {maximum} are allowed")


def test_a_long_message_is_parsed_as_a_short_one_is() -> None:
    """Parsing in slices gives the same message, even where one part is longer than a slice."""
    source = random.Random(1)  # noqa: S311 - noise, not a secret
    for _ in range(20):
        workspace = small_workspace()
        for index in range(source.randrange(2000)):
            workspace.hats.add(id=f"h{index}", name="x" * source.randrange(100)).skill_ids.extend(
                f"s{each}" for each in range(source.choice([0, 1, 4000 if index % 500 == 0 else 2]))
            )
            if len(workspace.hats) == 1000:
                break
        workspace.hats.add(id="last", instructions="y" * source.choice([0, SLICE_BYTES - 20, 3 * SLICE_BYTES]))
        del workspace.hats[:-1000]
        message = ApplyWorkspaceRequest(workspace=workspace, expected_version=source.randrange(2**63), actor="ada")
        body = message.SerializeToString()
        assert decode(ApplyWorkspaceRequest, body) == message


@pytest.mark.parametrize("bad", list(FAULTS)[:2])
def test_a_bad_string_in_a_long_message_is_refused_by_its_field(bad: bytes) -> None:
    """The index counts within the whole message, whichever slice the string is in."""
    for index in (0, 4999, 7000):
        members = [Member(user_id=f"user-{each:06}", team_ids=["t" * 50]) for each in range(8000)]
        members[index].team_ids.append("BAD!")
        message = ApplyWorkspaceRequest(workspace=Workspace(members=members))
        body = with_bytes(message, bad)
        assert the_violation(ApplyWorkspaceRequest, body) == (
            f"workspace.members[{index}].team_ids[1]",
            f"of 'user-{index:06}' is not valid UTF-8: byte 1 is {FAULTS[bad][1]}",
        )


@pytest.mark.parametrize(
    "body",
    [
        field(1, field(7, b"") * 19_000) * 2,
        b"\x20\0" * 100_000,
        field(1, field(7, b"") * 19_000)[:-1] + b"\x80",
    ],
    ids=["one part twice", "one number", "cut short"],
)
def test_a_long_message_of_many_tiny_fields_is_refused(body: bytes) -> None:
    """Before it is parsed."""
    with pytest.raises(MalformedMessageError):
        decode(ApplyWorkspaceRequest, body + field(3, b"a" * SLICE_BYTES))


@settings(deadline=None)
@given(st.integers(0, 2**20), st.binary(max_size=10))
def test_any_damage_to_a_long_message_is_a_message_or_an_error_of_ours(at: int, more: bytes) -> None:
    """Also where the damage announces a length that is not there."""
    at %= len(LONG)
    assert is_message_or_error(ApplyWorkspaceRequest, LONG[:at] + more + LONG[at + len(more) :])


LONG = ApplyWorkspaceRequest(
    workspace=Workspace(tools=[Tool(id=f"tool-{each:05}", name="x" * 30, mcp_server="y") for each in range(3000)])
).SerializeToString()


def test_all_lists_together_have_a_bound() -> None:
    """Without it, members in the maximum number of teams would be ten million ids."""
    teams = field(3, b"t") * 1000
    body = field(1, field(3, teams) * 1000)
    assert len(body) < 2**22
    assert the_violation(ApplyWorkspaceRequest, body) == (
        "workspace",
        "has lists of more than 250000 elements in all",
    )
    assert len(decode(ApplyWorkspaceRequest, field(1, field(3, teams) * 200)).workspace.members) == 200
