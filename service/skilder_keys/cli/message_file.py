"""Read the API's messages from YAML or JSON files, with short names for enums, and errors that name the line."""

from __future__ import annotations

import re
import sys
from datetime import timedelta
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import ParseDict, ParseError
from google.protobuf.message import Message
from typer import BadParameter

from skilder_keys.cli.durations import duration
from skilder_keys.cli.enums import short_names
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
_SECONDS = re.compile(r"-?[0-9]{1,12}(?:\.[0-9]{1,9})?s")
_TRUE = {"true", "yes", "on"}
_WELL_KNOWN = "google.protobuf."
# What to write instead of a field that there was before, by message and field.
_REPLACED = {
    ("Tool", "active"): "write `disabled: true` for a tool that is switched off, and nothing for any other",
}


def read(file: Path) -> tuple[str, Node]:
    """Read a file, or standard input for `-`. Return its name for error messages, and its content.

    Raises:
        YamlFileError: It cannot be read, or is not accepted as YAML.
    """
    if str(file) != "-":
        return str(file), reader.read_file(file)
    if sys.stdin is None:
        raise YamlFileError(f"{STANDARD_INPUT}: is closed")
    return STANDARD_INPUT, reader.read_stream(STANDARD_INPUT, sys.stdin.buffer)


def as_message(name: str, node: Node, kind: type[MessageType]) -> MessageType:
    """Return the content of a file as a message.

    Raises:
        YamlFileError: The content does not fit the message. The text names the file, line, entry and field.
    """
    descriptor: Any = kind.DESCRIPTOR  # the C and the Python implementation have different classes
    if not isinstance(node, Mapping):
        fields = ", ".join(descriptor.fields_by_name)
        raise YamlFileError(f"{name}:{node.line}: is not a {descriptor.name.lower()}: write a mapping with {fields}")
    reading = _Reading()
    content = reading.message(descriptor, node, "")
    if reading.faults:
        shown = [f"{name}:{line}: {fault}" for line, fault in sorted(reading.faults[:_SHOWN])]
        more = len(reading.faults) - _SHOWN
        raise YamlFileError("\n".join(shown + ([f"and {more} more"] if more > 0 else [])))
    try:
        return ParseDict(content, kind())
    except (ParseError, ValueError) as error:
        raise YamlFileError(f"{name}: {error}") from None


class _Reading:
    """Compares a file with the descriptor of a message, and collects the faults."""

    def __init__(self) -> None:
        self.faults: list[tuple[int, str]] = []

    def message(self, descriptor: Descriptor, node: Mapping, at: str) -> dict[str, Any]:
        """Return a mapping in the form that `ParseDict` accepts. `at` is the entry's name for error messages."""
        content: dict[str, Any] = {}
        names = dict(descriptor.fields_by_name) | {each.json_name: each for each in descriptor.fields}
        for key, value in node.items.items():
            field = names.get(key)
            if field is None:
                self._add(node.lines[key], at, _unknown(key, descriptor))
            elif field.name in content:
                self._add(node.lines[key], at, f"{field.name} is set twice, once as {key}")
            elif field.is_repeated:
                content[field.name] = self._list(field, value, at)
            else:
                content[field.name] = self._value(field, value, at, field.name)
        return content

    def _list(self, field: FieldDescriptor, node: Node, at: str) -> list[Any]:
        if isinstance(node, Sequence):
            return [self._value(field, item, at, f"{field.name}[{index}]") for index, item in enumerate(node.items)]
        nothing = isinstance(node, Scalar) and node.kind is Kind.NOTHING
        todo = "write [] for an empty list, or leave it out" if nothing else "write a list, such as [one, two]"
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
    """Return a value in the form that `ParseDict` accepts. Raise ValueError, with the reason, if it is wrong."""
    if node.kind is Kind.NOTHING and field.name not in _REQUIRED and not field.is_repeated:
        return None
    if not node.text and node.kind is Kind.NOTHING:
        raise ValueError("has no value")
    if field.enum_type is not None:
        return _enum(field.enum_type, node)
    if field.message_type is not None and field.message_type.full_name == Duration.DESCRIPTOR.full_name:
        return _duration(node)
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


def _duration(node: Scalar) -> str:
    """Return a length of time, given as `90d` or, as in the API's JSON, as `7776000s` or `1.5s`."""
    if _SECONDS.fullmatch(node.text):
        return node.text
    try:
        return f"{duration(node.text) // timedelta(seconds=1)}s"
    except BadParameter as error:
        raise ValueError(str(error)) from None


def _enum(enum: EnumDescriptor, node: Scalar) -> int:
    """Return the number of an enum's value, given as `admin` or, as in the API's JSON, as MEMBER_ROLE_ADMIN."""
    if node.text in enum.values_by_name:
        return int(enum.values_by_name[node.text].number)
    known = short_names(enum)
    if node.text.lower() not in known:
        raise ValueError(f"{quoted(node.text)} is not {_either(list(known))}")
    return known[node.text.lower()]


def _unknown(key: str, descriptor: Descriptor) -> str:
    if replaced := _REPLACED.get((descriptor.name, key)):
        return f"there is no field {key} any more: {replaced}"
    names = list(descriptor.fields_by_name)
    close = get_close_matches(key, names, 1)
    hint = f"did you mean {close[0]}?" if close else f"the fields are {', '.join(names)}"
    return f"there is no field {quoted(key)}: {hint}"


def _own_id(node: Node) -> str:
    """Return the entry's id in quotes, or an empty text if it has none."""
    items = node.items if isinstance(node, Mapping) else {}
    found = next((items[name] for name in _OWN_IDS if name in items), None)
    return f" {quoted(found.text)}" if isinstance(found, Scalar) else ""


def _shape(node: Node) -> str:
    if isinstance(node, Scalar):
        return node.kind.value
    return "a list" if isinstance(node, Sequence) else "a mapping"


def _either(names: list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"
