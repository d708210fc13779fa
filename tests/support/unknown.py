"""Requests with something that this version does not know: a field or an enum value, at every depth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

UNKNOWN_FIELDS = {
    "a number": b"\x98\x06\x01",
    "eight bytes": b"\x99\x06" + b"\0" * 8,
    "four bytes": b"\x9d\x06" + b"\0" * 4,
    "a text": b"\x9a\x06\x03abc",
    "no text": b"\x9a\x06\x00",
    "a group": b"\x9b\x06\x08\x01\x9c\x06",
}
"""A field with the number 99, which no message has, by its content."""

UNKNOWN_VALUES = (99, -1, 2**31 - 1)
"""Numbers that no enum has."""


@dataclass(frozen=True, slots=True)
class Place:
    """A message inside a request, or an enum field of one.

    Attributes:
        path: Its path in the request; empty for the request itself.
        steps: The names and indexes that lead from the request to it.
    """

    path: str
    steps: tuple[str | int, ...]

    def of(self, request: Message) -> Any:
        """Return the message, or the message that has the enum field as its last step."""
        found: Any = request
        for step in self.steps:
            found = found[step] if isinstance(step, int) else getattr(found, step)
        return found


def messages_in(request: Message) -> Iterator[Place]:
    """Yield the request, and every message in it. Of each list, take the first and the last element."""
    yield from _messages(request, "", ())


def enums_in(request: Message) -> Iterator[tuple[Place, str, bool]]:
    """Yield every enum field of these messages: the message, the field's name, and whether it is a list."""
    for place in messages_in(request):
        for field in place.of(request).DESCRIPTOR.fields:
            if field.enum_type is not None:
                yield place, field.name, field.is_repeated


def with_unknown_field(request: Message, place: Place, content: bytes) -> Message:
    """Return the request with an unknown field in one of its messages."""
    changed = _copy(request)
    place.of(changed).MergeFromString(content)
    return changed


def with_unknown_value(request: Message, place: Place, name: str, number: int) -> Message:
    """Return the request with an unknown value in one of its enum fields."""
    changed = _copy(request)
    message = place.of(changed)
    if message.DESCRIPTOR.fields_by_name[name].is_repeated:
        getattr(message, name).append(number)
    else:
        setattr(message, name, number)
    return changed


def joined(*parts: str) -> str:
    """Return a path of the parts that are not empty."""
    return ".".join(filter(None, parts))


def _copy(request: Message) -> Message:
    changed = type(request)()
    changed.CopyFrom(request)
    return changed


def _messages(message: Message, path: str, steps: tuple[str | int, ...]) -> Iterator[Place]:
    yield Place(path, steps)
    for field, value in message.ListFields():
        if field.type != FieldDescriptor.TYPE_MESSAGE or _is_map(field):
            continue
        name = joined(path, field.name)
        if not field.is_repeated:
            yield from _messages(value, name, (*steps, field.name))
            continue
        for index in sorted({0, len(value) - 1}):
            yield from _messages(value[index], f"{name}[{index}]", (*steps, field.name, index))


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)
