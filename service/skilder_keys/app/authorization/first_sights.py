"""Bound the first sights that wait: the loads of keys that this process does not know yet.

After a restart every key is new to a process, and each first sight costs far more than a call for a known key. If they
come faster than they can be served, they must not fill the process: known keys stay fast, and whoever would wait too
long is refused at once, with the time after which to try again.
"""

from __future__ import annotations

import asyncio
import random
from collections import OrderedDict
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from skilder_keys.app.authorization.lanes import Lane, Line
from skilder_keys.domain.errors import BusyError

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator

    Patience = Callable[[], float | None]
    """Returns how many seconds a caller still waits; None if it has no deadline."""

_AT_ONCE = 128
"""How many loads run at a time: enough to share statements and threads, and not too long for the event loop."""
_LONGEST_SECONDS = 1.0
_WINDOW_SECONDS = 0.25
_WINDOW_LOADS = 32
"""The pace is measured over at least this many seconds and loads, since loads that share a statement end together."""
_FIRST_GUESS = 0.001
_SHARE = 8
"""A caller may have this many times as many loads that wait as there are free places."""
_LONGEST_RETRY = 30.0


def endless() -> None:
    """Return None, as a caller without a deadline does."""


class FirstSights:
    """Gives the loads of keys, or of workspaces, their turns, and refuses those that would wait too long.

    Each key has a lane, and so has each batch. The callers take turns, and then the lanes of each caller. So neither a
    flood of tokens from one caller, nor one of wrong tokens for one key, nor a batch of a thousand new keys makes the
    others wait for all of it. How long a load has to wait is estimated from the pace of the last moments.

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
            max_waiting: The most loads that may wait, without those of batches. One caller alone gets most of the
                places, and the more are taken, the fewer each caller gets: there is always one for another caller.
            at_once: The most loads at the same time.
            longest_wait: The most seconds that a load may have to wait for its turn.
        """
        self.refused = 0
        self._clock = clock
        self._max_waiting = max_waiting
        self._at_once = at_once
        self._longest_wait = longest_wait
        self._running = 0
        self._lines: OrderedDict[Hashable, Line] = OrderedDict()  # by caller, in order of their turns
        self._batches: set[Lane] = set()
        self._alone = 0  # loads that wait, without those of batches
        self._pace = _FIRST_GUESS  # seconds from the end of one load to that of the next, while others wait
        self._window_start = 0.0
        self._finished = 0  # since then

    @property
    def waiting(self) -> int:
        """The number of loads that wait for their turn."""
        return sum(line.waiting for line in self._lines.values())

    @contextmanager
    def batch(self, tokens: int, caller: Hashable = "", patience: Patience = endless) -> Iterator[Lane]:
        """Give a call with several tokens a lane: either it may load all of them, or it is refused.

        Args:
            tokens: How many.
            caller: Who calls.
            patience: Returns how many seconds the caller still waits.

        Raises:
            BusyError: The call would wait too long.
        """
        lane = self._admit(Lane(self, caller, None), tokens, 0, patience)
        lane.reserved = tokens
        self._batches.add(lane)
        try:
            yield lane
        finally:
            self._batches.discard(lane)

    def lane(self, key: Hashable, caller: Hashable = "", patience: Patience = endless) -> Lane:
        """Return the lane of a key, for one load.

        Args:
            key: The key.
            caller: Who calls.
            patience: Returns how many seconds the caller still waits.

        Raises:
            BusyError: The load would wait too long.
        """
        line = self._lines.get(caller)
        lane = line.of_keys.get(key) if line is not None else None
        lane = lane or Lane(self, caller, key)
        return self._admit(lane, 1, len(lane.waiting), patience)

    def next_of(self, lane: Lane, patience: Patience) -> Lane:
        """Return the lane of a call with several loads, for the next one.

        Raises:
            BusyError: The load would wait too long, and neither its call was admitted as a batch nor do others of it
                wait.
        """
        return lane if lane in self._batches or lane.waiting else self._admit(lane, 1, 0, patience)

    def _admit(self, lane: Lane, tokens: int, own: int, patience: Patience) -> Lane:
        ahead = self._ahead(lane.caller, own + tokens)
        if ahead:
            wait = ahead * self._seconds_for_one()
            left = patience()
            longest = self._longest_wait if left is None else min(self._longest_wait, left)
            if wait > longest or self._is_full(lane.caller):
                raise self._refusal(tokens, wait)
        return lane

    def _refusal(self, tokens: int, wait: float) -> BusyError:
        self.refused += tokens
        seconds = min(max(wait, self._longest_wait), _LONGEST_RETRY) * _jitter()
        return BusyError(retry_after=timedelta(seconds=seconds))

    def _ahead(self, caller: Hashable, last: int) -> int:
        """Return how many turns come before that of the last of some tokens, which all have one lane."""
        if not self._lines and not self._batches:
            return 0
        # Each other lane of the caller has as many turns before it, and then each other caller as many as this one.
        line = self._lines.get(caller)
        own = 0
        if line is not None:
            lanes = line.lanes
            own = len(lanes) if last == 1 else sum(min(len(each.waiting), last) for each in lanes)
        own += sum(min(each.reserved, last) for each in self._batches if each.caller == caller)
        turns = max(own + 1, last)
        others = len(self._lines) - (line is not None)
        if turns > 1 and others:
            others = sum(min(each.waiting, turns) for each in self._lines.values() if each is not line)
        return own + others + sum(min(each.reserved, turns) for each in self._batches if each.caller != caller)

    def _is_full(self, caller: Hashable) -> bool:
        """Return whether a caller has no place left: its bound is in proportion to the places that are free."""
        line = self._lines.get(caller)
        return (line.alone if line is not None else 0) >= _SHARE * (self._max_waiting - self._alone)

    def _seconds_for_one(self) -> float:
        """Return the seconds from one turn to the next; in a standstill more and more."""
        if not self._lines:
            return self._pace
        return max(self._pace, (self._clock() - self._window_start) / (self._finished + self._at_once))

    def begin(self, lane: Lane) -> asyncio.Future[None] | None:
        """Begin a turn of a lane: at once, or when the future is done that is returned. Whoever cancels it, gives up.

        Raises:
            BusyError: So many were admitted at the same moment that there is no place.
        """
        lane.reserved -= lane.reserved > 0
        if self._running < self._at_once and not self._lines:
            self._running += 1
            return None
        if lane.key is not None and self._is_full(lane.caller):
            raise self._refusal(1, 0)
        return self._enqueue(lane)

    def end(self) -> None:
        """End a turn, and begin the next one. The turns of calls that were given up are skipped."""
        self._running -= 1
        if self._lines:
            self._measure()
        while self._running < self._at_once and self._lines:
            turn = self._next()
            if not turn.done():
                self._running += 1
                turn.set_result(None)

    def _enqueue(self, lane: Lane) -> asyncio.Future[None]:
        if not self._lines:
            self._window_start, self._finished = self._clock(), 0
        line = self._lines.get(lane.caller)
        if line is None:
            line = self._lines[lane.caller] = Line()
        if lane.key is not None:
            lane = line.of_keys.setdefault(lane.key, lane)
            line.alone += 1
            self._alone += 1
        if not lane.waiting:
            line.lanes.append(lane)
        turn = asyncio.get_running_loop().create_future()
        lane.waiting.append(turn)
        line.waiting += 1
        return turn

    def _next(self) -> asyncio.Future[None]:
        caller, line = self._lines.popitem(last=False)
        lane = line.lanes.popleft()
        turn = lane.waiting.popleft()
        line.waiting -= 1
        if lane.waiting:
            line.lanes.append(lane)
        if line.lanes:
            self._lines[caller] = line
        if lane.key is not None:
            line.alone -= 1
            self._alone -= 1
            if not lane.waiting:
                del line.of_keys[lane.key]
        return turn

    def _measure(self) -> None:
        """Note the end of a load while others wait, since only then is the time between two ends the pace."""
        self._finished += 1
        elapsed = self._clock() - self._window_start
        if self._finished >= _WINDOW_LOADS and elapsed >= _WINDOW_SECONDS:
            self._pace = elapsed / self._finished
            self._window_start, self._finished = self._clock(), 0


def _jitter() -> float:
    return random.uniform(1.0, 1.5)  # noqa: S311 - not for secrets
