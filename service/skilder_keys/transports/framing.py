"""gRPC's message frame: before each message, one byte says whether it is compressed, and four bytes its length."""

import struct
import zlib

from skilder_keys.rpc.errors import MalformedMessageError, UnknownEncodingError, too_long

ENCODINGS = b"identity,gzip"
"""The accepted compressions of a message, as the value of `grpc-accept-encoding`."""

_HEAD = struct.Struct(">BI")
_HEAD_BYTES = _HEAD.size
_GZIP = 31  # zlib's window size for the gzip format
_NOT_GZIP = "The message is not valid gzip, but grpc-encoding is gzip."


def framed(message: bytes) -> bytes:
    """Return a message in its frame, uncompressed."""
    return _HEAD.pack(0, len(message)) + message


def plain(body: bytes, max_bytes: int) -> bytes | None:
    """Return the message of a body if it is exactly one uncompressed message within the limit, else None."""
    length = len(body) - _HEAD_BYTES
    if not 0 <= length <= max_bytes or _HEAD.unpack_from(body) != (0, length):
        return None
    return body[_HEAD_BYTES:]


def unframed(body: bytes, encoding: bytes | None, max_bytes: int) -> bytes:
    """Return the message of a body, decompressed.

    Args:
        body: The body, at least one byte.
        encoding: The value of `grpc-encoding`, or None without one.
        max_bytes: The maximum size of the message, compressed and decompressed.

    Raises:
        MalformedMessageError: The body is not exactly one valid message.
        MessageTooLongError: The message is too long.
        UnknownEncodingError: The compression is not supported.
    """
    message = plain(body, max_bytes)
    if message is not None:
        return message
    length = _length(body, max_bytes)
    if body[0] > 1:
        raise MalformedMessageError("The message's first byte is neither 0 nor 1.")
    if len(body) < _HEAD_BYTES + length:
        raise MalformedMessageError("The message is shorter than the length in its frame.")
    if len(body) > _HEAD_BYTES + length:
        raise MalformedMessageError("The call has more than one message.")
    return _decompressed(body[_HEAD_BYTES:], encoding, max_bytes)


def is_over(body: bytes | bytearray, max_bytes: int) -> bool:
    """Return whether a body has more bytes than its message.

    Raises:
        MessageTooLongError: The length in the frame is over the limit.
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
        raise MalformedMessageError(_NOT_GZIP) from None
    if len(found) > max_bytes:
        raise too_long(len(found), max_bytes)
    if not stream.eof or stream.unused_data:
        raise MalformedMessageError(_NOT_GZIP)
    return found
