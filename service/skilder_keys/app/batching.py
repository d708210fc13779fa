"""Doing once what many calls want at the same time."""

from __future__ import annotations

import asyncio
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

Item = TypeVar("Item")
Result = TypeVar("Result")


class SingleFlight(Generic[Item, Result]):
    """Lets all who want the same thing at the same time share one making of it.

    Only for what does not change: whoever comes late is given what was begun before.
    """

    def __init__(self) -> None:
        self._tasks: dict[Item, asyncio.Task[Result]] = {}

    async def get(self, item: Item, make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Answers what is made, or raises what making it raises. One who stops waiting does not stop it."""
        task = self._tasks.get(item)
        if task is None:
            task = self._tasks[item] = asyncio.create_task(make())
            task.add_done_callback(partial(self._made, item))
        return await asyncio.shield(task)

    def _made(self, item: Item, task: asyncio.Task[Result]) -> None:
        del self._tasks[item]
        if not task.cancelled():
            task.exception()  # looked at, should nobody wait for it any more


class Batcher(Generic[Item, Result]):
    """Gathers items while a query is under way, and makes the next query of all of them.

    A item is only ever answered by a query that was sent after it came. So whoever asks is told nothing older than the
    question.
    """

    def __init__(
        self,
        query: Callable[[list[Item]], Awaitable[Mapping[Item, Result]]],
        *,
        size: int = 500,
        concurrency: int = 1,
    ) -> None:
        """Takes the query, the most items in one, and the most queries under way."""
        self._query = query
        self._size = size
        self._at_once = concurrency
        self._waiting: dict[Item, asyncio.Future[Result | None]] = {}
        self._under_way = 0
        self._tasks: set[asyncio.Task[None]] = set()  # held, as the event loop does not hold them

    async def get(self, item: Item) -> Result | None:
        """Answers what the query finds for a item, or None; raises what the query raises.

        One who stops waiting does not stop the query.
        """
        found = self._waiting.get(item)
        if found is None:
            found = self._waiting[item] = asyncio.get_running_loop().create_future()
            if self._under_way < self._at_once:
                self._under_way += 1
                task = asyncio.create_task(self._run())
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(found)

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch = {item: self._waiting.pop(item) for item in list(islice(self._waiting, self._size))}
                await self._answer(batch)
        finally:
            self._under_way -= 1

    async def _answer(self, batch: dict[Item, asyncio.Future[Result | None]]) -> None:
        try:
            results = await self._query(list(batch))
        except Exception as error:  # noqa: BLE001 - it is raised by `get`
            for found in batch.values():
                found.set_exception(error)
                found.exception()  # looked at, should nobody wait for it any more
        except asyncio.CancelledError:
            for found in batch.values():
                found.cancel()
            raise
        else:
            for item, found in batch.items():
                found.set_result(results.get(item))
