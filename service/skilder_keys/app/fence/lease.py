"""The lease: the time for which a process may answer from memory."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from skilder_keys.domain.revision import Revision

if TYPE_CHECKING:
    from collections.abc import Callable

    Clock = Callable[[], float]


class Lease:
    """The time for which this process may answer from memory.

    Attributes:
        revision: The state that memory is in step with.
        server: Names the server that said so; empty before there was any.
        doubted: Whether another server, or an older state, has answered since: then the reader starts anew.
        on_doubt: What to call then.
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
        """The change up to which memory is in step with the database."""
        return self.revision.epoch

    def valid(self) -> bool:
        """Tells whether it may do so at this moment. Ask again after every await."""
        return self._clock() < self._end

    def age(self) -> float:
        """Answers the seconds since the database was asked for what renewed it last; infinite without a lease."""
        return self._clock() - self._start

    def renew(self, start: float, end: float) -> None:
        """Takes when the database was asked, and when the lease ends. In doubt nothing is renewed."""
        if not self.doubted:
            self._start, self._end = start, end

    def end(self) -> None:
        """Ends it at once."""
        self._start = self._end = -math.inf

    def doubt(self) -> None:
        """End it, and have the reader make a new connection and register anew."""
        self.end()
        self.doubted = True
        if self.on_doubt is not None:
            self.on_doubt()
