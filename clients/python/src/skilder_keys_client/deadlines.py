"""How long a call may take."""

from __future__ import annotations

import time

from skilder_keys_client.connection import DEADLINES


class Deadline:
    """The end of what a method of a client does, which may be several calls.

    Args:
        timeout: In seconds; None for the default of each call.
    """

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self, path: str) -> float | None:
        """Return the seconds that a call of a method has; None if there is no limit."""
        return DEADLINES.get(path) if self._end is None else max(0.0, self._end - time.monotonic())
