"""Fields of a serialised message: a row of fields has the borders that the fields have."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from skilder_keys.rpc.errors import MalformedMessageError
from skilder_keys.rpc.wire import LENGTH_DELIMITED, VARINT, Field, fields, row_of_fields

_MAX_NUMBER = 15
"""The largest number of a field whose tag has one byte."""
_MAX_LENGTH = 2**14 - 1
"""The largest length in two bytes."""

_lengths = st.sampled_from([0, 1, 2, 127, 128, 129, _MAX_LENGTH, _MAX_LENGTH + 1])
_fields = st.tuples(st.sampled_from([1, 1, 1, 1, 7, 16]), st.sampled_from([LENGTH_DELIMITED] * 9 + [VARINT]), _lengths)


def _varint(number: int) -> bytes:
    return bytes((number,)) if number < 0x80 else bytes((number & 0x7F | 0x80,)) + _varint(number >> 7)


def _field(number: int, wire_type: int, size: int) -> bytes:
    return _varint(number << 3 | wire_type) + _varint(size) + (b"\x0a" * size if wire_type == LENGTH_DELIMITED else b"")


@given(st.lists(_fields, min_size=1, max_size=20), st.integers(0, 20), st.integers(0, 5))
def test_a_row_has_the_borders_of_its_fields(contents: list[tuple[int, int, int]], most: int, missing: int) -> None:
    """It ends before the first field that is another one, is too long, or is not all there."""
    body = b"".join(_field(*each) for each in contents)
    end = max(len(body) - missing, 1)
    found: list[Field] = []
    with suppress(MalformedMessageError):
        for each in fields(body, 0, end):
            found.append(each)  # noqa: PERF402 - those before the error count
    expected = [0]
    for number, wire_type, _, content, stop in found[:most]:
        is_like_the_first = (number, wire_type) == (contents[0][0], LENGTH_DELIMITED)
        if not is_like_the_first or number > _MAX_NUMBER or stop - content > _MAX_LENGTH:
            break
        expected.append(stop)
    assert row_of_fields(body, 0, end, most) == expected
