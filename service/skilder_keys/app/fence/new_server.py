"""The time to wait after a new database server appears, because readers of the old one may still hold leases."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder_keys.storage.fence import FenceState


class NewServer:
    """Measures the time since this process first saw the current database server.

    A database that was restored, or a standby that took over without the last changes, may also lack the rows of
    readers that hold a lease. These leases were renewed before this server started. So when the longest lease has
    passed since the server was first seen, none of them is valid. Until then no change may return.
    """

    def __init__(self, clock: Callable[[], float], lease_seconds: float) -> None:
        """Start without a server.

        Args:
            clock: The clock of this process.
            lease_seconds: The lease of this process, which may be longer than any that the database knows.
        """
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._server = ""
        self._seen = 0.0

    def seconds_left(self, state: FenceState) -> float:
        """Return the seconds for which a reader without a row may still hold a lease."""
        if state.vouched:
            return 0.0
        if state.server != self._server:
            self._server, self._seen = state.server, self._clock()
        longest = max(state.longest_lease, self._lease_seconds)
        return max(0.0, longest - (self._clock() - self._seen))
