"""Errors as gRPC statuses: the table of status codes, and an ErrorInfo (AIP-193) for every error.

The reasons are the values of the contract's ErrorReason; a test compares codes and metadata with its comments.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from skilder_keys.auth.callers import UnauthenticatedError
from skilder_keys.domain import errors
from skilder_keys.domain.fields import shortened
from skilder_keys.rpc import errors as rpc_errors

if TYPE_CHECKING:
    from datetime import timedelta

    from google.protobuf.message import Message

ERROR_DOMAIN = "keys.skilder"

STATUS_CODES: dict[type[errors.KeysError], grpc.StatusCode] = {
    errors.InvalidRequestError: grpc.StatusCode.INVALID_ARGUMENT,
    errors.ActorRequiredError: grpc.StatusCode.INVALID_ARGUMENT,
    rpc_errors.MalformedMessageError: grpc.StatusCode.INVALID_ARGUMENT,
    rpc_errors.UnknownFieldError: grpc.StatusCode.INVALID_ARGUMENT,
    rpc_errors.MessageTooLongError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    rpc_errors.UnknownEncodingError: grpc.StatusCode.UNIMPLEMENTED,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    errors.CallerNotAllowedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.ForeignWorkspaceError: grpc.StatusCode.PERMISSION_DENIED,
    errors.ForeignMcpServerError: grpc.StatusCode.PERMISSION_DENIED,
    errors.ActorNotMemberError: grpc.StatusCode.PERMISSION_DENIED,
    errors.ActorNotAllowedError: grpc.StatusCode.PERMISSION_DENIED,
    errors.KeyNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.WorkspaceNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.ToolNotFoundError: grpc.StatusCode.NOT_FOUND,
    errors.WorkspaceDeletedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.KeyNotActiveError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.TooManyChangedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.WorkspaceTooLargeError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.VersionMismatchError: grpc.StatusCode.ABORTED,
    errors.PolicyViolationError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.DescriptionTakenError: grpc.StatusCode.ALREADY_EXISTS,
    errors.RequestUsedError: grpc.StatusCode.ALREADY_EXISTS,
    errors.RequestRevokedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.KeyNotActiveError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.KeyAlreadyRotatedError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.RuntimeHasKeysError: grpc.StatusCode.FAILED_PRECONDITION,
    errors.ActivityRolledUpError: grpc.StatusCode.OUT_OF_RANGE,
    errors.EventsPrunedError: grpc.StatusCode.OUT_OF_RANGE,
    rpc_errors.DeadlineExceededError: grpc.StatusCode.DEADLINE_EXCEEDED,
    errors.UnavailableError: grpc.StatusCode.UNAVAILABLE,
    errors.BusyError: grpc.StatusCode.UNAVAILABLE,
    errors.KeysError: grpc.StatusCode.INTERNAL,  # an unexpected error, which is logged and sent without details
}

# A status is sent in trailers, with the message twice, and clients reject trailers of more than 8 KiB. Fields that do
# not fit are left out; the message has their number.
_MAX_VIOLATION_BYTES = 3_500
_MAX_MESSAGE_BYTES = 500


def trailing_status(error: errors.KeysError) -> grpc.Status:
    """Return the status of an error, with its details in a trailer, for `context.abort_with_status`."""
    details: list[Message] = [ErrorInfo(reason=error.reason, domain=ERROR_DOMAIN, metadata=error.details)]
    if isinstance(error, errors.InvalidRequestError):
        details.append(_bad_request(error))
    if error.retry_after is not None:
        details.append(RetryInfo(retry_delay=_duration(error.retry_after)))
    status = Status(code=STATUS_CODES[type(error)].value[0], message=shortened(str(error), _MAX_MESSAGE_BYTES))
    for detail in details:
        status.details.add().Pack(detail)
    grpc_status: grpc.Status = rpc_status.to_status(status)
    return grpc_status


def retry_after_seconds(error: errors.KeysError) -> int | None:
    """Return what the HTTP header Retry-After of an error says: whole seconds, never 0; None for no such header."""
    return None if error.retry_after is None else max(1, math.ceil(error.retry_after.total_seconds()))


def _duration(length: timedelta) -> Duration:
    duration = Duration()
    duration.FromTimedelta(length)
    return duration


def _bad_request(error: errors.InvalidRequestError) -> BadRequest:
    bad_request = BadRequest()
    for violation in error.violations:
        bad_request.field_violations.add(field=violation.field, description=violation.description)
        if bad_request.ByteSize() > _MAX_VIOLATION_BYTES:
            del bad_request.field_violations[-1]
            break
    return bad_request
