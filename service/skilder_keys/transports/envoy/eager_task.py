"""Tasks that start at once, without a turn of the event loop, and cost about half as much as asyncio's tasks."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task  # documented, for tasks such as these
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Started:
    """Work that runs already. An event loop with `task_factory` does not wrap it in another task."""

    __slots__ = ()


class EagerTask(Started):
    """A coroutine that runs at once until it first waits, and continues when the result that it waits for is ready.

    To its coroutine it is a task: `asyncio.current_task`, `asyncio.timeout` and task groups work in it. Other code
    cannot await it, but can add a callback for its end.
    """

    __slots__ = ("_awaited", "_cancels", "_done", "_error", "_loop", "_must_cancel", "_on_done", "_work")

    def __init__(self, work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
        """Start the work. No task may be running."""
        self._work = work
        self._loop = loop
        self._awaited: asyncio.Future[Any] | None = None
        self._on_done: Callable[[EagerTask], object] | None = None
        self._error: BaseException | None = None
        self._done = self._must_cancel = False
        self._cancels = 0
        self._step()

    def done(self) -> bool:
        """Return whether the work has ended."""
        return self._done

    def result(self) -> None:
        """Raise the error of the work, if it failed."""
        if self._error is not None:
            raise self._error

    def add_done_callback(self, on_done: Callable[[EagerTask], object], *, context: object = None) -> None:  # noqa: ARG002
        """Call `on_done` when the work ends, or at once if it has ended. There can be only one callback."""
        if self._done:
            on_done(self)
        else:
            self._on_done = on_done

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - as asyncio calls it
        """Raise CancelledError in the work where it waits. Return False if the work has ended already, else True."""
        if self._done:
            return False
        self._cancels += 1
        if self._awaited is None or not self._awaited.cancel():
            self._must_cancel = True
        return True

    def cancelling(self) -> int:
        """Return the number of cancellations that were not undone by `uncancel`."""
        return self._cancels

    def uncancel(self) -> int:
        """Undo one cancellation, and return how many are left."""
        self._cancels = max(0, self._cancels - 1)
        return self._cancels

    def _step(self, _ready: asyncio.Future[Any] | None = None) -> None:
        """Run the work until it waits or ends."""
        loop = self._loop
        self._awaited = None
        _enter_task(loop, self)  # type: ignore[arg-type]  # any object with a task's methods is accepted
        try:
            if self._must_cancel:
                self._must_cancel = False
                awaited = self._work.throw(asyncio.CancelledError())
            else:
                awaited = self._work.send(None)
        except StopIteration:
            self._end(None)
        except BaseException as error:  # noqa: BLE001 - `result` raises it
            self._end(error)
        else:
            if awaited is None:  # as for asyncio.sleep(0)
                loop.call_soon(self._step)
            else:
                awaited._asyncio_future_blocking = False  # noqa: SLF001 - asyncio's sign that a task waits for it
                awaited.add_done_callback(self._step)
                self._awaited = awaited
                if self._must_cancel and awaited.cancel():
                    self._must_cancel = False
        finally:
            _leave_task(loop, self)  # type: ignore[arg-type]

    def _end(self, error: BaseException | None) -> None:
        self._done = True
        self._error = error
        if self._on_done is not None:
            self._on_done(self)


def task_factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:  # noqa: ANN401 - as asyncio has it
    """Create a task as asyncio does, but return `Started` work unchanged."""
    return work if isinstance(work, Started) else asyncio.Task(work, loop=loop, **options)
