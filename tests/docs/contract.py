"""The contract in protos/ with its comments, from protoc's descriptor set with source information."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2

from skilder.keys.v1 import common_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

PROTOS = Path(__file__).parents[2] / "protos"
PACKAGE = "skilder.keys.v1"

# The numbers of these fields in descriptor.proto, of which the paths of source locations consist.
_FILE_MESSAGES, _FILE_ENUMS, _FILE_SERVICES = 4, 5, 6
_MESSAGE_FIELDS, _ENUM_VALUES, _SERVICE_METHODS = 2, 2, 2

_Proto = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    _Proto.TYPE_BOOL: "bool",
    _Proto.TYPE_BYTES: "bytes",
    _Proto.TYPE_INT32: "int32",
    _Proto.TYPE_INT64: "int64",
    _Proto.TYPE_STRING: "string",
}


@dataclass(frozen=True, slots=True)
class Element:
    """A part of the contract with a name and a comment, in Markdown."""

    name: str
    comment: str


@dataclass(frozen=True, slots=True)
class Field(Element):
    """A field of a message.

    Attributes:
        type: The name of its type without the package, e.g. `Key`, `string`, `google.protobuf.Timestamp`.
        label: `repeated`, `optional` or empty.
        one_of: The name of the oneof it belongs to, or empty.
    """

    type: str
    label: str
    one_of: str


@dataclass(frozen=True, slots=True)
class Message(Element):
    """A message and its fields."""

    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Value(Element):
    """A value of an enum."""

    number: int


@dataclass(frozen=True, slots=True)
class Enum(Element):
    """An enum and its values."""

    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Method(Element):
    """A method.

    Attributes:
        request: The name of its request message.
        response: The name of its response message.
        ability: The name of the ability that it requires of its caller, without `ABILITY_`.
        level: The name of its `idempotency_level`.
    """

    request: str
    response: str
    ability: str
    level: str


@dataclass(frozen=True, slots=True)
class Service(Element):
    """A service and its methods."""

    methods: tuple[Method, ...]


def services() -> tuple[Service, ...]:
    """Return the services, in order of their files' names."""
    return _all()[0]


def messages() -> Mapping[str, Message]:
    """Return the messages by name, in the order of the files."""
    return _all()[1]


def enums() -> Mapping[str, Enum]:
    """Return the enums by name, in the order of the files."""
    return _all()[2]


@cache
def _all() -> tuple[tuple[Service, ...], Mapping[str, Message], Mapping[str, Enum]]:
    files = [_File(each) for each in _descriptor_set().file if each.package == PACKAGE]
    return (
        tuple(service for file in files for service in file.services()),
        {message.name: message for file in files for message in file.messages()},
        {enum.name: enum for file in files for enum in file.enums()},
    )


def _descriptor_set() -> descriptor_pb2.FileDescriptorSet:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "set"
        options = ["--include_source_info", "--include_imports", f"--descriptor_set_out={path}"]
        files = sorted(map(str, PROTOS.glob("skilder/keys/**/*.proto")))
        command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={PROTOS}", *options, *files]
        subprocess.run(command, check=True)
        return descriptor_pb2.FileDescriptorSet.FromString(path.read_bytes())


class _File:
    """One file of the contract."""

    def __init__(self, file: descriptor_pb2.FileDescriptorProto) -> None:
        self._file = file
        self._comments = {
            tuple(location.path): location.leading_comments for location in file.source_code_info.location
        }

    def services(self) -> list[Service]:
        """Return its services."""
        return [
            Service(service.name, self._comment(_FILE_SERVICES, at), tuple(self._methods(service, at)))
            for at, service in enumerate(self._file.service)
        ]

    def messages(self) -> list[Message]:
        """Return its messages."""
        return [
            Message(message.name, self._comment(_FILE_MESSAGES, at), tuple(self._fields(message, at)))
            for at, message in enumerate(self._file.message_type)
        ]

    def enums(self) -> list[Enum]:
        """Return its enums."""
        return [
            Enum(enum.name, self._comment(_FILE_ENUMS, at), tuple(self._values(enum, at)))
            for at, enum in enumerate(self._file.enum_type)
        ]

    def _methods(self, service: descriptor_pb2.ServiceDescriptorProto, at: int) -> list[Method]:
        return [
            Method(
                method.name,
                self._comment(_FILE_SERVICES, at, _SERVICE_METHODS, place),
                _short(method.input_type),
                _short(method.output_type),
                common_pb2.Ability.Name(method.options.Extensions[common_pb2.ability]).removeprefix("ABILITY_"),
                descriptor_pb2.MethodOptions.IdempotencyLevel.Name(method.options.idempotency_level),
            )
            for place, method in enumerate(service.method)
        ]

    def _fields(self, message: descriptor_pb2.DescriptorProto, at: int) -> list[Field]:
        maps = {each.name: each for each in message.nested_type if each.options.map_entry}
        if len(maps) < len(message.nested_type) or message.enum_type:
            raise NotImplementedError(f"{message.name} has types inside, which the reference does not show")
        fields = []
        for place, field in enumerate(message.field):
            entry = maps.get(_short(field.type_name).rpartition(".")[2]) if field.type_name else None
            of_a_list = field.label == _Proto.LABEL_REPEATED and entry is None
            label = "repeated" if of_a_list else "optional" if field.proto3_optional else ""
            in_one_of = field.HasField("oneof_index") and not field.proto3_optional
            one_of = message.oneof_decl[field.oneof_index].name if in_one_of else ""
            comment = self._comment(_FILE_MESSAGES, at, _MESSAGE_FIELDS, place)
            if entry is not None:
                kind = f"map<{', '.join(_SCALARS[each.type] for each in entry.field)}>"
            else:
                kind = _short(field.type_name) if field.type_name else _SCALARS[field.type]
            fields.append(Field(field.name, comment, kind, label, one_of))
        return fields

    def _values(self, enum: descriptor_pb2.EnumDescriptorProto, at: int) -> list[Value]:
        return [
            Value(value.name, self._comment(_FILE_ENUMS, at, _ENUM_VALUES, place), value.number)
            for place, value in enumerate(enum.value)
        ]

    def _comment(self, *path: int) -> str:
        """Return a comment with each paragraph in one line."""
        paragraphs = self._comments[path].strip().split("\n\n")
        return "\n\n".join(" ".join(line.strip() for line in each.splitlines()) for each in paragraphs)


def _short(type_name: str) -> str:
    return type_name.removeprefix(".").removeprefix(f"{PACKAGE}.")
