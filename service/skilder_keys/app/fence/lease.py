"""The lease: the time during which a process may use its memory."""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
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
        wake: Called to make the reader look at once.
    """

    __slots__ = ("_clock", "_end", "_moved", "_start", "_term", "doubted", "revision", "server", "wake")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = self._end = -math.inf
        self.revision = Revision(0, 0)
        self.server = ""
        self.doubted = False
        self.wake: Callable[[], None] | None = None
        self._term = 0  # how often it was ended
        self._moved = asyncio.Event()  # a new one after each step

    @property
    def epoch(self) -> int:
        """The epoch of the state that memory has."""
        return self.revision.epoch

    def valid(self) -> bool:
        """Return whether the lease is valid at this moment. Check again after every await."""
        return self._clock() < self._end

    def covers(self, moment: float) -> bool:
        """Return whether the lease is valid, and a moment on its clock has not come yet."""
        now = self._clock()
        return now < self._end and now < moment

    def now(self) -> float:
        """Return the time on the clock of the lease."""
        return self._clock()

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
        self._term += 1
        self._move()

    def doubt(self) -> None:
        """End the lease, and make the reader connect and register again."""
        self.end()
        self.doubted = True
        self._wake()

    def advance(self, revision: Revision) -> None:
        """Set the revision, right after memory has applied the change that leads to it."""
        self.revision = revision
        self._move()

    def has_reached(self, epoch: int) -> bool:
        """Return whether memory has applied an epoch, and may be used."""
        return self.epoch >= epoch and self.valid()

    async def reach(self, epoch: int) -> bool:
        """Wait until memory has applied an epoch, which the reader is made to look for.

        Return False as soon as the lease is not valid, or was ended meanwhile.
        """
        term = self._term
        while self.valid() and self._term == term:
            if self.epoch >= epoch:
                return True
            moved = self._moved
            self._wake()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._end - self._clock()):
                    await moved.wait()
        return False

    def _wake(self) -> None:
        if self.wake is not None:
            self.wake()

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
