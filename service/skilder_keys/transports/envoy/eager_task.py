"""Tasks that begin at once, without a round through the event loop, and cost about half of what asyncio's do."""

from __future__ import annotations

import asyncio
from asyncio.tasks import _enter_task, _leave_task  # documented, for tasks such as these
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


class Started:
    """What runs already, and is to be left as it is by a loop that is asked to make a task of it."""

    __slots__ = ()


class EagerTask(Started):
    """A coroutine that runs in an event loop, as far as it gets at once; the rest when what it waits for is there.

    It is a task as far as its coroutine is concerned: `asyncio.current_task`, `asyncio.timeout` and task groups work in
    it. Others cannot await it; they are told of its end.
    """

    __slots__ = ("_cancels", "_done", "_error", "_loop", "_must_cancel", "_on_done", "_waits_for", "_work")

    def __init__(self, work: Coroutine[Any, Any, None], loop: asyncio.AbstractEventLoop) -> None:
        """Begins the work; no task may be running at this moment."""
        self._work = work
        self._loop = loop
        self._waits_for: asyncio.Future[Any] | None = None
        self._on_done: Callable[[EagerTask], object] | None = None
        self._error: BaseException | None = None
        self._done = self._must_cancel = False
        self._cancels = 0
        self._step()

    def done(self) -> bool:
        """Tells whether the work has ended."""
        return self._done

    def result(self) -> None:
        """Raises what the work has raised."""
        if self._error is not None:
            raise self._error

    def add_done_callback(self, on_done: Callable[[EagerTask], object], *, context: object = None) -> None:  # noqa: ARG002
        """Has this called when the work has ended: at once, where it has. There can be one."""
        if self._done:
            on_done(self)
        else:
            self._on_done = on_done

    def cancel(self, msg: object = None) -> bool:  # noqa: ARG002 - as asyncio calls it
        """Has the work raise CancelledError where it waits; tells whether it had not ended."""
        if self._done:
            return False
        self._cancels += 1
        if self._waits_for is None or not self._waits_for.cancel():
            self._must_cancel = True
        return True

    def cancelling(self) -> int:
        """Answers how many cancellations there were that were not taken back."""
        return self._cancels

    def uncancel(self) -> int:
        """Takes back one cancellation, and answers how many are left."""
        self._cancels = max(0, self._cancels - 1)
        return self._cancels

    def _step(self, _ready: asyncio.Future[Any] | None = None) -> None:
        """Runs the work until it waits, or ends."""
        loop = self._loop
        self._waits_for = None
        _enter_task(loop, self)  # type: ignore[arg-type]  # any object with a task's methods will do
        try:
            if self._must_cancel:
                self._must_cancel = False
                waits_for = self._work.throw(asyncio.CancelledError())
            else:
                waits_for = self._work.send(None)
        except StopIteration:
            self._end(None)
        except BaseException as error:  # noqa: BLE001 - it is told to whom it concerns
            self._end(error)
        else:
            if waits_for is None:  # as asyncio.sleep(0) does
                loop.call_soon(self._step)
            else:
                waits_for._asyncio_future_blocking = False  # noqa: SLF001 - it knows by that that a task has it
                waits_for.add_done_callback(self._step)
                self._waits_for = waits_for
                if self._must_cancel and waits_for.cancel():
                    self._must_cancel = False
        finally:
            _leave_task(loop, self)  # type: ignore[arg-type]

    def _end(self, error: BaseException | None) -> None:
        self._done = True
        self._error = error
        if self._on_done is not None:
            self._on_done(self)


def task_factory(loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> Any:  # noqa: ANN401 - as asyncio has it
    """Makes tasks as asyncio does, and lets those pass that run already."""
    return work if isinstance(work, Started) else asyncio.Task(work, loop=loop, **options)
