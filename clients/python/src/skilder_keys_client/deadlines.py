"""How long a call may take."""

from __future__ import annotations

import time

import grpc

from skilder_keys_client.connection import DEADLINES
from skilder_keys_client.errors import ServiceError


class Deadline:
    """The end of what a method of a client does, which may be several calls.

    Args:
        timeout: In seconds; None for the default of each call.
    """

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self, path: str) -> float | None:
        """Return the seconds that a call of a method has; None if there is no limit.

        Raises:
            ServiceError: None is left. gRPC itself may still make such a call.
        """
        if self._end is None:
            return DEADLINES.get(path)
        if (left := self._end - time.monotonic()) <= 0:
            raise ServiceError(grpc.StatusCode.DEADLINE_EXCEEDED, "There was no time left for the call.")
        return left
