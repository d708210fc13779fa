"""The bounds that requests are held to are those in the contract's comments."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor_pb2 import FileDescriptorProto

from skilder_keys.config import Settings
from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.rpc import (
    activity_service,
    authorization_service,
    catalog_service,
    key_service,
    limits,
    runtime_service,
)
from skilder_keys.rpc.limits import LISTS, Lists, lists_of

if TYPE_CHECKING:
    from collections.abc import Iterator

SERVICES = [
    each.DESCRIPTOR for each in (activity_service, key_service, catalog_service, authorization_service, runtime_service)
]
METHODS = [method for service in SERVICES for method in service.methods]
PROTOS = {path.name: path.read_text() for path in Path("protos/skilder/keys/v1").glob("*.proto")}
_KIB = {"KiB": 2**10, "MiB": 2**20}


def test_the_option_of_the_service_says_the_bounds_of_methods() -> None:
    """All of them, largest first, in its description."""
    described = str(Settings.model_fields["max_message_bytes"].description)
    sizes = re.findall(r"(\d+) (KiB|MiB) for (\w+)", described)
    assert {name: int(number) * _KIB[unit] for number, unit, name in sizes} == {
        **limits.METHODS,
        "the": limits.MAX_BYTES,
    }


def lists_in(descriptor: Any) -> Iterator[str]:
    """Yield every list of a message but those of enum values, at every depth, as MESSAGE.FIELD."""
    for field in descriptor.fields:
        if field.is_repeated and field.enum_type is None:
            yield f"{descriptor.name}.{field.name}"
        if field.message_type is not None:
            yield from lists_in(field.message_type)


def comment_of(name: str) -> str:
    """Return the comment of a field, MESSAGE.FIELD, on one line."""
    message, _, field = name.partition(".")
    bodies = (re.search(rf"message {message} {{(.*?)\n}}", text, re.DOTALL) for text in PROTOS.values())
    (text,) = [found[1] for found in bodies if found is not None]
    lines = text[: text.index(f" {field} = ")].splitlines()[:-1]
    comment: list[str] = []
    while lines and lines[-1].strip().startswith("//"):
        comment.insert(0, lines.pop().strip().removeprefix("//"))
    return "".join(comment)


def test_every_list_of_a_request_has_a_bound() -> None:
    """And no bound belongs to a list that does not exist."""
    assert set(LISTS) == {name for method in METHODS for name in lists_in(method.input_type)}


MASKS = [
    f"{method.input_type.name}.{field.name}"
    for method in METHODS
    for field in method.input_type.fields
    if field.message_type is not None and field.message_type.full_name == "google.protobuf.FieldMask"
]


@pytest.mark.parametrize("name", LISTS)
def test_the_bound_of_a_list_is_that_of_the_contract(name: str) -> None:
    """As stated in the field's comment; that of the names of a mask in the comment of each mask."""
    for commented in MASKS if name == "FieldMask.paths" else [name]:
        found = re.search(r"at most ([0-9,]+)", comment_of(commented))
        assert found is not None, f"the comment of {commented} has no bound"
        assert int(found[1].replace(",", "")) == LISTS[name]


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.full_name)
def test_the_bytes_of_a_request_are_those_of_the_contract(method: Any) -> None:
    """As stated in the service's comment."""
    (text,) = [text for text in PROTOS.values() if f"service {method.containing_service.name} " in text]
    comment = " ".join(line.removeprefix("//").strip() for line in text[: text.index("\nservice ")].splitlines())
    every, own = (
        re.search(r"A request has at most (\d+) (\w+)", comment),
        re.search(rf"a request of {method.name} at most (\d+) (\w+)", comment),
    )
    found = own or every
    assert found is not None
    assert limits.max_bytes(method) == int(found[1]) * _KIB[found[2]]


def test_a_list_of_enum_values_has_a_bound() -> None:
    """The same for each of them."""
    file = FileDescriptorProto(name="test_limits.proto", package="test_limits", syntax="proto3")
    file.enum_type.add(name="Kind").value.add(name="KIND_UNSPECIFIED", number=0)
    kinds = file.message_type.add(name="Filter").field.add(name="kinds", number=1, type_name=".test_limits.Kind")
    kinds.type, kinds.label = kinds.TYPE_ENUM, kinds.LABEL_REPEATED
    (kind,) = message_factory.GetMessages([file]).values()
    lists = Lists(kind.DESCRIPTOR)
    assert lists.check(kind(kinds=[0] * limits.MAX_ENUM_VALUES)) == limits.MAX_ENUM_VALUES
    with pytest.raises(InvalidRequestError, match="kinds has 101 elements; at most 100 are allowed"):
        lists.check(kind(kinds=[0] * 101))


def test_a_list_without_a_bound_cannot_be_served() -> None:
    """So nobody can forget the bound of a new list."""
    unknown: Any = catalog_service.DESCRIPTOR.file.message_types_by_name["ApplyWorkspaceResponse"]
    with pytest.raises(KeyError, match="changes"):
        lists_of(unknown)
