"""Freeing very much memory without holding the event loop up."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_tasks: set[asyncio.Task[None]] = set()  # held, as the event loop does not hold them


def release(held: MutableMapping[Any, Any], chunk: int) -> None:
    """Empty a mapping that nobody uses any more, of so many items at a time, and let other work be done in between.

    Freeing 100,000 keys takes 100 ms, however it is done.
    """
    if len(held) > chunk:
        task = asyncio.get_running_loop().create_task(_release(held, chunk))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)


async def _release(held: MutableMapping[Any, Any], chunk: int) -> None:
    while held:
        for _ in range(min(chunk, len(held))):
            held.popitem()
        await asyncio.sleep(0)
