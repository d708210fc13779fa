"""gRPC's frame: five bytes before each message tell whether it is compressed, and its length."""

import struct
import zlib

from skilder_keys.rpc.errors import MalformedMessageError, UnknownEncodingError, too_long

ENCODINGS = b"identity,gzip"
"""In what ways a message may be compressed, as `grpc-accept-encoding` tells it."""

_HEAD = struct.Struct(">BI")
_HEAD_BYTES = _HEAD.size
_GZIP = 31  # zlib's window for the gzip format
_NOT_AS_IT_SAYS = "The message is not compressed as it says."


def framed(message: bytes) -> bytes:
    """Answers a message in its frame."""
    return _HEAD.pack(0, len(message)) + message


def plain(body: bytes, max_bytes: int) -> bytes | None:
    """Answers the message of a body, where it is one, and not compressed; None for all else."""
    length = len(body) - _HEAD_BYTES
    if not 0 <= length <= max_bytes or _HEAD.unpack_from(body) != (0, length):
        return None
    return body[_HEAD_BYTES:]


def unframed(body: bytes, encoding: bytes | None, max_bytes: int) -> bytes:
    """Answers the message of a body.

    Args:
        body: At least one byte.
        encoding: What `grpc-encoding` says, or None without.
        max_bytes: The longest message that may be, as it is and once it is decompressed.

    Raises:
        MalformedMessageError: There are more messages than one, or what comes is none.
        MessageTooLongError: It is longer than may be.
        UnknownEncodingError: It is compressed in a way that is not known.
    """
    message = plain(body, max_bytes)
    if message is not None:
        return message
    length = _length(body, max_bytes)
    if body[0] > 1:
        raise MalformedMessageError("The message's first byte is neither 0 nor 1.")
    if len(body) < _HEAD_BYTES + length:
        raise MalformedMessageError("The message is shorter than it says.")
    if len(body) > _HEAD_BYTES + length:
        raise MalformedMessageError("The call has more than one message.")
    return _decompressed(body[_HEAD_BYTES:], encoding, max_bytes)


def is_over(body: bytes | bytearray, max_bytes: int) -> bool:
    """Tells whether a body goes on after its message.

    Raises:
        MessageTooLongError: The message will be longer than may be.
    """
    return len(body) > _HEAD_BYTES + _length(body, max_bytes)


def _length(body: bytes | bytearray, max_bytes: int) -> int:
    length = int.from_bytes(body[1:_HEAD_BYTES], "big")
    if length > max_bytes:
        raise too_long(length, max_bytes)
    return length


def _decompressed(message: bytes, encoding: bytes | None, max_bytes: int) -> bytes:
    if encoding != b"gzip":
        raise UnknownEncodingError("grpc-encoding must be identity or gzip.")
    stream = zlib.decompressobj(_GZIP)
    try:
        found = stream.decompress(message, max_bytes + 1)
    except zlib.error:
        raise MalformedMessageError(_NOT_AS_IT_SAYS) from None
    if len(found) > max_bytes:
        raise too_long(len(found), max_bytes)
    if not stream.eof or stream.unused_data:
        raise MalformedMessageError(_NOT_AS_IT_SAYS)
    return found
