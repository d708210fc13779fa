"""Make workers that start at the same time begin to listen at the same time.

Clients connect again as soon as one worker listens, and then keep their connections. So after all workers had ended,
the first one to listen would get all clients, and the others none.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator
    from typing import Any

_MOST_SECONDS = 5.0
"""How long a worker that could listen waits for others at most."""


class Opening:
    """Knows the workers that start and are not prepared to listen yet."""

    def __init__(self, most_seconds: float = _MOST_SECONDS) -> None:
        """Make it, without workers."""
        self._most_seconds = most_seconds
        self._unprepared = 0
        self._all_prepared = asyncio.Event()  # a new one each time

    @contextmanager
    def starting(self) -> Iterator[Callable[[], Coroutine[Any, Any, None]]]:
        """Count a worker while it starts.

        Yield what the worker has to call when it is prepared: it returns when all others are, too, or after a while.
        """
        self._unprepared += 1
        prepared = False

        def leave() -> None:
            nonlocal prepared
            if not prepared:
                prepared = True
                self._unprepared -= 1
                if not self._unprepared:
                    self._all_prepared.set()
                    self._all_prepared = asyncio.Event()

        async def wait() -> None:
            all_prepared = self._all_prepared
            leave()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._most_seconds):
                    await all_prepared.wait()

        try:
            yield wait
        finally:
            leave()
