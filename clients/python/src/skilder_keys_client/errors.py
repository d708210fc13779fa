"""Calls that failed. A failed call says nothing about a token."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, cast

import grpc
from google.protobuf.message import DecodeError

from skilder_keys_client.details_pb2 import BadRequest, ErrorInfo, RetryInfo, Status

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.any_pb2 import Any

DOMAIN = "keys.skilder"
_DETAILS = "grpc-status-details-bin"
# The caller's own faults, or its own wish. With every other code, the service could not do its work.
_OWN_FAULTS = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAUTHENTICATED,
    }
)


@dataclass(eq=False)
class ServiceError(Exception):
    """A call that failed.

    Attributes:
        code: The status code.
        message: What is wrong, for people.
        reason: The name of a value of ErrorReason, such as `BUSY`; empty if the error is not from the service itself.
        metadata: What the reason says more, such as `key_id`.
        retry_after: How long to wait before another try, if the service said so.
        violations: The fields at fault, each with what is wrong, for the reason `INVALID_REQUEST`.
    """

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after: timedelta | None = None
    violations: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """Return the code, the reason and the message."""
        return f"{self.code.name}{f' {self.reason}' if self.reason else ''}: {self.message}"

    @property
    def is_outage(self) -> bool:
        """Whether the service could not do its work. Then a token is neither good nor bad: never call it bad."""
        return self.code not in _OWN_FAULTS


def service_error(error: grpc.RpcError | grpc.aio.AioRpcError) -> ServiceError:
    """Return the error that a call of grpcio raised as an error of this package."""
    # Every error of a call is also a call, which the stubs of grpcio do not say.
    call = cast("grpc.aio.AioRpcError", error)
    failed = ServiceError(call.code(), call.details() or "")
    for detail in _details(call.trailing_metadata() or ()):
        _read(detail.type_url.rpartition("/")[2], detail.value, failed)
    return failed


def _details(trailers: Iterable[tuple[str, str | bytes]]) -> Iterable[Any]:
    for name, value in trailers:
        if name == _DETAILS and isinstance(value, bytes):
            try:
                return Status.FromString(value).details
            except DecodeError:
                return ()
    return ()


def _read(name: str, value: bytes, failed: ServiceError) -> None:
    """Take a detail into an error. Ignore what cannot be read: the code says that the call failed."""
    try:
        match name:
            case "google.rpc.ErrorInfo":
                info = ErrorInfo.FromString(value)
                if info.domain == DOMAIN:
                    failed.reason, failed.metadata = info.reason, dict(info.metadata)
            case "google.rpc.RetryInfo":
                wait = RetryInfo.FromString(value).retry_delay.ToTimedelta()
                failed.retry_after = wait if wait > timedelta(0) else None
            case "google.rpc.BadRequest":
                found = BadRequest.FromString(value).field_violations
                failed.violations = tuple((each.field, each.description) for each in found)
    except (DecodeError, OverflowError, ValueError):
        return
