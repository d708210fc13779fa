"""Do work once that many calls need at the same time."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping

Item = TypeVar("Item")
Result = TypeVar("Result")


def retrieve(task: asyncio.Task[Any]) -> None:
    """Mark the error of an ended task as retrieved, in case no caller waits for it any more."""
    if not task.cancelled():
        task.exception()


class SingleFlight(Generic[Item, Result]):
    """Shares one running task among all who need the same result.

    Use it only for results that do not change: a late caller gets the result of a task that started earlier.
    """

    def __init__(self) -> None:
        self._tasks: dict[Item, asyncio.Task[Result]] = {}

    async def get(self, item: Item, make: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
        """Return what `make` returns, or raise what it raises. The task goes on if a caller is cancelled."""
        task = self._tasks.get(item)
        if task is None:
            task = self._tasks[item] = asyncio.create_task(make())
            task.add_done_callback(partial(self._finish, item))
        return await asyncio.shield(task)

    def _finish(self, item: Item, task: asyncio.Task[Result]) -> None:
        del self._tasks[item]
        retrieve(task)


class Shared(Generic[Result]):
    """A result that several calls wait for.

    Each call waits by a future of its own, so a call that is cancelled leaves the others alone.
    """

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[Result]] = []

    @property
    def wanted(self) -> bool:
        """Whether a call still waits for it."""
        return not all(each.done() for each in self._waiting)

    def wait(self) -> asyncio.Future[Result]:
        """Return a future of the result, for one call."""
        waiting: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.append(waiting)
        return waiting

    def set_result(self, result: Result) -> None:
        """Give all calls the result."""
        for each in self._waiting:
            if not each.done():
                each.set_result(result)

    def fail(self, error: Exception | asyncio.CancelledError) -> None:
        """Make all calls fail, or cancel them."""
        for each in self._waiting:
            if isinstance(error, asyncio.CancelledError):
                each.cancel()
            elif not each.done():
                each.set_exception(error)


async def reported(begin: Callable[[Callable[[Result | Exception | asyncio.CancelledError], None]], None]) -> Result:
    """Begin something that reports its result or error later; return the result, or raise the error."""
    ended: asyncio.Future[Result | Exception | asyncio.CancelledError] = asyncio.get_running_loop().create_future()
    begin(lambda result: None if ended.done() else ended.set_result(result))
    result = await ended
    if isinstance(result, (Exception, asyncio.CancelledError)):
        raise result
    return result


class Batches(Generic[Item]):
    """Collects items while a batch of them is handled, and then has the next ones handled together."""

    def __init__(
        self,
        handle: Callable[[list[Item]], Awaitable[None]],
        *,
        size: int = 500,
        concurrency: int = 1,
        linger: float = 0.0,
    ) -> None:
        """Make it.

        Args:
            handle: Handles some items. It raises nothing but CancelledError.
            size: The most items in a batch.
            concurrency: The most batches at the same time.
            linger: The seconds to wait for more items, if the last batch ended less than that ago.
        """
        self._handle = handle
        self._size = size
        self._concurrency = concurrency
        self._linger = linger
        self._ended = -math.inf
        self._waiting: deque[Item] = deque()
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()  # kept here, because the event loop has only weak references

    def add(self, item: Item) -> None:
        """Add an item to the next batch."""
        self._waiting.append(item)
        if self._running < self._concurrency:
            self._running += 1
            task = asyncio.create_task(self._run())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self) -> None:
        try:
            while self._waiting:
                if time.monotonic() < self._ended + self._linger:
                    await asyncio.sleep(self._linger)
                await self._handle([self._waiting.popleft() for _ in range(min(self._size, len(self._waiting)))])
                self._ended = time.monotonic()
        finally:
            self._running -= 1


class Batcher(Generic[Item, Result]):
    """Collects items while a query runs, and sends the next query for all of them.

    The result for an item always comes from a query that was sent after the call of `get`, so it is never older than
    that call.
    """

    def __init__(
        self,
        query: Callable[[list[Item]], Awaitable[Mapping[Item, Result]]],
        *,
        size: int = 500,
        concurrency: int = 1,
        linger: float = 0.0,
    ) -> None:
        """Make a batcher.

        Args:
            query: Returns the results of some items; an item without a result is left out.
            size: The most items in a query.
            concurrency: The most queries at the same time.
            linger: The seconds to wait for more items, if the last query ended less than that ago.
        """
        self._query = query
        self._batches = Batches(self._send, size=size, concurrency=concurrency, linger=linger)
        self._waiting: dict[Item, Shared[Result | None]] = {}

    async def get(self, item: Item) -> Result | None:
        """Return the result for an item, or None; raise what the query raises.

        The query goes on if a caller is cancelled.
        """
        result = self._waiting.get(item)
        if result is None:
            result = self._waiting[item] = Shared()
            self._batches.add(item)
        return await result.wait()

    async def _send(self, items: list[Item]) -> None:
        batch = {item: self._waiting.pop(item) for item in items}
        try:
            results = await self._query(items)
        except (Exception, asyncio.CancelledError) as error:
            for result in batch.values():
                result.fail(error)
            if isinstance(error, asyncio.CancelledError):
                raise
        else:
            for item, result in batch.items():
                result.set_result(results.get(item))
