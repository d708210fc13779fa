"""Where loads wait for their turn: each key, and each batch, has a lane, and each caller a line of lanes."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Hashable
    from types import TracebackType

    from skilder_keys.app.authorization.first_sights import FirstSights


class Lane:
    """The loads of one key, or of one batch. Each has its turn from `begin` to `end`, or in the lane as a context.

    Attributes:
        caller: For whom they are.
        key: The key; None for a batch.
        waiting: Those that wait.
        reserved: The tokens of a batch that have not come to their loads yet.
    """

    __slots__ = ("_first_sights", "caller", "key", "reserved", "waiting")

    def __init__(self, first_sights: FirstSights, caller: Hashable, key: Hashable | None) -> None:
        self.caller = caller
        self.key = key
        self.reserved = 0
        self.waiting: deque[asyncio.Future[None]] = deque()
        self._first_sights = first_sights

    def begin(self) -> asyncio.Future[None] | None:
        """Begin a turn: at once, or when the future is done that is returned. Whoever cancels it, gives up.

        Raises:
            BusyError: So many were admitted at the same moment that there is no place.
        """
        return self._first_sights.begin(self)

    def end(self) -> None:
        """End a turn."""
        self._first_sights.end()

    async def __aenter__(self) -> Self:
        """Wait for a turn."""
        turn = self.begin()
        if turn is not None:
            try:
                await turn
            except asyncio.CancelledError:
                if not turn.cancelled():
                    self.end()  # the turn came just before the call was given up
                raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End the turn."""
        self.end()


class Line:
    """The lanes of a caller that have loads that wait, in order of their turns.

    Attributes:
        of_keys: The lanes of keys among them.
        waiting: How many loads wait.
        alone: How many of them are not of batches.
    """

    __slots__ = ("alone", "lanes", "of_keys", "waiting")

    def __init__(self) -> None:
        self.lanes: deque[Lane] = deque()
        self.of_keys: dict[Hashable, Lane] = {}
        self.waiting = 0
        self.alone = 0
