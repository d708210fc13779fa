"""What the exit code of a command says; `skilder-keys --help` and the README list them."""

from __future__ import annotations

from enum import IntEnum

import grpc


class Exit(IntEnum):
    """Exit codes."""

    OK = 0  # done; for `authorize`: granted
    DENIED = 1  # `authorize` was answered, and the answer is no
    USAGE = 2  # the command or the request is malformed
    FORBIDDEN = 3  # the caller or the actor may not do this
    NOT_FOUND = 4
    CONFLICT = 5  # something is there already, or is no longer as expected
    UNAVAILABLE = 6  # the service cannot be reached, or cannot decide now
    FAILED = 70  # the service or this command failed
    STOPPED = 130  # by Ctrl-C, or by a no to a question


_BY_STATUS = {
    grpc.StatusCode.INVALID_ARGUMENT: Exit.USAGE,
    grpc.StatusCode.OUT_OF_RANGE: Exit.USAGE,
    grpc.StatusCode.UNAUTHENTICATED: Exit.FORBIDDEN,
    grpc.StatusCode.PERMISSION_DENIED: Exit.FORBIDDEN,
    grpc.StatusCode.NOT_FOUND: Exit.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS: Exit.CONFLICT,
    grpc.StatusCode.FAILED_PRECONDITION: Exit.CONFLICT,
    grpc.StatusCode.ABORTED: Exit.CONFLICT,
    grpc.StatusCode.UNAVAILABLE: Exit.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED: Exit.UNAVAILABLE,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Exit.UNAVAILABLE,
}


def exit_for(code: grpc.StatusCode) -> Exit:
    """Answers the exit code for a gRPC status."""
    return _BY_STATUS.get(code, Exit.FAILED)
