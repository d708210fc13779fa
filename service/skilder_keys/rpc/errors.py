"""What can go wrong with a call on its way to a method: errors of transport, not of the business."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.errors import KeysError

if TYPE_CHECKING:
    import grpc


class MalformedMessageError(KeysError):
    """The request is not a message of this method."""

    reason = "MALFORMED_MESSAGE"


class MessageTooLongError(KeysError):
    """The request is longer than this service takes."""

    reason = "MESSAGE_TOO_LONG"


class UnknownEncodingError(KeysError):
    """The request is compressed in a way that this service does not know."""

    reason = "UNKNOWN_ENCODING"


class DeadlineExceededError(KeysError):
    """The call's time ran out before it was done."""

    reason = "DEADLINE_EXCEEDED"


class StatusError(Exception):
    """The call ends with a status of gRPC's own, without details: the method is unknown, or the server is full.

    Attributes:
        code: The status code.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


def too_long(length: int, max_bytes: int) -> MessageTooLongError:
    """Return the error for a message of more bytes than it may have, in grpcio's words."""
    return MessageTooLongError(f"Received message larger than max ({length} vs. {max_bytes})", limit=str(max_bytes))
