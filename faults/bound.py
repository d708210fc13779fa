"""A time limit for a run: it always ends, with an error that says what was stuck."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

_Result = TypeVar("_Result")

_END_SECONDS = 120.0
"""The time to end stuck work, with everything that it has started."""
_CANCELLATIONS = 30
"""How often everything is then cancelled again: a library may lose a cancellation, and a loop goes on."""


class StuckError(AssertionError):
    """A run did not end in time."""


async def bounded(
    work: Coroutine[Any, Any, _Result], seconds: float, state: Callable[[], str], end_seconds: float = _END_SECONDS
) -> _Result:
    """Return what the work returns, within a time limit.

    Args:
        work: The work.
        seconds: How long the work may take.
        state: Returns what the work is doing; called before it is cancelled.
        end_seconds: How long its cancellation may take.

    Raises:
        StuckError: It took longer; the error has its state. It was cancelled, and has ended if that is possible.
    """
    others = asyncio.all_tasks()
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=seconds)
        if task.done():
            return task.result()
        words = f"it did not end within {seconds:.0f} s\n{state()}"
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=end_seconds)
            for _ in range(_CANCELLATIONS):
                if task.done():
                    break
                for each in asyncio.all_tasks() - others:
                    each.cancel()
                await asyncio.wait({task}, timeout=1.0)
    if not task.done():
        words += "\nand it could not be ended: its tasks and processes are left"
    elif not task.cancelled() and (error := task.exception()):
        raise StuckError(words) from error
    raise StuckError(words)
