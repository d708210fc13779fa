"""Requests that differ from a given one in one place: something is left out, empty or zero.

They are made from the descriptors, so that a new field is covered without a change here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from operator import methodcaller
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

    Change = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class Variant:
    """A request with one change.

    Attributes:
        path: The field that differs, e.g. `workspace.hats[0].team_ids`.
        what: How it differs.
    """

    path: str
    what: str
    request: Message

    @property
    def field(self) -> str:
        """The path without the places in lists."""
        return _without_places(self.path)


def fields_of(descriptor: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every field of a message, at every depth."""
    for field in descriptor.fields:
        yield path + field.name
        if field.message_type is not None and not _is_map(field):
            yield from fields_of(field.message_type, f"{path}{field.name}.")


def set_fields(request: Message) -> set[str]:
    """Return the paths of the fields that are set in a request, at every depth."""
    return {
        _without_places(f"{path}{field.name}")
        for path, message in _messages(request)
        for field, _ in message.ListFields()
    }


def with_less(request: Message) -> Iterator[Variant]:
    """Yield the request with each field, at each depth, left out, empty or zero, and each list without an element."""
    for path, message in _messages(request):
        for field, value in message.ListFields():
            for what, change in _lessen(field, value):
                yield Variant(f"{path}{field.name}", what, _changed(request, path, change))


def _messages(message: Message, path: str = "") -> Iterator[tuple[str, Message]]:
    """Yield the message and each message in it, with its path and a dot."""
    yield path, message
    for field, value in message.ListFields():
        if field.type != FieldDescriptor.TYPE_MESSAGE or _is_map(field):
            continue
        for where, inner in (
            [(f"[{at}]", each) for at, each in enumerate(value)] if field.is_repeated else [("", value)]
        ):
            yield from _messages(inner, f"{path}{field.name}{where}.")


def _lessen(field: FieldDescriptor, value: Any) -> Iterator[tuple[str, Change]]:
    name = field.name
    yield "left out", methodcaller("ClearField", name)
    if _is_map(field):
        for key in value:
            yield f"without {key!r}", _remove(name, key)
    elif field.is_repeated:
        for at in range(len(value)):
            yield f"without [{at}]", _remove(name, at)
            yield f"[{at}] empty", _set_to(field, at, _zero(field))
    elif field.message_type is not None:
        yield "empty", _empty(name)
    elif field.has_presence:
        yield "empty", _set_to(field, None, _zero(field))


def _remove(name: str, place: Any) -> Change:
    def change(message: Any) -> None:
        del getattr(message, name)[place]

    return change


def _empty(name: str) -> Change:
    def change(message: Any) -> None:
        getattr(message, name).Clear()
        getattr(message, name).SetInParent()

    return change


def _set_to(field: FieldDescriptor, at: int | None, value: Any) -> Change:
    def change(message: Any) -> None:
        if at is None:
            setattr(message, field.name, value)
        elif field.message_type is not None:
            getattr(message, field.name)[at].Clear()
        else:
            getattr(message, field.name)[at] = value

    return change


def _zero(field: FieldDescriptor) -> Any:
    return {FieldDescriptor.CPPTYPE_STRING: "", FieldDescriptor.CPPTYPE_BOOL: False}.get(field.cpp_type, 0)


def _changed(request: Message, path: str, change: Change) -> Message:
    copy = type(request)()
    copy.CopyFrom(request)
    target: Any = copy
    for step in path.split(".")[:-1]:
        name, _, at = step.partition("[")
        target = getattr(target, name)
        if at:
            target = target[int(at.rstrip("]"))]
    change(target)
    return copy


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _without_places(path: str) -> str:
    return re.sub(r"\[\d+\]", "", path)
