"""An end to calls that take too long."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import NoReturn

_SWEEP_SECONDS = 0.05


class TimeLimit:
    """Ends what tasks do in its `with` block with a TimeoutError, once they have done it for too long.

    One timer serves all of them, right within a twentieth of a second: `asyncio.timeout` makes one for each, which
    costs more than a warm Authorize. A task may be in one such block at a time.
    """

    def __init__(self, seconds: float) -> None:
        """Is made in the event loop of the tasks."""
        self._seconds = seconds
        # To find out the running loop costs a system call, of each call.
        self._loop = asyncio.get_running_loop()
        self._began: dict[asyncio.Task[object] | None, float] = {}  # in order of beginning
        self._overdue: set[asyncio.Task[object]] = set()

    def __enter__(self) -> None:
        """Counts the time of the running task from now on."""
        self._began[asyncio.current_task(self._loop)] = monotonic()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Counts it no longer; a cancellation that was for its time alone becomes a TimeoutError."""
        task = asyncio.current_task(self._loop)
        del self._began[task]
        if self._overdue and task is not None and task in self._overdue:
            self._overdue.remove(task)
            if task.uncancel() == 0 and isinstance(error, asyncio.CancelledError):
                raise TimeoutError from error

    def sweep(self) -> None:
        """Cancels the tasks whose time is over."""
        latest = monotonic() - self._seconds
        for task, began in self._began.items():
            if began > latest:
                break
            if task is not None and task not in self._overdue:
                self._overdue.add(task)
                task.cancel()

    async def run(self) -> NoReturn:
        """Sweeps until it is cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.sweep()
