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
_MORE = 0x80
"""The top bit of a byte of a varint: more bytes follow."""


Field = tuple[int, int, int, int, int]
"""A field in a message: its number, its wire type, and the indexes of its start, of its content, and of its end."""


def fields(body: bytes, begin: int, end: int) -> Iterator[Field]:
    """Yield the fields between the indexes `begin` and `end`. A group, which no message of ours has, must be the last.

    Raises:
        MalformedMessageError: The bytes are not a field, or a group was not the last field that was asked for.
    """
    at = begin
    while at < end:
        field = field_at(body, at, end)
        yield field
        if field[1] == START_GROUP:
            raise MalformedMessageError
        at = field[4]


def field_at(body: bytes, start: int, end: int) -> Field:
    """Return the field at an index. A group ends where its content begins, as nobody looks for its real end.

    Raises:
        MalformedMessageError: The bytes are not a field, or it does not end before `end`.
    """
    at = start + 1
    tag = body[start]
    if tag >= _MORE:
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
    elif wire_type == START_GROUP:
        content = at
    else:
        raise MalformedMessageError
    if at > end or tag < 8:  # noqa: PLR2004 - there is no field 0
        raise MalformedMessageError
    return tag >> 3, wire_type, start, content, at


def row_of_fields(body: bytes, begin: int, end: int, most: int) -> list[int]:
    """Return where the fields in a row begin that are like the one at `begin`, and where the last of them ends.

    They are alike if they are length-delimited and have the same number. The row ends before a field that is longer
    than 16 KiB or has a tag of several bytes, and before one that does not end before `end`.

    Args:
        body: The bytes.
        begin: Where the row begins.
        end: Where it ends at the latest.
        most: The most fields.
    """
    # A request may have 36,000 fields in a row, so this is written for speed.
    tag = body[begin]
    ends = [begin]
    if tag >= _MORE or tag & 7 != LENGTH_DELIMITED:
        return ends
    at, last = begin, end - 2
    for _ in range(most):
        if at > last or body[at] != tag:
            break
        length = body[at + 1]
        if length < _MORE:
            at += 2 + length
        elif at < last and (high := body[at + 2]) < _MORE:
            at += 3 + length - _MORE + (high << 7)
        else:
            break
        if at > end:
            break
        ends.append(at)
    return ends


def _varint(body: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the number at an index, and the index after it."""
    if at < end and body[at] < _MORE:
        return body[at], at + 1
    value = 0
    for count in range(_MAX_VARINT_BYTES):
        if at + count >= end:
            break
        byte = body[at + count]
        value |= (byte & 0x7F) << (7 * count)
        if byte < _MORE:
            return value, at + count + 1
    raise MalformedMessageError
