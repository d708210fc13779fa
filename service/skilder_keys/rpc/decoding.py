"""Parse requests. Bounds are checked first, and an error names the field that is not valid."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.fields import quoted
from skilder_keys.domain.workspace_checks import MAX_ELEMENTS
from skilder_keys.rpc.errors import MalformedMessageError
from skilder_keys.rpc.limits import lists_of
from skilder_keys.rpc.unknown import Found, Known, has_unknown_fields
from skilder_keys.rpc.wire import LENGTH_DELIMITED, START_GROUP, field_at, fields, row_of_fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.rpc.errors import UnknownFieldError
    from skilder_keys.rpc.limits import Bounded, Lists

Request = TypeVar("Request", bound=Message)

SLICE_BYTES = 2**17
"""The most bytes to parse at once. Nothing else runs meanwhile, which takes 5 to 10 ms if all elements are empty."""
LONG_BYTES = 2**13
"""The most bytes of a request with long lists that are parsed and checked on the event loop."""

_SMALL_BYTES = 2**10
"""The most bytes of a message of which an object may be made for each unknown field."""
_OTHER_FIELDS = 1000
"""How many fields a message longer than a slice may have, besides the elements of its lists."""
_NO_MESSAGE = "The request has no message."
_TWICE = "The request has a field twice that is not a list."
_HALF = 0xED
"""The first of the three bytes that encode half of a surrogate pair, which is not valid UTF-8."""
_MAX_SEARCHED_FIELDS = 5000
"""How many fields are searched for the invalid or unknown ones."""


class Decoder(Generic[Request]):
    """Parses the requests of a method."""

    def __init__(self, request_type: type[Request]) -> None:
        """Make a decoder for a class of requests.

        Raises:
            KeyError: `limits.LISTS` has no bound for one of its lists.
        """
        self._request_type = request_type
        self._parse = request_type.FromString
        self._lists = lists_of(request_type.DESCRIPTOR)
        self._known = Known(request_type.DESCRIPTOR)
        self._is_shallow = self._lists is None and self._known.is_shallow
        # Requests with long lists are searched in a thread, the others on the event loop.
        self._steps = SLICE_BYTES if self._lists is not None and self._lists.is_large else _MAX_SEARCHED_FIELDS

    def is_long(self, body: object) -> bool:
        """Return whether `decode` may take so long that it has to run in a thread."""
        return self._lists is not None and self._lists.is_large and isinstance(body, bytes) and len(body) > LONG_BYTES

    def decode(self, body: object) -> Request:
        """Parse a request.

        Args:
            body: The bytes of a message. Any other object means that the client sent no message.

        Raises:
            InvalidRequestError: A list is too long, or a string is not UTF-8. The error names the field.
            MalformedMessageError: There is no message, or its bytes are not valid protobuf.
            UnknownFieldError: This version does not know a field of the request, or the value of an enum.
        """
        if not isinstance(body, bytes):
            raise MalformedMessageError(_NO_MESSAGE)
        if self._is_shallow and len(body) < _SMALL_BYTES:
            request = self._parsed(body)
            if self._known.knows(request):
                return request
        if self._lists is not None and len(body) > SLICE_BYTES:
            request = self._request_type()
            _Merge(body, self._steps).message(request, 0, len(body), _Place(self._lists, self._known, ""))
        else:
            request = self._whole(body)
        if self._known.has_enums and (found := self._known.find_value(request)):
            raise found.error()
        return request

    def _whole(self, body: bytes) -> Request:
        """Parse a request at once."""
        request = self._parsed(body)
        if self._lists is not None:
            self._lists.check(request)
        if has_unknown_fields(request):
            raise _unknown(body, 0, len(body), self._known, "", self._steps)
        return request

    def _parsed(self, body: bytes) -> Request:
        try:
            return self._parse(body)
        except DecodeError:
            raise _fault(self._request_type.DESCRIPTOR, body) from None


class ForeignDecoder(Decoder[Request]):
    """Parses the requests of a method of a contract that is not ours, and ignores what it does not know in them.

    Others add to their contract as they like. The most bytes of a request are the only bound.
    """

    def __init__(self, request_type: type[Request]) -> None:
        """Make a decoder for a class of requests."""
        self._request_type = request_type
        self._parse = request_type.FromString

    def is_long(self, body: object) -> bool:
        """Return whether `decode` may take so long that it has to run in a thread: never."""
        del body
        return False

    def decode(self, body: object) -> Request:
        """Parse a request, as `Decoder.decode` does."""
        if not isinstance(body, bytes):
            raise MalformedMessageError(_NO_MESSAGE)
        return self._parsed(body)


class _Place(NamedTuple):
    """A message in a request: its type, and its path with a dot at the end; empty for the request itself."""

    lists: Lists
    known: Known
    path: str


class _Merge:
    """Parses a long message in slices. It stops at a list that is too long, before it parses it."""

    def __init__(self, body: bytes, steps: int) -> None:
        self._body = body
        self._steps = steps
        self._elements = 0

    def message(self, message: Message, begin: int, end: int, place: _Place) -> None:
        """Parse the bytes from `begin` to `end` into a message, which must be empty."""
        lists, known, path = place
        counts = dict.fromkeys(lists.by_number, 0)
        parsed = counts.copy()
        at = done = begin
        index, most = 0, lists.total + _OTHER_FIELDS
        while at < end:
            number, wire_type, start, content, at = field_at(self._body, at, end)
            if number not in known.numbers or wire_type == START_GROUP:
                raise _unknown(self._body, start, end, known, path, self._steps)
            if index >= most:
                raise MalformedMessageError("The request has more fields than it can have.")
            index += 1
            if at - done > SLICE_BYTES:
                self._slice(message, done, start, place, parsed)
                parsed, done = counts.copy(), start
            bounded = lists.by_number.get(number)
            if bounded is None or wire_type != LENGTH_DELIMITED:
                continue
            count = counts[number] = counts[number] + 1
            if count > (bounded.maximum or 1):
                raise bounded.too_many(path) if bounded.maximum else MalformedMessageError(_TWICE)
            if at - start > SLICE_BYTES and bounded.inside is not None:
                child, child_path = _child(message, bounded, path, count - 1)
                self.message(child, content, at, _Place(bounded.inside, known.messages[number][2], child_path))
                parsed, done = counts.copy(), at
            elif bounded.maximum is not None:
                # The next elements in the same slice need nothing but to be counted.
                most_more = min(bounded.maximum - count, most - index)
                ends = row_of_fields(self._body, start, min(end, done + SLICE_BYTES), 1 + most_more)
                more = max(len(ends) - 2, 0)
                index, at = index + more, max(at, ends[-1])
                counts[number] += more
        self._slice(message, done, end, place, parsed)

    def _slice(self, message: Message, begin: int, end: int, place: _Place, parsed: Mapping[int, int]) -> None:
        part = self._body[begin:end]
        try:
            message.MergeFromString(part)
        except DecodeError:
            raise _fault(message.DESCRIPTOR, part, place.path, parsed) from None
        self._elements += place.lists.check(message, place.path, parsed)
        if self._elements > MAX_ELEMENTS:
            name = place.path.partition(".")[0] or "request"
            words = f"has lists of more than {MAX_ELEMENTS} elements in all"
            raise InvalidRequestError(FieldViolation(name, words))
        # The message grows with each slice, so look at the slice alone.
        if has_unknown_fields(type(message).FromString(part)):
            raise _unknown(self._body, begin, end, place.known, place.path, self._steps, parsed)


def _unknown(
    body: bytes, begin: int, end: int, known: Known, path: str, steps: int, before: Mapping[int, int] | None = None
) -> UnknownFieldError:
    """Return the error for the first unknown fields in the bytes of a message. `path` is as in `_Place`."""
    found = known.find_field(body, begin, end, iter(range(steps)), before) or Found("", [])
    return found.inside(path.removesuffix(".")).error()


def _child(message: Message, field: Bounded, path: str, index: int) -> tuple[Message, str]:
    """Return the message of a field, or a new element of its list, and its path."""
    if field.maximum is not None:
        return cast("Message", getattr(message, field.name).add()), f"{path}{field.name}[{index}]."
    child: Message = getattr(message, field.name)
    child.SetInParent()
    return child, f"{path}{field.name}."


def _fault(
    descriptor: Any,  # noqa: ANN401 - one of two classes
    body: bytes,
    path: str = "",
    before: Mapping[int, int] | None = None,
) -> InvalidRequestError | MalformedMessageError:
    """Return the error for bytes that protobuf cannot parse. `path` and `before` are as in `Lists.check`."""
    try:
        violation = _bad_text(descriptor, body, 0, len(body), before or {})
    except MalformedMessageError as error:
        return error
    if violation is None:
        return MalformedMessageError()
    return InvalidRequestError(FieldViolation(path + violation.field, violation.description))


def _bad_text(
    descriptor: Any,  # noqa: ANN401 - one of two classes
    body: bytes,
    begin: int,
    end: int,
    before: Mapping[int, int],
) -> FieldViolation | None:
    """Return the first string that is not UTF-8, with its path; None if the first 5,000 fields have none."""
    seen = Counter(before)
    for number, wire_type, _, content, stop in islice(fields(body, begin, end), _MAX_SEARCHED_FIELDS):
        field = descriptor.fields_by_number.get(number)
        if field is None or wire_type != LENGTH_DELIMITED:
            continue
        path = f"{field.name}[{seen[field.number]}]" if field.is_repeated else field.name
        seen[field.number] += 1
        if field.type == FieldDescriptor.TYPE_STRING:
            fault = _utf8_fault(body[content:stop])
            if fault is not None:
                return FieldViolation(path, fault)
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            inner = _bad_text(field.message_type, body, content, stop, {})
            if inner is not None:
                entry = _entry(body, content, stop) if field.is_repeated else ""
                return FieldViolation(f"{path}.{inner.field}", entry + inner.description)
    return None


def _entry(body: bytes, begin: int, end: int) -> str:
    """Return "of ID " for an element of a list whose first field is its id, to begin a description with."""
    number, wire_type, _, content, stop = next(fields(body, begin, end), (0, 0, 0, 0, 0))
    if number != 1 or wire_type != LENGTH_DELIMITED:
        return ""
    text = body[content:stop]
    return "" if _utf8_fault(text) else f"of {quoted(text.decode())} "


def _utf8_fault(data: bytes) -> str | None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        byte = f"0x{data[error.start]:02X}"
        if data[error.start] == _HALF:
            with suppress(UnicodeDecodeError):
                half = data[error.start : error.start + 3].decode("utf-8", "surrogatepass")
                byte = f"the first of U+{ord(half):04X}, half of a surrogate pair"
        return f"is not valid UTF-8: byte {error.start + 1} is {byte}"
    return None
