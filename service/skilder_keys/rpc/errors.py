"""The errors of transport: of messages, methods and time limits. `domain.errors` has those of the use cases."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.errors import KeysError

if TYPE_CHECKING:
    import grpc


class MalformedMessageError(KeysError):
    """The request is not a message of this method."""

    reason = "MALFORMED_MESSAGE"


class UnknownFieldError(KeysError):
    """The request has a field or an enum value that this version of the service does not know."""

    reason = "UNKNOWN_FIELD"
    metadata = ("path", "numbers")


class MessageTooLongError(KeysError):
    """The request is longer than this service accepts."""

    reason = "MESSAGE_TOO_LONG"
    metadata = ("limit",)


class UnknownEncodingError(KeysError):
    """The request is compressed in a way that this service does not support."""

    reason = "UNKNOWN_ENCODING"


class DeadlineExceededError(KeysError):
    """The call did not finish within its time limit."""

    reason = "DEADLINE_EXCEEDED"


class StatusError(Exception):
    """The call ends with one of gRPC's own statuses, without details, e.g. because the method is unknown.

    Attributes:
        code: The status code.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


TOO_MANY_CALLS = "Concurrent RPC limit exceeded!"
"""The message of a call over the limit of concurrent calls, as grpcio words it."""


def too_long(length: int, max_bytes: int) -> MessageTooLongError:
    """Return the error for a message that is too long, with the same text as grpcio's own."""
    return MessageTooLongError(f"Received message larger than max ({length} vs. {max_bytes})", limit=str(max_bytes))
