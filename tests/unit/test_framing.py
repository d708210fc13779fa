"""The frame around messages."""

import gzip
import re

import pytest

from skilder_keys.domain.errors import KeysError
from skilder_keys.rpc.errors import MalformedMessageError, MessageTooLongError, UnknownEncodingError
from skilder_keys.transports.framing import framed, is_over, plain, unframed
from tests.support.http2 import framed as body

_MAX = 300
_ZIPPED = gzip.compress(b"message")


@pytest.mark.parametrize("message", [b"", b"a", b"\0" * 5, b"x" * _MAX])
def test_framing_survives_the_round_trip(message: bytes) -> None:
    """As gRPC defines it: one flag byte, four bytes of length, the message."""
    assert framed(message) == body(message)
    assert plain(framed(message), _MAX) == unframed(framed(message), None, _MAX) == message


SHORT, MORE = "The message is shorter than the length in its frame.", "The call has more than one message."
LONG = f"Received message larger than max ({_MAX + 1} vs. {_MAX})"
UNKNOWN, LIES = "grpc-encoding must be identity or gzip.", "The message is not valid gzip, but grpc-encoding is gzip."
BAD: dict[str, tuple[bytes, bytes | None, type[KeysError], str]] = {
    "a byte": (b"\0", None, MalformedMessageError, SHORT),
    "four bytes": (b"\0\0\0\0", None, MalformedMessageError, SHORT),
    "too short": (body(b"abc", length=4), None, MalformedMessageError, SHORT),
    "too long for itself": (body(b"abc", length=2), None, MalformedMessageError, MORE),
    "two messages": (body(b"abc") * 2, None, MalformedMessageError, MORE),
    "another first byte": (
        body(b"abc", flag=2),
        None,
        MalformedMessageError,
        "The message's first byte is neither 0 nor 1.",
    ),
    "longer than may be": (body(b"x" * (_MAX + 1)), None, MessageTooLongError, LONG),
    "says so of itself": (body(b"", length=_MAX + 1), None, MessageTooLongError, LONG),
    "longer than may be, once decompressed": (
        body(gzip.compress(b"x" * (_MAX + 1)), flag=1),
        b"gzip",
        MessageTooLongError,
        LONG,
    ),
    "no encoding": (body(_ZIPPED, flag=1), None, UnknownEncodingError, UNKNOWN),
    "an unknown one": (body(_ZIPPED, flag=1), b"br", UnknownEncodingError, UNKNOWN),
    "not compressed": (body(b"message", flag=1), b"gzip", MalformedMessageError, LIES),
    "cut off": (body(_ZIPPED[:-1], flag=1), b"gzip", MalformedMessageError, LIES),
    "with more behind": (body(_ZIPPED + b"x", flag=1), b"gzip", MalformedMessageError, LIES),
}


@pytest.mark.parametrize("bad", BAD.values(), ids=list(BAD))
def test_a_bad_frame_is_never_taken_for_a_message(bad: tuple[bytes, bytes | None, type[KeysError], str]) -> None:
    """The quick check finds no message, and the full check says what is wrong."""
    data, encoding, error, words = bad
    assert plain(data, _MAX) is None
    with pytest.raises(error, match=re.escape(words)):
        unframed(data, encoding, _MAX)


def test_a_compressed_message_is_decompressed() -> None:
    """By the full check only."""
    assert plain(body(_ZIPPED, flag=1), _MAX) is None
    assert unframed(body(_ZIPPED, flag=1), b"gzip", _MAX) == b"message"
    assert unframed(body(b"message"), b"gzip", _MAX) == b"message", "a call may have uncompressed messages too"


def test_bytes_after_the_message_are_refused() -> None:
    """And a message that will be too long is refused as soon as its length is known."""
    data = body(b"abc")
    assert [is_over(data[:length], _MAX) for length in range(len(data) + 1)] == [False] * (len(data) + 1)
    assert is_over(data + b"x", _MAX)
    with pytest.raises(MessageTooLongError):
        is_over(body(b"", length=_MAX + 1), _MAX)
