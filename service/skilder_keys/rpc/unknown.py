"""What a request has that this version does not know: fields and enum values, at every depth.

Fields of a request aim or narrow it. If a service ignored one that it does not know, it would do more than was asked:
return every tool instead of those of one server, or revoke keys without the filter. So such a request is refused.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf.unknown_fields import UnknownFieldSet

from skilder_keys.rpc.errors import UnknownFieldError

if TYPE_CHECKING:
    from google.protobuf.message import Message

_MAX_NUMBERS = 10
"""The most numbers in an error."""
_MAX_SEARCHED = 1000
"""How many unknown fields of a message are looked at."""


class Found(NamedTuple):
    """Something unknown.

    Attributes:
        path: The path of the message, or of the enum field; empty for the request itself.
        numbers: The unknown field numbers of the message, or the unknown values of the enum field.
    """

    path: str
    numbers: list[int]

    @classmethod
    def of(cls, unknown: Any) -> Found:  # noqa: ANN401 - typed without its iterator
        """Return the unknown fields of a message."""
        return cls("", [field.field_number for field in islice(unknown, _MAX_SEARCHED)])

    def inside(self, name: str) -> Found:
        """Return the same as seen from the message that has this one in a field, or in an element of a list."""
        return Found(f"{name}.{self.path}" if self.path else name, self.numbers)

    def error(self) -> UnknownFieldError:
        """Return the error that reports it."""
        numbers = ",".join(map(str, islice(dict.fromkeys(self.numbers), _MAX_NUMBERS)))
        where = self.path or "the request"
        return UnknownFieldError(
            f"This version of the service does not know the fields or values {numbers} in {where}. "
            "It may be older than the client: upgrade the service before its clients.",
            path=self.path,
            numbers=numbers,
        )


class Known:
    """What this version knows of a type of message.

    Attributes:
        is_flat: Whether it has neither messages nor enums.
        has_enums: Whether it has an enum at any depth.
    """

    def __init__(self, descriptor: Any) -> None:  # noqa: ANN401 - one of two classes
        """Collect the enums and messages of a type, at every depth.

        Raises:
            NotImplementedError: It has a map, whose entries cannot be searched.
        """
        self._enums: list[tuple[str, frozenset[int]]] = []
        self._enum_lists: list[tuple[str, frozenset[int]]] = []
        self._messages: list[tuple[str, Known]] = []
        self._message_lists: list[tuple[str, Known]] = []
        for field in descriptor.fields:
            if field.enum_type is not None:
                values = frozenset(value.number for value in field.enum_type.values)
                (self._enum_lists if field.is_repeated else self._enums).append((field.name, values))
            elif field.message_type is not None:
                if field.message_type.GetOptions().map_entry:
                    raise NotImplementedError(f"{field.full_name} is a map")
                known = Known(field.message_type)
                (self._message_lists if field.is_repeated else self._messages).append((field.name, known))
        inner = [known for _, known in (*self._messages, *self._message_lists)]
        self.has_enums: bool = bool(self._enums or self._enum_lists) or any(known.has_enums for known in inner)
        self.is_flat = not (self.has_enums or inner)

    def find(self, message: Message) -> Found | None:
        """Return the first unknown thing in a message; None if all is known."""
        unknown: Any = UnknownFieldSet(message)
        if len(unknown):
            return Found.of(unknown)
        if self.has_enums and (found := self._find_value(message)):
            return found
        for name, known in self._messages:
            if message.HasField(name) and (found := known.find(getattr(message, name))):
                return found.inside(name)
        for name, known in self._message_lists:
            for index, element in enumerate(getattr(message, name)):
                if found := known.find(element):
                    return found.inside(f"{name}[{index}]")
        return None

    def _find_value(self, message: Message) -> Found | None:
        for name, values in self._enums:
            number = getattr(message, name)
            if number not in values:
                return Found(name, [number])
        for name, values in self._enum_lists:
            numbers = getattr(message, name)
            if not values.issuperset(numbers):
                return Found(name, [number for number in numbers if number not in values])
        return None
