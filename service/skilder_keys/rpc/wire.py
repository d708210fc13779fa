"""The parts of protobuf's wire format (https://protobuf.dev/programming-guides/encoding) that slicing needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.rpc.errors import MalformedMessageError

if TYPE_CHECKING:
    from collections.abc import Iterator

VARINT = 0
FIXED_64 = 1
LENGTH_DELIMITED = 2
START_GROUP = 3
FIXED_32 = 5
_FIXED = {FIXED_64: 8, FIXED_32: 4}
_MAX_VARINT_BYTES = 10


Field = tuple[int, int, int, int, int]
"""A field in a message: its number, its wire type, and the indexes of its start, of its content, and of its end."""


def fields(body: bytes, begin: int, end: int) -> Iterator[Field]:
    """Yield the fields between the indexes `begin` and `end`. A group, which no message of ours has, must be the last.

    Raises:
        MalformedMessageError: The bytes are not a field, or a group was not the last field that was asked for.
    """
    at = begin
    while at < end:
        start = at
        tag = body[at]
        at += 1
        if tag >= 0x80:  # noqa: PLR2004 - the top bit: more bytes follow
            tag, at = _varint(body, start, end)
        wire_type = tag & 7
        if wire_type == LENGTH_DELIMITED:
            length, content = _varint(body, at, end)
            at = content + length
        elif wire_type == VARINT:
            content = at
            _, at = _varint(body, at, end)
        elif wire_type in _FIXED:
            content = at
            at += _FIXED[wire_type]
        elif wire_type == START_GROUP and tag >= 8:  # noqa: PLR2004 - there is no field 0
            yield tag >> 3, wire_type, start, at, at
            raise MalformedMessageError
        else:
            raise MalformedMessageError
        if at > end or tag < 8:  # noqa: PLR2004 - there is no field 0
            raise MalformedMessageError
        yield tag >> 3, wire_type, start, content, at


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the number at an index, and the index after it."""
    if at < end and body[at] < 0x80:  # noqa: PLR2004 - one byte, as most are
        return body[at], at + 1
    value = 0
    for count in range(_MAX_VARINT_BYTES):
        if at + count >= end:
            break
        byte = body[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:  # noqa: PLR2004 - the top bit: more bytes follow
            return value, at + count + 1
    raise MalformedMessageError
