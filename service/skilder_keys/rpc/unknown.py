"""What a request has that this version does not know: fields and enum values, at every depth.

Fields of a request aim or narrow it. If a service ignored one that it does not know, it would do more than was asked:
return every tool instead of those of one server, or revoke keys without the filter. So such a request is refused.

protobuf keeps unknown fields as bytes, and `has_unknown_fields` finds out in C whether there are any. Only then the
bytes are searched for the place. No object is ever made of each unknown field, because there may be very many.
"""

from __future__ import annotations

from collections import Counter
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.unknown_fields import UnknownFieldSet

from skilder_keys.rpc.errors import UnknownFieldError
from skilder_keys.rpc.wire import FIXED_32, FIXED_64, LENGTH_DELIMITED, START_GROUP, VARINT, fields

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.message import Message

_MAX_NUMBERS = 10
"""The most numbers in an error."""

_WIRE_TYPES = {
    FieldDescriptor.TYPE_STRING: LENGTH_DELIMITED,
    FieldDescriptor.TYPE_BYTES: LENGTH_DELIMITED,
    FieldDescriptor.TYPE_MESSAGE: LENGTH_DELIMITED,
    FieldDescriptor.TYPE_FIXED64: FIXED_64,
    FieldDescriptor.TYPE_SFIXED64: FIXED_64,
    FieldDescriptor.TYPE_DOUBLE: FIXED_64,
    FieldDescriptor.TYPE_FIXED32: FIXED_32,
    FieldDescriptor.TYPE_SFIXED32: FIXED_32,
    FieldDescriptor.TYPE_FLOAT: FIXED_32,
}
"""The wire types of the types that are not varints."""


class Found(NamedTuple):
    """Something unknown.

    Attributes:
        path: The path of the message, or of the enum field; empty for the request itself.
        numbers: The unknown field numbers of the message, or the unknown values of the enum field.
    """

    path: str
    numbers: list[int]

    def inside(self, name: str) -> Found:
        """Return the same as seen from the message that has this one in a field, or in an element of a list."""
        return Found(".".join(filter(None, (name, self.path))), self.numbers)

    def error(self) -> UnknownFieldError:
        """Return the error that reports it."""
        numbers = ",".join(map(str, islice(dict.fromkeys(self.numbers), _MAX_NUMBERS)))
        what = f"the fields or values {numbers}" if numbers else "some fields"
        return UnknownFieldError(
            f"This version of the service does not know {what} in {self.path or 'the request'}. "
            "It may be older than the client: upgrade the service before its clients.",
            path=self.path,
            numbers=numbers,
        )


class Known:
    """What this version knows of a type of message.

    Attributes:
        numbers: The numbers of its fields.
        messages: The fields that are messages, by their numbers: the name, whether it is a list, and what is known.
        has_enums: Whether it has an enum at any depth.
        is_flat: Whether it has neither messages nor enums.
        is_shallow: Whether `knows` can check it: it has no lists of messages or enums, and its messages are flat.
    """

    def __init__(self, descriptor: Any) -> None:  # noqa: ANN401 - one of two classes
        """Collect the fields of a type, at every depth.

        On the wire a map is a list of entries with a key and a value. protobuf takes an entry with an unknown field for
        an unknown field of the message that has the map.
        """
        self.messages: dict[int, tuple[str, bool, Known]] = {}
        self._wire_types: dict[int, frozenset[int]] = {}
        self._enums: list[tuple[str, bool, frozenset[int]]] = []
        for field in descriptor.fields:
            wire_type = _WIRE_TYPES.get(field.type, VARINT)
            # A list of numbers may be packed into one field, or not.
            self._wire_types[field.number] = frozenset(
                (wire_type, LENGTH_DELIMITED if field.is_repeated else wire_type)
            )
            if field.enum_type is not None:
                values = frozenset(value.number for value in field.enum_type.values)
                self._enums.append((field.name, field.is_repeated, values))
            elif field.message_type is not None:
                self.messages[field.number] = (field.name, field.is_repeated, Known(field.message_type))
        self.numbers = frozenset(self._wire_types)
        self._with_enums = [inner for inner in self.messages.values() if inner[2].has_enums]
        self.has_enums: bool = bool(self._enums or self._with_enums)
        self.is_flat = not (self._enums or self.messages)
        inner = [(name, known.is_flat and not is_list) for name, is_list, known in self.messages.values()]
        self.is_shallow = all(flat for _, flat in inner) and not any(is_list for _, is_list, _ in self._enums)
        self._values = [(name, values) for name, _, values in self._enums]
        self._names = [name for name, _ in inner]

    def knows(self, message: Message) -> bool:
        """Return whether this version knows all fields and enum values of a shallow message.

        This does what `has_unknown_fields` and `find_value` do, but faster, which every Authorize profits from. An
        object is made for each unknown field, so use it for small messages.
        """
        if len(UnknownFieldSet(message)):
            return False
        for name, values in self._values:
            if getattr(message, name) not in values:
                return False
        for name in self._names:
            if message.HasField(name) and len(UnknownFieldSet(getattr(message, name))):
                return False
        return True

    def find_value(self, message: Message) -> Found | None:
        """Return the first enum field with an unknown value in a message; None if there is none."""
        for name, is_list, values in self._enums:
            value = getattr(message, name)
            if not (values.issuperset(value) if is_list else value in values):
                return Found(name, [number for number in (value if is_list else (value,)) if number not in values])
        for name, is_list, known in self._with_enums:
            if is_list:
                for index, element in enumerate(getattr(message, name)):
                    if found := known.find_value(element):
                        return found.inside(f"{name}[{index}]")
            elif message.HasField(name) and (found := known.find_value(getattr(message, name))):
                return found.inside(name)
        return None

    def find_field(
        self, body: bytes, begin: int, end: int, steps: Iterator[object], before: Mapping[int, int] | None = None
    ) -> Found | None:
        """Return the unknown fields of the first message that has any, in the bytes of a message.

        Args:
            body: The bytes.
            begin: Where the message begins.
            end: Where it ends.
            steps: The search takes one for each field. When there are no more, it ends without a result.
            before: By number of the field, how many elements of a list come before these bytes.
        """
        seen = Counter(before or {})
        unknown: list[int] = []
        for (number, wire_type, _, content, stop), _ in zip(fields(body, begin, end), steps, strict=False):
            if wire_type not in self._wire_types.get(number, ()):
                unknown.append(number)
                if wire_type == START_GROUP:
                    break
            elif number in self.messages and not unknown:
                name, is_list, known = self.messages[number]
                if found := known.find_field(body, content, stop, steps):
                    return found.inside(f"{name}[{seen[number]}]" if is_list else name)
                seen[number] += 1
        return Found("", unknown) if unknown else None


def has_unknown_fields(message: Message) -> bool:
    """Return whether a message has unknown fields, at any depth, and remove them."""
    size = message.ByteSize()
    message.DiscardUnknownFields()
    return message.ByteSize() != size
