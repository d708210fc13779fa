"""A database server that is new to this process: who may still answer by what another one said."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder_keys.storage.fence import FenceState


class NewServer:
    """Counts the time since this process first saw the server that the database runs on now.

    A database that was restored, or taken over by a standby that lacks the last changes, may also lack the rows of
    readers that hold a lease. They asked for it before this server was there, so once the longest lease has passed
    since it was first seen, no such lease is left. Until then no change may return.
    """

    def __init__(self, clock: Callable[[], float], lease_seconds: float) -> None:
        """Take this process's clock and its own lease, which may be longer than any the database knows of."""
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._server = ""
        self._seen = 0.0

    def seconds_left(self, state: FenceState) -> float:
        """Return for how long a reader that the database does not know may still hold a lease."""
        if state.vouched:
            return 0.0
        if state.server != self._server:
            self._server, self._seen = state.server, self._clock()
        longest = max(state.longest_lease, self._lease_seconds)
        return max(0.0, longest - (self._clock() - self._seen))
