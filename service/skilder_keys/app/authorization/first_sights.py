"""Bound the first sights that wait: the loads of keys that this process does not know yet.

After a restart every key is new to a process, and each first sight costs far more than a call for a known key. If they
come faster than they can be served, they must not fill the process: known keys stay fast, and whoever would wait too
long is refused at once, with the time after which to try again.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from datetime import timedelta
from typing import TYPE_CHECKING, Self

from skilder_keys.domain.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable
    from types import TracebackType

    Patience = Callable[[], float | None]
    """Returns how many seconds a caller still waits; None if it has no deadline."""

_AT_ONCE = 128
"""How many loads run at a time: enough to share statements and threads, and not too long for the event loop."""
_LONGEST_SECONDS = 1.0
_WINDOW_SECONDS = 0.25
_WINDOW_LOADS = 32
"""The pace is measured over at least this many seconds and loads, since loads that share a statement end together."""
_FIRST_GUESS = 0.001
_LONGEST_RETRY = 30.0


def endless() -> None:
    """Return None, as a caller without a deadline does."""


class FirstSights:
    """Gives the loads of keys their turns, and refuses those that would wait too long.

    Each key has a lane, and so has each batch; the lanes take turns. So neither a flood of wrong tokens for one key nor
    a batch of a thousand new keys makes the others wait for all of it. How long a load has to wait is estimated from
    the pace of the last moments.

    Attributes:
        refused: The number of tokens that were refused.
    """

    def __init__(
        self,
        clock: Callable[[], float],
        max_waiting: int,
        *,
        at_once: int = _AT_ONCE,
        longest_wait: float = _LONGEST_SECONDS,
    ) -> None:
        """Make it.

        Args:
            clock: Returns seconds.
            max_waiting: The most loads that may wait, without those of batches.
            at_once: The most loads at the same time.
            longest_wait: The most seconds that a load may have to wait for its turn.
        """
        self.refused = 0
        self._clock = clock
        self._max_waiting = max_waiting
        self._at_once = at_once
        self._longest_wait = longest_wait
        self._running = 0
        self._lanes: deque[Lane] = deque()  # those with loads that wait, in order of their turns
        self._of_keys: dict[Hashable, Lane] = {}  # those of keys among them
        self._alone = 0  # loads that wait, without those of batches
        self._pace = _FIRST_GUESS  # seconds from the end of one load to that of the next, while others wait
        self._window_start = 0.0
        self._finished = 0  # since then

    @property
    def waiting(self) -> int:
        """The number of loads that wait for their turn."""
        return sum(len(lane.waiting) for lane in self._lanes)

    def batch(self, tokens: int, patience: Patience = endless) -> Lane:
        """Return the lane of a call with several tokens: either it may load all of them, or it is refused.

        Args:
            tokens: How many.
            patience: Returns how many seconds the caller still waits.

        Raises:
            BusyError: The call would wait too long.
        """
        return self._admit(Lane(self, None), tokens, 0, patience)

    def lane(self, key: Hashable, patience: Patience = endless) -> Lane:
        """Return the lane of a key, for one load.

        Args:
            key: The key.
            patience: Returns how many seconds the caller still waits.

        Raises:
            BusyError: The load would wait too long.
        """
        lane = self._of_keys.get(key) or Lane(self, key)
        return self._admit(lane, 1, len(lane.waiting), patience)

    def _admit(self, lane: Lane, tokens: int, own: int, patience: Patience) -> Lane:
        if self._lanes:
            # The turn of the last of these tokens, in its lane. Each other lane has as many turns before it.
            last = own + tokens
            ahead = len(self._lanes) if last == 1 else sum(min(len(each.waiting), last) for each in self._lanes)
            wait = ahead * self._seconds_for_one()
            left = patience()
            longest = self._longest_wait if left is None else min(self._longest_wait, left)
            if wait > longest or self._alone >= self._max_waiting:
                self.refused += tokens
                seconds = min(max(wait, self._longest_wait), _LONGEST_RETRY) * _jitter()
                raise BusyError(retry_after=timedelta(seconds=seconds))
        return lane

    def _seconds_for_one(self) -> float:
        """Return the seconds from one turn to the next; in a standstill more and more."""
        return max(self._pace, (self._clock() - self._window_start) / (self._finished + self._at_once))

    async def begin(self, lane: Lane) -> None:
        """Wait for a turn of a lane."""
        if self._running < self._at_once and not self._lanes:
            self._running += 1
            return
        if not self._lanes:
            self._window_start, self._finished = self._clock(), 0
        if lane.key is not None:
            lane = self._of_keys.setdefault(lane.key, lane)
            self._alone += 1
        if not lane.waiting:
            self._lanes.append(lane)
        turn = asyncio.get_running_loop().create_future()
        lane.waiting.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():
                self.end()  # the turn came just before the call was given up
            raise

    def end(self) -> None:
        """End a turn, and begin the next one. The turns of calls that were given up are skipped."""
        self._running -= 1
        if self._lanes:
            self._measure()
        while self._running < self._at_once and self._lanes:
            turn = self._next()
            if not turn.done():
                self._running += 1
                turn.set_result(None)

    def _next(self) -> asyncio.Future[None]:
        lane = self._lanes.popleft()
        turn = lane.waiting.popleft()
        if lane.waiting:
            self._lanes.append(lane)
        if lane.key is not None:
            self._alone -= 1
            if not lane.waiting:
                del self._of_keys[lane.key]
        return turn

    def _measure(self) -> None:
        """Note the end of a load while others wait, since only then is the time between two ends the pace."""
        self._finished += 1
        elapsed = self._clock() - self._window_start
        if self._finished >= _WINDOW_LOADS and elapsed >= _WINDOW_SECONDS:
            self._pace = elapsed / self._finished
            self._window_start, self._finished = self._clock(), 0


class Lane:
    """The loads of one key, or of one batch. Each enters the lane as a context, in which it has its turn."""

    __slots__ = ("_first_sights", "key", "waiting")

    def __init__(self, first_sights: FirstSights, key: Hashable | None) -> None:
        self.key = key
        self.waiting: deque[asyncio.Future[None]] = deque()
        self._first_sights = first_sights

    async def __aenter__(self) -> Self:
        """Wait for a turn."""
        await self._first_sights.begin(self)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the turn."""
        self._first_sights.end()


def _jitter() -> float:
    return random.uniform(1.0, 1.5)  # noqa: S311 - not for secrets
