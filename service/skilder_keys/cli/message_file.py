"""Messages of the API in YAML or JSON files: fields by their names, enums by their short names, errors by the line."""

from __future__ import annotations

import re
import sys
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message

from skilder_keys.domain.fields import quoted, shortened
from skilder_keys.yaml_files import reader
from skilder_keys.yaml_files.reader import Mapping, Scalar, Sequence, YamlFileError
from skilder_keys.yaml_files.scalars import Kind

if TYPE_CHECKING:
    from pathlib import Path

    from google.protobuf.descriptor import Descriptor, EnumDescriptor

    from skilder_keys.yaml_files.reader import Node

MessageType = TypeVar("MessageType", bound=Message)

STANDARD_INPUT = "standard input"
_SHOWN = 10
_LONGEST = 80
_OWN_IDS = ("id", "user_id")
_REQUIRED = {"id", "user_id", "name", "mcp_server"}
_INTEGER = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_TRUE = {"true", "yes", "on"}
_WELL_KNOWN = "google.protobuf."


def read(file: Path) -> tuple[str, Node]:
    """Read a file, or standard input for `-`; return what errors call it, and what is in it.

    Raises:
        YamlFileError: It cannot be read, or is no YAML that is taken.
    """
    if str(file) != "-":
        return str(file), reader.read_file(file)
    if sys.stdin is None:
        raise YamlFileError(f"{STANDARD_INPUT}: is closed")
    return STANDARD_INPUT, reader.read_stream(STANDARD_INPUT, sys.stdin.buffer)


def as_message(name: str, node: Node, kind: type[MessageType]) -> MessageType:
    """Make a message of what a file holds.

    Raises:
        YamlFileError: Something is not as the message has it. File, line, entry and field are named.
    """
    descriptor: Any = kind.DESCRIPTOR  # one of two classes
    if not isinstance(node, Mapping):
        fields = ", ".join(descriptor.fields_by_name)
        raise YamlFileError(f"{name}:{node.line}: is not a {descriptor.name.lower()}: a mapping with {fields}")
    reading = _Reading()
    content = reading.message(descriptor, node, "")
    if reading.faults:
        told = [f"{name}:{line}: {fault}" for line, fault in sorted(reading.faults[:_SHOWN])]
        more = len(reading.faults) - _SHOWN
        raise YamlFileError("\n".join(told + ([f"and {more} more"] if more > 0 else [])))
    try:
        return ParseDict(content, kind())
    except (ParseError, ValueError) as error:
        raise YamlFileError(f"{name}: {error}") from None


class _Reading:
    """Goes through a file beside the description of a message, and collects what does not fit."""

    def __init__(self) -> None:
        self.faults: list[tuple[int, str]] = []

    def message(self, descriptor: Descriptor, node: Mapping, at: str) -> dict[str, Any]:
        """Return a mapping as `ParseDict` takes it; `at` says which entry of the file it is."""
        content: dict[str, Any] = {}
        names = dict(descriptor.fields_by_name) | {each.json_name: each for each in descriptor.fields}
        for key, value in node.items.items():
            field = names.get(key)
            if field is None:
                self._add(node.lines[key], at, _unknown(key, descriptor))
            elif field.name in content:
                self._add(node.lines[key], at, f"{field.name} stands twice, once as {key}")
            elif field.is_repeated:
                content[field.name] = self._list(field, value, at)
            else:
                content[field.name] = self._value(field, value, at, field.name)
        return content

    def _list(self, field: FieldDescriptor, node: Node, at: str) -> list[Any]:
        if isinstance(node, Sequence):
            return [self._value(field, item, at, f"{field.name}[{index}]") for index, item in enumerate(node.items)]
        nothing = isinstance(node, Scalar) and node.kind is Kind.NOTHING
        todo = "write [] for none, or leave it out" if nothing else "write a list, as [one, two]"
        self._add(node.line, at, f"{field.name}: is {_shape(node)}: {todo}")
        return []

    def _value(self, field: FieldDescriptor, node: Node, at: str, name: str) -> Any:  # noqa: ANN401 - of any type
        inner = field.message_type
        if inner is not None and not inner.full_name.startswith(_WELL_KNOWN):
            if isinstance(node, Mapping):
                return self.message(inner, node, f"{f'{at}, ' if at else ''}{name}{_own_id(node)}")
            self._add(
                node.line, at, f"{name}: is {_shape(node)}: write a mapping with {', '.join(inner.fields_by_name)}"
            )
        elif not isinstance(node, Scalar):
            self._add(node.line, at, f"{name}: is {_shape(node)}: write one value")
        else:
            try:
                return _scalar(field, node)
            except ValueError as error:
                self._add(node.line, at, f"{name}: {error}")
        return None

    def _add(self, line: int, at: str, fault: str) -> None:
        self.faults.append((line, f"{at}: {fault}" if at else fault))


def _scalar(field: FieldDescriptor, node: Scalar) -> Any:  # noqa: ANN401 - of the field's type
    """Return a value as `ParseDict` takes it, or raise ValueError with what is wrong with it."""
    if node.kind is Kind.NOTHING and field.name not in _REQUIRED and not field.is_repeated:
        return None
    if not node.text and node.kind is Kind.NOTHING:
        raise ValueError("has no value")
    if field.enum_type is not None:
        return _enum(field.enum_type, node)
    if field.type == FieldDescriptor.TYPE_BOOL:
        if node.kind is not Kind.TRUTH:
            raise ValueError(f"is {quoted(node.text)}: write true or false, without quotes")
        return node.text.lower() in _TRUE
    if field.type == FieldDescriptor.TYPE_STRING and node.kind is not Kind.TEXT:
        written = shortened(node.text, _LONGEST)
        raise ValueError(
            f'{written} without quotes is {node.kind.value} in YAML, and not a text: quote it: "{written}"'
        )
    return int(node.text) if node.kind is Kind.NUMBER and _INTEGER.fullmatch(node.text) else node.text


def _enum(enum: EnumDescriptor, node: Scalar) -> int:
    """Return the number of an enum's value: `admin`, or MEMBER_ROLE_ADMIN as the API's JSON has it."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    known = {name.removeprefix(prefix).lower(): value for name, value in enum.values_by_name.items() if value.number}
    found = enum.values_by_name.get(node.text) or known.get(node.text.lower())
    if found is None:
        raise ValueError(f"{quoted(node.text)} is not {_either(list(known))}")
    return int(found.number)


def _unknown(key: str, descriptor: Descriptor) -> str:
    names = list(descriptor.fields_by_name)
    close = get_close_matches(key, names, 1)
    return f"there is no field {quoted(key)}: " + (f"is it {close[0]}?" if close else f"there are {', '.join(names)}")


def _own_id(node: Node) -> str:
    """Return the id by which people know an entry, in quotes, where it has one."""
    items = node.items if isinstance(node, Mapping) else {}
    found = next((items[name] for name in _OWN_IDS if name in items), None)
    return f" {quoted(found.text)}" if isinstance(found, Scalar) else ""


def _shape(node: Node) -> str:
    if isinstance(node, Scalar):
        return node.kind.value
    return "a list" if isinstance(node, Sequence) else "a mapping"


def _either(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
