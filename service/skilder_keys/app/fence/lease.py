"""The lease: the time during which a process may use its memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from skilder_keys.domain.revision import Revision

if TYPE_CHECKING:
    from collections.abc import Callable

    Clock = Callable[[], float]


class Lease:
    """The time during which this process may use its memory.

    Attributes:
        revision: The state that memory has.
        server: Identifies the server of that state; empty before the first one.
        doubted: Whether a query has seen another server, or an older state. Then the reader has to register again.
        on_doubt: Called when that happens.
    """

    __slots__ = ("_clock", "_end", "_start", "doubted", "on_doubt", "revision", "server")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = self._end = -math.inf
        self.revision = Revision(0, 0)
        self.server = ""
        self.doubted = False
        self.on_doubt: Callable[[], None] | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the state that memory has."""
        return self.revision.epoch

    def valid(self) -> bool:
        """Return whether the lease is valid at this moment. Check again after every await."""
        return self._clock() < self._end

    def age(self) -> float:
        """Return the seconds since the heartbeat that renewed the lease was sent; infinite without a lease."""
        return self._clock() - self._start

    def renew(self, start: float, end: float) -> None:
        """Renew the lease, unless it is doubted.

        Args:
            start: The time at which the heartbeat was sent.
            end: The time at which the lease ends.
        """
        if not self.doubted:
            self._start, self._end = start, end

    def end(self) -> None:
        """End the lease at once."""
        self._start = self._end = -math.inf

    def doubt(self) -> None:
        """End the lease, and make the reader connect and register again."""
        self.end()
        self.doubted = True
        if self.on_doubt is not None:
            self.on_doubt()
