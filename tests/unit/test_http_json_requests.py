"""Requests with JSON as messages: nothing in them is ignored, and no token is in a path, a query or an error."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from google.protobuf import descriptor_pool
from google.protobuf.field_mask_pb2 import FieldMask

from skilder.keys.v1.authorization_service_pb2 import AuthorizeRequest
from skilder.keys.v1.catalog_service_pb2 import ApplyWorkspaceRequest, GetWorkspaceRequest, ListWorkspacesRequest
from skilder.keys.v1.common_pb2 import ToolName
from skilder.keys.v1.key_pb2 import KeyState
from skilder.keys.v1.key_service_pb2 import KeyFilter, ListKeysRequest, ListToolUsersRequest, RevokeKeyRequest
from skilder.keys.v1.workspace_pb2 import Workspace
from skilder_keys.rpc.errors import MalformedMessageError, UnknownFieldError
from skilder_keys.rpc.http_json.requests import WrongPathError, WrongVerbError, find
from skilder_keys.rpc.http_json.rules import RULES
from tests.docs.contract import services

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

SECRET = "WSK_SECRET"


def message(verb: str, path: str, query: str = "", body: str | bytes = b"") -> bytes:
    """Return the message of a request."""
    return find(verb, path).message(query, body.encode() if isinstance(body, str) else body)


TAKEN: list[tuple[tuple[str, ...], Message]] = [
    (("POST", "/v1/authorize", "", '{"token":"x","toolId":"y"}'), AuthorizeRequest(token="x", tool_id="y")),
    (("POST", "/v1/authorize", "", '{"token":"x","tool_id":""}'), AuthorizeRequest(token="x", tool_id="")),
    (("POST", "/v1/keys/a%2Fb:revoke", "", '{"reason":"r"}'), RevokeKeyRequest(key_id="a/b", reason="r")),
    (("POST", "/v1/keys/a:revoke", "", '{"keyId":"a"}'), RevokeKeyRequest(key_id="a")),
    (("POST", "/v1/keys:revoke", "", '{"token":"x"}'), RevokeKeyRequest(token="x")),
    (
        ("GET", "/v1/workspaces/w/keys", "pageSize=5&filter.states=KEY_STATE_ACTIVE&filter.states=KEY_STATE_EXPIRED"),
        ListKeysRequest(
            workspace_id="w",
            page_size=5,
            filter=KeyFilter(states=[KeyState.KEY_STATE_ACTIVE, KeyState.KEY_STATE_EXPIRED]),
        ),
    ),
    (
        ("GET", "/v1/workspaces/w/toolUsers", "tool_name.mcp_server=s&toolName.name=n"),
        ListToolUsersRequest(workspace_id="w", tool_name=ToolName(mcp_server="s", name="n")),
    ),
    (("GET", "/v1/workspaces", "showDeleted=true"), ListWorkspacesRequest(show_deleted=True)),
    (
        ("GET", "/v1/workspaces/w", "readMask=members,teams"),
        GetWorkspaceRequest(workspace_id="w", read_mask=FieldMask(paths=["members", "teams"])),
    ),
    (
        ("PUT", "/v1/workspaces/w", "", '{"workspace":{"name":"W"},"expectedVersion":"3"}'),
        ApplyWorkspaceRequest(workspace=Workspace(id="w", name="W"), expected_version=3),
    ),
]


@pytest.mark.parametrize(("request_", "expected"), TAKEN, ids=lambda each: each[1] if isinstance(each, tuple) else "")
def test_a_request_is_a_message(request_: tuple[str, ...], expected: Message) -> None:
    """With fields from the path, the query and the body."""
    assert type(expected).FromString(message(*request_)) == expected


REFUSED = {
    "no JSON": ("POST", "/v1/authorize", "", '{"token":'),
    "no body": ("POST", "/v1/authorize"),
    "a list": ("POST", "/v1/authorize", "", "[]"),
    "not UTF-8": ("POST", "/v1/authorize", "", b'{"token":"\xff"}'),
    "half a surrogate": ("POST", "/v1/authorize", "", '{"token":"\\ud800"}'),
    "half a surrogate as an enum": ("POST", "/v1/authorize", "", '{"view":"\\ud800"}'),
    "half a surrogate as a name": ("POST", "/v1/authorize", "", '{"\\ud800":1}'),
    "a number that is none": ("POST", "/v1/authorize", "", '{"sourceIp":NaN}'),
    "another type": ("POST", "/v1/authorize", "", f'{{"token":["{SECRET}"]}}'),
    "null, which would be everything": ("POST", "/v1/authorize", "", '{"token":"x","toolId":null}'),
    "null further down": ("POST", "/v1/authorize:batch", "", '{"requests":[{"token":"x","toolId":null}]}'),
    "a field twice": ("POST", "/v1/authorize", "", f'{{"token":"{SECRET}","token":"y"}}'),
    "a field in both spellings": ("POST", "/v1/authorize", "", '{"toolId":"x","tool_id":"y"}'),
    "two of a oneof": ("POST", "/v1/authorize", "", '{"toolId":"x","mcpServer":"y"}'),
    "an enum's unknown name": ("POST", "/v1/authorize", "", '{"view":"TOOL_SET_VIEW_ALL"}'),
    "a query beside a body": ("POST", "/v1/authorize", f"token={SECRET}", "{}"),
    "a body beside a query": ("GET", "/v1/workspaces", "", "{}"),
    "path and body differ": ("POST", "/v1/keys/a:revoke", "", '{"keyId":"b"}'),
    "path and body differ in a oneof": ("POST", "/v1/keys/a:revoke", "", f'{{"token":"{SECRET}"}}'),
    "path and body differ further down": ("PUT", "/v1/workspaces/w", "", '{"workspace":{"id":"v"}}'),
    "path and query differ": ("GET", "/v1/workspaces/w/keys", "workspaceId=v"),
    "twice in a query": ("GET", "/v1/workspaces/w/keys", "pageSize=1&page_size=1"),
    "no number": ("GET", "/v1/workspaces/w/keys", "pageSize=many"),
    "no boolean": ("GET", "/v1/workspaces", "showDeleted=1"),
    "a message without a field": ("GET", "/v1/workspaces/w/keys", "filter=x"),
    "a field without a value": ("GET", "/v1/workspaces", "showDeleted"),
    "far too deep": ("POST", "/v1/authorize", "", "[" * 100_000),
}


@pytest.mark.parametrize("request_", REFUSED.values(), ids=REFUSED)
def test_what_is_no_message_is_refused(request_: tuple[str, ...]) -> None:
    """Whole, and the error quotes no value."""
    with pytest.raises(MalformedMessageError) as caught:
        message(*request_)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "request_",
    [
        ("POST", "/v1/authorize", "", '{"token":"x","nope":1}'),
        ("POST", "/v1/authorize", "", '{"toolName":{"nope":1}}'),
        ("GET", "/v1/workspaces", "nope=1"),
        ("GET", "/v1/workspaces/w/keys", "filter.nope=1"),
    ],
)
def test_an_unknown_field_is_named(request_: tuple[str, ...]) -> None:
    """As for gRPC."""
    with pytest.raises(UnknownFieldError, match="the field nope of") as caught:
        message(*request_)
    assert caught.value.details["path"] == "nope"


@pytest.mark.parametrize(
    "path",
    ["/", "/v1/", "/v1/authorize/", "/v1//authorize", "/v1/keys/", "/v1/keys/a/b", "/v1/keys/%ff", "/V1/authorize"],
)
def test_another_path_is_none(path: str) -> None:
    """There is one spelling of each path."""
    with pytest.raises(WrongPathError):
        find("GET", path)


def test_another_verb_is_refused_with_those_that_there_are() -> None:
    """So that a read never changes something."""
    with pytest.raises(WrongVerbError) as caught:
        find("POST", "/v1/workspaces/w")
    assert caught.value.allowed == ["DELETE", "GET", "PATCH", "PUT"]


def test_every_method_that_responds_once_has_a_rule() -> None:
    """And no two rules are the same."""
    pool = descriptor_pool.Default()
    names = {f"skilder.keys.v1.{service.name}.{method.name}" for service in services() for method in service.methods}
    assert RULES.keys() == {name for name in names if not pool.FindMethodByName(name).server_streaming}
    rules = [rule for each in RULES.values() for rule in each]
    assert len(set(rules)) == len(rules)


def _secrets(message: Descriptor) -> Iterator[str]:
    for field in message.fields:
        if field.GetOptions().debug_redact:
            yield field.full_name
        elif field.message_type is not None and field.message_type.file.package == message.file.package:
            yield from _secrets(field.message_type)


def test_a_token_is_in_a_body_only() -> None:
    """A method whose request has one takes no query, and no path has one."""
    found = {name for name in RULES if list(_secrets(descriptor_pool.Default().FindMethodByName(name).input_type))}
    assert len(found) == 3
    for name in found:
        assert all(rule.has_body and "token" not in rule.path for rule in RULES[name])
