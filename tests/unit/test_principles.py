"""The principles of the contract that can be seen in its descriptors, and the page that lists them all."""

from __future__ import annotations

import ast
import re
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

from tests.docs.links import ROOT
from tests.support.calls import METHODS

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = ROOT / "docs" / "design" / "contract.md"
FILES = {method.containing_service.file for method in METHODS.values()}
_TIME = "google.protobuf.Timestamp"
_DURATION = "google.protobuf.Duration"

# Each has a meaning for zero that is not that of being unset.
OPTIONAL = {
    "ApplyWorkspaceRequest.expected_version": "0: the workspace must not exist; unset: any version",
    "ApplyWorkspaceRequest.max_removals": "0: none; unset: half of the parts",
    "DeleteWorkspaceRequest.expected_version": "0: no version is right; unset: any version",
    "KeyPolicy.max_active_keys_per_user": "0: no user keys; unset: any number",
    "RevokeKeysRequest.max_keys": "0: none; unset: refused, except in a dry run",
    "UpdateKeyRequest.expected_version": "0: no version is right; unset: any version",
    "UpdateWorkspaceRequest.expected_version": "0: no version is right; unset: any version",
    "WorkspaceParts.name": "empty: refused; unset: the name stays",
}
ONEOFS = {
    "RotateKeyRequest.expiry": ["expires_at", "lifetime"],
    "AuthorizeRequest.scope": ["tool_id", "tool_name", "mcp_server"],
    "AuthorizeResponse.verdict": ["granted", "denied"],
    "Denied.tool": ["tool_id", "tool_name"],
    "ExplainKeyRequest.tool": ["tool_id", "tool_name"],
    "Granted.reach": ["tool_set", "tool", "tool_set_version"],
    "ListToolUsersRequest.tool": ["tool_id", "tool_name"],
    "FollowEventsRequest.start": ["cursor", "after_number"],
    "ReadToolSetResponse.part": ["tool_set", "denied"],
    "IssueKeyRequest.expiry": ["expires_at", "lifetime"],
    "RevokeKeyRequest.target": ["key_id", "token"],
    "ToolUser.user": ["key", "user_id"],
}
STREAMS = {"AuditService/FollowEvents", "AuthorizationService/ReadToolSet"}


def files() -> Iterator[Any]:
    """Yield each file of the contract."""
    waiting, seen = list(FILES), set()
    while waiting:
        file = waiting.pop()
        if file.name not in seen and file.package == "skilder.keys.v1":
            seen.add(file.name)
            waiting += file.dependencies
            yield file


MESSAGES = [message for file in files() for message in file.message_types_by_name.values()]
FIELDS = {f"{message.name}.{field.name}": field for message in MESSAGES for field in message.fields}
ENUMS = [enum for file in files() for enum in file.enum_types_by_name.values()]
REQUESTS = {method: descriptor.input_type for method, descriptor in METHODS.items()}
RESPONSES = {method: descriptor.output_type for method, descriptor in METHODS.items()}


def type_of(field: Any) -> str:
    """Return the full name of a field's message type, or an empty text."""
    return "" if field.message_type is None else str(field.message_type.full_name)


def test_ids_times_and_lengths_of_time_have_names_of_one_style() -> None:
    """Times end in `at` or `_until`, or bound a filter; no name has a unit; text that says why is a `reason`."""
    for name, field in FIELDS.items():
        if type_of(field) == _TIME:
            in_a_filter = name.partition(".")[0].endswith("Filter")
            assert re.search(r"[._](after|before|since)$" if in_a_filter else r"([._]at|_until)$", name), name
        assert not re.search(r"_(ms|secs?|seconds|minutes|hours|days|time|date)$", name), name
        assert not re.search(r"_(uuid|identifier|ref)s?$", name), name
        assert not re.search(r"why|cause|comment|note", field.name), name
        if "reason" in field.name:
            assert field.type in {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_ENUM}, name
        if field.name.endswith("version") and field.name != "tool_set_version" and "ToolSet." not in name:
            assert field.type == FieldDescriptor.TYPE_INT64, name


def test_only_where_unset_and_zero_differ_is_a_scalar_optional() -> None:
    """Each with its two meanings in this test; and nothing is a wrapper."""
    found = {
        name
        for name, field in FIELDS.items()
        if field.has_presence
        and field.message_type is None
        and (one := field.containing_oneof)
        and len(one.fields) == 1
        if one.name.startswith("_")
    }
    assert found == set(OPTIONAL)
    assert not [
        name
        for name, field in FIELDS.items()
        if type_of(field).startswith("google.protobuf.")
        and type_of(field) not in {_TIME, _DURATION, "google.protobuf.FieldMask"}
    ]


def test_an_enum_starts_with_unspecified_and_is_open() -> None:
    """So an unset value is never a decision, and a value of a newer version can be kept."""
    assert len(ENUMS) >= 10
    for enum in ENUMS:
        prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", enum.name).upper()
        assert enum.values_by_number[0].name == f"{prefix}_UNSPECIFIED"
        assert all(value.name.startswith(f"{prefix}_") for value in enum.values)
        assert not enum.is_closed


def test_oneofs_are_closed() -> None:
    """Old clients see a new member as unset: change this list only with a field by which a request asks for it."""
    found = {
        f"{message.name}.{one.name}": [field.name for field in one.fields]
        for message in MESSAGES
        for one in message.oneofs
        if not one.name.startswith("_")
    }
    assert found == ONEOFS


def test_lists_have_one_form() -> None:
    """Each method that lists takes a page size and a page token, and returns one list and the next token."""
    paged = {method for method, request in REQUESTS.items() if "page_token" in request.fields_by_name}
    # The tools of a key come in pages beside what is said of it once.
    explain = "KeyService/ExplainKey"
    assert paged == {method for method in METHODS if method.partition("/")[2].startswith("List")} | {explain}
    for method in paged - {explain}:
        request, response = REQUESTS[method].fields_by_name, RESPONSES[method]
        assert request["page_size"].type == FieldDescriptor.TYPE_INT32
        assert request["page_token"].type == FieldDescriptor.TYPE_STRING
        first, *others = response.fields
        assert first.is_repeated
        assert first.number == 1
        until = ["counted_until"] if method == "ActivityService/ListActivity" else []
        assert [field.name for field in others] == ["next_page_token", *until], "a page does not count"


def test_filters_are_messages_of_simple_fields() -> None:
    """So a filter fits into a URL, and each field has an index and a test; orders are enums."""
    filters = [message for message in MESSAGES if message.name.endswith("Filter")]
    assert filters
    for message in filters:
        for field in message.fields:
            assert type_of(field) in {"", _TIME, "skilder.keys.v1.Principal"}, field.full_name
    for name, field in FIELDS.items():
        if field.name == "filter":
            assert type_of(field).endswith("Filter"), name
        if field.name == "order_by":
            assert field.type == FieldDescriptor.TYPE_ENUM, name


def test_only_what_makes_a_secret_has_a_request_id() -> None:
    """Every other change is idempotent by itself."""
    makes_a_secret = {method for method, response in RESPONSES.items() if "token" in response.fields_by_name}
    assert makes_a_secret
    assert {method for method, request in REQUESTS.items() if "request_id" in request.fields_by_name} == makes_a_secret


def test_what_destroys_in_bulk_has_a_bound_and_a_dry_run() -> None:
    """Each of both comes with the other."""
    dry = {method for method, request in REQUESTS.items() if "dry_run" in request.fields_by_name}
    bounded = {
        method for method, request in REQUESTS.items() if {"max_removals", "max_keys"} & set(request.fields_by_name)
    }
    assert {"CatalogService/ApplyWorkspace", "CatalogService/UpdateWorkspace"} <= dry
    assert bounded <= dry
    for method in dry:
        assert REQUESTS[method].fields_by_name["dry_run"].type == FieldDescriptor.TYPE_BOOL


def test_every_request_about_keys_and_workspaces_has_an_actor() -> None:
    """Reads too; those about tokens have none, as a gateway acts for nobody."""
    for method, request in REQUESTS.items():
        has_actor = "actor" in request.fields_by_name
        assert has_actor is (
            method.partition("/")[0] in {"KeyService", "CatalogService", "ActivityService", "AuditService"}
        ), method
        if has_actor:
            assert request.fields_by_name["actor"].type == FieldDescriptor.TYPE_STRING


def test_a_method_streams_only_where_no_page_fits() -> None:
    """And no client streams."""
    assert {method for method, descriptor in METHODS.items() if descriptor.server_streaming} == STREAMS
    assert not [method for method, descriptor in METHODS.items() if descriptor.client_streaming]


ROWS = re.findall(r"^\| (\d+) \| ([^|]+) \| ([^|]+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)


def test_the_page_has_every_principle() -> None:
    """In their order, from the first to the last."""
    assert [int(number) for number, _, _ in ROWS] == list(range(1, 21))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_tests_of_a_principle_exist(row: tuple[str, str, str]) -> None:
    """A principle has a test at least, or says which later methods bring it."""
    number, _, tests = row
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", tests)
    assert named or "later" in tests, f"principle {number} names no test"
    assert len(named) == tests.count("::")
    for path, name in named:
        tree = ast.parse((ROOT / path).read_text("utf-8"))
        functions = {each.name for each in tree.body if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)}
        assert name in functions, f"{path} has no {name}"
