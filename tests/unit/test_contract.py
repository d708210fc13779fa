"""The contract in protos/ matches the code that serves it, and no message can leak a token by accident."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from enum import Enum
from typing import TYPE_CHECKING, Any, cast

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.descriptor_pb2 import FieldOptions, FileOptions, MethodOptions

import skilder.keys.v1
from skilder.keys.v1 import common_pb2
from skilder_keys.app import enums
from skilder_keys.rpc import (
    activity_service,
    audit_service,
    authorization_service,
    catalog_service,
    key_service,
    runtime_service,
)
from skilder_keys.rpc.activity_service import ActivityServicer
from skilder_keys.rpc.audit_service import AuditServicer
from skilder_keys.rpc.authorization_service import AuthorizationServicer
from skilder_keys.rpc.catalog_service import CatalogServicer
from skilder_keys.rpc.key_service import KeyServicer
from skilder_keys.rpc.runtime_service import RuntimeServicer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

FILES: list[Any] = [
    importlib.import_module(f"skilder.keys.v1.{module.name}").DESCRIPTOR
    for module in pkgutil.iter_modules(skilder.keys.v1.__path__)
    if module.name.endswith("_pb2")
]
SERVICERS: dict[str, type] = {
    "KeyService": KeyServicer,
    "CatalogService": CatalogServicer,
    "AuthorizationService": AuthorizationServicer,
    "RuntimeService": RuntimeServicer,
    "ActivityService": ActivityServicer,
    "AuditService": AuditServicer,
}
STREAMS = {"ReadToolSet", "FollowEvents"}
_LONG = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)
SERVICES = {service.name: service for file in FILES for service in file.services_by_name.values()}


def messages() -> Iterator[Any]:
    """Yield the descriptor of every message of the contract, including nested ones."""
    waiting = [message for file in FILES for message in file.message_types_by_name.values()]
    while waiting:
        message = waiting.pop()
        waiting += message.nested_types
        yield message


def test_every_service_of_the_contract_is_served() -> None:
    """By the servicer of the same name."""
    assert set(SERVICES) == set(SERVICERS)
    for module in (
        activity_service,
        audit_service,
        key_service,
        catalog_service,
        authorization_service,
        runtime_service,
    ):
        assert SERVICES[module.DESCRIPTOR.name] == module.DESCRIPTOR


@pytest.mark.parametrize("name", SERVICERS)
def test_every_method_of_the_contract_is_served(name: str) -> None:
    """By an async method of the same name, and there are no other methods."""
    servicer = SERVICERS[name]
    served = {
        method for method, function in vars(servicer).items() if callable(function) and not method.startswith("_")
    }
    assert served == {method.name for method in SERVICES[name].methods}
    for method in served:
        function = getattr(servicer, method)
        assert inspect.iscoroutinefunction(function), method
        assert list(inspect.signature(function).parameters) == ["self", "request", "call"]


@pytest.mark.parametrize("name", SERVICERS)
def test_every_method_has_messages_of_its_own(name: str) -> None:
    """They are named after the method, so that each can grow alone (AIP-130); streams are only where no page fits."""
    for method in SERVICES[name].methods:
        assert (method.input_type.name, method.output_type.name) == (f"{method.name}Request", f"{method.name}Response")
        assert not method.client_streaming
        assert method.server_streaming == (method.name in STREAMS)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name.rpartition("/")[2])
def test_every_file_names_its_stubs(file: Any) -> None:
    """In each language, after the protobuf package, since programs cannot easily change to another name later."""
    stem = file.name.rpartition("/")[2].removesuffix(".proto")
    assert file.GetOptions() == FileOptions(
        csharp_namespace="Skilder.Keys.V1",
        go_package="skilder.dev/keys/v1;keysv1",
        java_multiple_files=True,
        java_outer_classname=stem.title().replace("_", "") + "Proto",
        java_package="dev.skilder.keys.v1",
        objc_class_prefix="SKX",
        php_namespace=r"Skilder\Keys\V1",
        ruby_package="Skilder::Keys::V1",
    )


@pytest.mark.parametrize("name", SERVICERS)
def test_every_method_declares_itself(name: str) -> None:
    """The ability that it requires, and whether it may be retried: always if its ability is only to read."""
    for method in SERVICES[name].methods:
        ability = common_pb2.Ability.Name(method.GetOptions().Extensions[common_pb2.ability])
        level = method.GetOptions().idempotency_level
        assert ability != "ABILITY_UNSPECIFIED", method.full_name
        reads = not ability.endswith(("_WRITE", "_ROTATE_OWN"))
        assert (level == MethodOptions.NO_SIDE_EFFECTS) == reads, method.full_name


def test_a_number_of_64_bits_is_a_string_in_browsers() -> None:
    """Otherwise it would be a bigint, which JSON.stringify rejects, or lose digits."""
    long = [field for message in messages() for field in message.fields if field.cpp_type in _LONG]
    assert len(long) >= 5
    for field in long:
        assert field.GetOptions().jstype == FieldOptions.JS_STRING, field.full_name


def test_a_token_is_not_printed() -> None:
    """Tools that honor `debug_redact` leave it out."""
    for message in messages():
        for field in message.fields:
            is_token = field.name == "token"
            assert field.GetOptions().debug_redact == is_token, field.full_name


def test_tokens_are_in_a_few_messages_only() -> None:
    """The responses that make one and the requests to revoke and authorize are the only messages with a token."""
    places = {
        f"{message.name}.{field.name}"
        for message in messages()
        for field in message.fields
        if "token" in field.name and not field.name.endswith("page_token")
    }
    assert places == {
        "IssueKeyResponse.token",
        "RotateKeyResponse.token",
        "RotateOwnKeyResponse.token",
        "RevokeKeyRequest.token",
        "AuthorizeRequest.token",
    }


# The chain of the audit trail. Its events never have a token or the hash of one.
_CHAIN = {"AuditEvent.content", "AuditEvent.hash", "AuditEvent.private_content"}


def test_nothing_else_has_room_for_a_secret() -> None:
    """No other field has type bytes or Any, or a name that suggests a secret."""
    fields = [
        (message.name, field)
        for message in messages()
        for field in message.fields
        if f"{message.name}.{field.name}" not in _CHAIN
    ]
    assert len(fields) > 50
    for name, field in fields:
        assert field.type != FieldDescriptor.TYPE_BYTES, f"{name}.{field.name}"
        assert not any(word in field.name for word in ("secret", "hash", "password", "digest")), f"{name}.{field.name}"
        if field.message_type is not None:
            assert field.message_type.full_name.startswith(
                (
                    "skilder.keys.v1.",
                    "google.protobuf.Timestamp",
                    "google.protobuf.Duration",
                    "google.protobuf.FieldMask",
                )
            )


ENUMS = {
    "Ability": enums.ABILITIES,
    "KeyType": enums.KEY_TYPES,
    "KeyState": enums.KEY_STATES,
    "HatAudience": enums.HAT_AUDIENCES,
    "KeyAction": enums.KEY_ACTIONS,
    "KeyLimit": enums.KEY_LIMITS,
    "KeyOrder": enums.KEY_ORDERS,
    "PreviousKeys": enums.PREVIOUS_KEYS,
    "RevokeScope": enums.REVOKE_SCOPES,
    "PrincipalKind": enums.PRINCIPAL_KINDS,
    "MemberRole": enums.MEMBER_ROLES,
    "WorkspacePart": enums.WORKSPACE_PARTS,
    "ChangeAction": enums.CHANGE_ACTIONS,
    "DenialReason": enums.DENIAL_REASONS,
    "ToolSetView": enums.TOOL_SET_VIEWS,
    "HatReach": enums.HAT_REACHES,
    "PolicyRule": enums.POLICY_RULES,
    "Verdict": enums.VERDICTS,
    "UsageGroup": enums.USAGE_GROUPS,
    "AuditAction": enums.AUDIT_ACTIONS,
}


_OTHER_ENUMS = {"ErrorReason"}


@pytest.mark.parametrize(("name", "known"), ENUMS.items())
def test_every_value_of_an_enum_is_known(name: str, known: Mapping[Enum, int]) -> None:
    """Every value except UNSPECIFIED (0) maps to the domain's own name for it."""
    (enum,) = [file.enum_types_by_name[name] for file in FILES if name in file.enum_types_by_name]
    numbers = {value.number: value.name for value in enum.values}
    assert numbers.pop(0).endswith("_UNSPECIFIED")
    (kind,) = {type(value) for value in known}
    assert set(known) == set(kind)
    assert sorted(known.values()) == sorted(numbers)
    for value, number in known.items():
        assert numbers[number].endswith(f"_{value.name}")


def test_every_enum_of_the_contract_is_tested() -> None:
    """An enum that is in no table is never sent, or never checked."""
    assert {name for file in FILES for name in file.enum_types_by_name} == {*ENUMS, *_OTHER_ENUMS}
    assert not any(message.enum_types for message in messages())


@pytest.mark.parametrize("names", [["WORKSPACE", "USER"], ["WORKSPACE", "USER", "RUNTIME", "ROBOT"]])
def test_an_enum_with_other_values_than_the_contract_is_rejected(names: list[str]) -> None:
    """If one side lacks a value, the service does not start."""
    (descriptor,) = [file.enum_types_by_name["KeyType"] for file in FILES if "KeyType" in file.enum_types_by_name]
    with pytest.raises(ValueError, match="KeyType have different values"):
        enums.numbers(cast("Any", Enum("KeyType", names)), descriptor)


def test_a_response_holds_no_tools_unless_granted() -> None:
    """A client that looks at neither `granted` nor `denied` sees no tools."""
    (response,) = [message for message in messages() if message.name == "AuthorizeResponse"]
    empty: Any = message_factory.GetMessageClass(response)()
    assert list(empty.granted.tool_set.tools) == []
    assert empty.granted.tool.tool.id == ""
