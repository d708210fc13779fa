"""Requests from bytes, and the field to blame where they are none."""

from __future__ import annotations

from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from service.domain.errors import FieldViolation, InvalidRequestError, MalformedMessageError

Request = TypeVar("Request", bound=Message)

_LENGTH_DELIMITED = 2


def decode(request_type: type[Request], body: object) -> Request:
    """Parses a request: the bytes of a message or, where a client sent none, gRPC's mark of the end.

    Raises:
        InvalidRequestError: Names the string field that is no UTF-8.
        MalformedMessageError: These are not the bytes of any message.
    """
    if not isinstance(body, bytes):
        raise MalformedMessageError("The request has no message.")
    try:
        return request_type.FromString(body)
    except DecodeError:
        field = _field_with_bad_utf8(request_type.DESCRIPTOR, body)
        if field is not None:
            raise InvalidRequestError(FieldViolation(field, "is not valid UTF-8")) from None
        raise MalformedMessageError from None


def _field_with_bad_utf8(descriptor: Any, body: bytes) -> str | None:  # noqa: ANN401 - one of two classes
    """Finds the path of a bad string by reading the message as one that has no fields and keeps them all as bytes."""
    try:
        unknown = Empty.FromString(body)
    except DecodeError:
        return None
    seen: dict[int, int] = {}
    for found in UnknownFieldSet(unknown):  # type: ignore[attr-defined]  # its stub forgets __iter__
        field = descriptor.fields_by_number.get(found.field_number)
        if field is None or found.wire_type != _LENGTH_DELIMITED:
            continue
        index = seen[field.number] = seen.get(field.number, -1) + 1
        path = f"{field.name}[{index}]" if field.is_repeated else field.name
        if field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(found.data):
            return path
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            inner = _field_with_bad_utf8(field.message_type, found.data)
            if inner is not None:
                return f"{path}.{inner}"
    return None


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
