"""Give other calls their turn during long work on the event loop."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_SECONDS = 0.005
"""Short beside the 20 ms that nobody may hold the event loop, and long beside what a turn of the loop costs."""


class TimeSlices:
    """The slices of one call's work, each of some milliseconds.

    Between two slices anything may change. So what needs two looks at memory must be within one slice.
    """

    __slots__ = ("_clock", "_end")

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin the first slice.

        Args:
            clock: Returns seconds.
        """
        self._clock = clock
        self._end = clock() + _SECONDS

    def over(self) -> bool:
        """Return whether it is the turn of other calls."""
        return self._clock() >= self._end

    async def next(self) -> None:
        """Let the others have their turns, and begin the next slice."""
        await asyncio.sleep(0)
        self._end = self._clock() + _SECONDS
