"""The time limit of calls."""

from __future__ import annotations

import asyncio
from time import monotonic
from typing import NoReturn

_SWEEP_SECONDS = 0.05


class TimeLimit:
    """Raises TimeoutError in a `with` block that a task does not leave within the limit.

    One timer serves all tasks, exact to a twentieth of a second. `asyncio.timeout` makes a timer for each, which costs
    more than a warm Authorize. A task may be in one such block at a time.
    """

    def __init__(self, seconds: float) -> None:
        """Make a time limit, in the event loop of the tasks."""
        self._seconds = seconds
        # To look up the running loop costs a system call, so it is done once instead of in each call.
        self._loop = asyncio.get_running_loop()
        self._started: dict[asyncio.Task[object] | None, float] = {}  # in order of start
        self._overdue: set[asyncio.Task[object]] = set()

    def __enter__(self) -> None:
        """Start the time of the current task."""
        self._started[asyncio.current_task(self._loop)] = monotonic()

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        """Stop its time. Raise TimeoutError if the task was cancelled only because of the limit."""
        task = asyncio.current_task(self._loop)
        del self._started[task]
        if self._overdue and task is not None and task in self._overdue:
            self._overdue.remove(task)
            if task.uncancel() == 0 and isinstance(error, asyncio.CancelledError):
                raise TimeoutError from error

    def sweep(self) -> None:
        """Cancel the tasks that exceed the limit."""
        latest = monotonic() - self._seconds
        for task, started in self._started.items():
            if started > latest:
                break
            if task is not None and task not in self._overdue:
                self._overdue.add(task)
                task.cancel()

    async def run(self) -> NoReturn:
        """Cancel such tasks regularly, until cancelled."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            self.sweep()
