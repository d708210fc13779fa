"""Requests from bytes: bounded before anything looks into them, and with the field to blame where they are none."""

from __future__ import annotations

from collections import Counter
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.fields import quoted
from skilder_keys.rpc.errors import MalformedMessageError
from skilder_keys.rpc.limits import MAX_ELEMENTS, lists_of
from skilder_keys.rpc.wire import LENGTH_DELIMITED, fields

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.rpc.limits import Bounded, Lists

Request = TypeVar("Request", bound=Message)

SLICE_BYTES = 2**17
"""The most bytes that protobuf parses at once: nothing else runs meanwhile, and empty elements take 5 to 10 ms."""

_OTHER_FIELDS = 1000
"""How many fields a message of more than a slice may have besides the elements of its lists."""
_TWICE = "The request has a field twice that is no list."
_HALF = 0xED
"""Where the three bytes of a half of a surrogate pair begin; only a program that is at fault writes one in UTF-8."""
_FIELDS_TO_BLAME = 5000
"""How many fields are searched for the one to blame."""


class Decoder(Generic[Request]):
    """Parses the requests of a method."""

    def __init__(self, request_type: type[Request]) -> None:
        """Take the class of the requests.

        Raises:
            KeyError: The contract has no bound for one of its lists.
        """
        self._request_type = request_type
        self._parse = request_type.FromString
        self._lists = lists_of(request_type.DESCRIPTOR)

    def is_long(self, body: object) -> bool:
        """Tell whether `decode` may take so long that it belongs in a thread."""
        return self._lists is not None and self._lists.is_large and isinstance(body, bytes) and len(body) > SLICE_BYTES

    def decode(self, body: object) -> Request:
        """Parse a request: the bytes of a message or, where a client sent none, gRPC's mark of the end.

        Raises:
            InvalidRequestError: Names the list that is too long, or the string field that is no UTF-8.
            MalformedMessageError: These are not the bytes of any message.
        """
        if not isinstance(body, bytes):
            raise MalformedMessageError("The request has no message.")
        if self._lists is not None and len(body) > SLICE_BYTES:
            request = self._request_type()
            _Merge(body).message(request, 0, len(body), self._lists, "")
            return request
        try:
            request = self._parse(body)
        except DecodeError:
            raise _fault(self._request_type.DESCRIPTOR, body) from None
        if self._lists is not None:
            self._lists.check(request)
        return request


class _Merge:
    """Parses a long message slice by slice, and stops where a list is too long before it has parsed it."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._elements = 0

    def message(self, message: Message, begin: int, end: int, lists: Lists, path: str) -> None:
        """Parse what stands between two places into a message that is empty so far."""
        counts: Counter[int] = Counter()
        parsed: Counter[int] = Counter()
        done = begin
        most = lists.total + _OTHER_FIELDS
        for index, (number, wire_type, start, content, stop) in enumerate(fields(self._body, begin, end)):
            if index >= most:
                raise MalformedMessageError("The request has more fields than it can have.")
            if stop - done > SLICE_BYTES:
                self._slice(message, done, start, lists, path, parsed)
                parsed, done = counts.copy(), start
            known = lists.by_number.get(number)
            if known is None or wire_type != LENGTH_DELIMITED:
                continue
            counts[number] += 1
            if counts[number] > (known.maximum or 1):
                raise known.too_many(path) if known.maximum else MalformedMessageError(_TWICE)
            if known.inside is not None and stop - start > SLICE_BYTES:
                child, child_path = _child(message, known, path, counts[number] - 1)
                self.message(child, content, stop, known.inside, child_path)
                parsed, done = counts.copy(), stop
        self._slice(message, done, end, lists, path, parsed)

    def _slice(
        self, message: Message, begin: int, end: int, lists: Lists, path: str, parsed: Mapping[int, int]
    ) -> None:
        part = self._body[begin:end]
        try:
            message.MergeFromString(part)
        except DecodeError:
            raise _fault(message.DESCRIPTOR, part, path, parsed) from None
        self._elements += lists.check(message, path, parsed)
        if self._elements > MAX_ELEMENTS:
            name = path.partition(".")[0] or "request"
            words = f"has lists of more than {MAX_ELEMENTS} elements in all"
            raise InvalidRequestError(FieldViolation(name, words))


def _child(message: Message, field: Bounded, path: str, index: int) -> tuple[Message, str]:
    """Return the message of a field, or a new one in its list, and where it stands."""
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
    """Return the error for bytes that protobuf does not parse; the path and the counts are as in `Lists.check`."""
    try:
        found = _bad_text(descriptor, body, 0, len(body), before or {})
    except MalformedMessageError as error:
        return error
    if found is None:
        return MalformedMessageError()
    return InvalidRequestError(FieldViolation(path + found.field, found.description))


def _bad_text(
    descriptor: Any,  # noqa: ANN401 - one of two classes
    body: bytes,
    begin: int,
    end: int,
    before: Mapping[int, int],
) -> FieldViolation | None:
    """Return the path of a string that is no UTF-8, among the first fields, and what is wrong with it."""
    seen = Counter(before)
    for number, wire_type, _, content, stop in islice(fields(body, begin, end), _FIELDS_TO_BLAME):
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
    """Return the id of an element of a list, which is its first field, as the beginning of what is said about it."""
    number, wire_type, _, content, stop = next(fields(body, begin, end), (0, 0, 0, 0, 0))
    if number != 1 or wire_type != LENGTH_DELIMITED:
        return ""
    text = body[content:stop]
    return "" if _utf8_fault(text) else f"of {quoted(text.decode())} "


def _utf8_fault(data: bytes) -> str | None:
    try:
        data.decode()
    except UnicodeDecodeError as error:
        told = f"0x{data[error.start]:02X}"
        if data[error.start] == _HALF:
            with suppress(UnicodeDecodeError):
                half = data[error.start : error.start + 3].decode("utf-8", "surrogatepass")
                told = f"the first of U+{ord(half):04X}, half of a surrogate pair"
        return f"is not valid UTF-8: byte {error.start + 1} is {told}"
    return None
