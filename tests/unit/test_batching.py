"""Batching: which query answers which item, and what an error or a cancelled caller does to the other items."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from skilder_keys.app.batching import Batcher

if TYPE_CHECKING:
    from collections.abc import Mapping


class Query:
    """A query that waits until the test releases it. It returns each item in capitals, and nothing for `none`."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self._waiting: list[asyncio.Future[None]] = []

    async def __call__(self, items: list[str]) -> Mapping[str, str]:
        """Wait for the release, then return."""
        self.sent.append(items)
        released = asyncio.get_running_loop().create_future()
        self._waiting.append(released)
        await released
        return {item: item.upper() for item in items if item != "none"}

    def let_go(self, index: int) -> None:
        """Release a query."""
        self._waiting[index].set_result(None)

    def fail(self, index: int, error: BaseException) -> None:
        """Make a query fail."""
        self._waiting[index].set_exception(error)


async def turns() -> None:
    """Run the event loop until nothing is ready any more."""
    for _ in range(20):
        await asyncio.sleep(0)


def asked(batches: Batcher[str, str], *items: str) -> list[asyncio.Task[str | None]]:
    """Ask for several items at the same time."""
    return [asyncio.create_task(batches.get(item)) for item in items]


async def test_items_that_come_while_a_query_runs_share_the_next_query() -> None:
    """The next query holds all of them, and each caller gets its own result."""
    query = Query()
    batches = Batcher(query, concurrency=1)
    first = asked(batches, "a")
    await turns()
    rest = asked(batches, "b", "c", "none", "b")
    await turns()
    assert query.sent == [["a"]]
    query.let_go(0)
    assert await asyncio.gather(*first) == ["A"]
    await turns()
    assert query.sent == [["a"], ["b", "c", "none"]]
    query.let_go(1)
    assert await asyncio.gather(*rest) == ["B", "C", None, "B"]


async def test_items_that_come_soon_after_a_query_share_the_next_one() -> None:
    """The first query is sent at once. The next one lingers, and takes also what comes in the meantime."""
    query = Query()
    batches = Batcher(query, linger=0.05)
    first = asked(batches, "a")
    await turns()
    assert query.sent == [["a"]]
    query.let_go(0)
    await asyncio.gather(*first)
    rest = asked(batches, "b")
    await turns()
    assert query.sent == [["a"]]
    rest += asked(batches, "c")
    async with asyncio.timeout(60):
        while len(query.sent) < 2:
            await asyncio.sleep(0.001)
    assert query.sent[1:] == [["b", "c"]]
    query.let_go(1)
    assert await asyncio.gather(*rest) == ["B", "C"]


async def test_an_item_never_joins_a_query_that_was_already_sent() -> None:
    """The same item is looked up again: the result of the running query may be older than the request."""
    query = Query()
    batches = Batcher(query, concurrency=2)
    first = asked(batches, "a")
    await turns()
    second = asked(batches, "a")
    await turns()
    assert query.sent == [["a"], ["a"]]
    third = asked(batches, "a", "a")
    await turns()
    query.let_go(0)
    await turns()
    assert [task.done() for task in (*first, *second, *third)] == [True, False, False, False]
    assert query.sent == [["a"], ["a"], ["a"]]
    query.let_go(1)
    query.let_go(2)
    assert await asyncio.gather(*second, *third) == ["A", "A", "A"]


async def test_items_of_the_same_moment_share_the_first_query() -> None:
    """A query is sent on the next turn of the event loop, with all items that came before."""
    query = Query()
    batches = Batcher(query, concurrency=1)
    tasks = asked(batches, "a", "b", "a")
    await turns()
    assert query.sent == [["a", "b"]]
    query.let_go(0)
    assert await asyncio.gather(*tasks) == ["A", "B", "A"]


@pytest.mark.parametrize("at_once", [1, 2, 3])
async def test_the_number_of_running_queries_is_bounded(at_once: int) -> None:
    """The bound holds however many items come."""
    query = Query()
    batches = Batcher(query, concurrency=at_once)
    tasks = []
    for index in range(10):
        tasks += asked(batches, f"w{index}")
        await turns()
    assert len(query.sent) == at_once
    query.let_go(0)
    await turns()
    assert len(query.sent) == at_once + 1
    assert sum(map(len, query.sent)) == 10
    for index in range(1, at_once + 1):
        query.let_go(index)
    assert await asyncio.gather(*tasks) == [f"W{index}" for index in range(10)]


async def test_a_query_holds_no_more_than_its_size() -> None:
    """Items above the batch size wait for the next query, in the order they came."""
    query = Query()
    batches = Batcher(query, size=3, concurrency=1)
    tasks = asked(batches, *"abcdefgh")
    for index in range(3):
        await turns()
        query.let_go(index)
    assert await asyncio.gather(*tasks) == list("ABCDEFGH")
    assert query.sent == [["a", "b", "c"], ["d", "e", "f"], ["g", "h"]]


async def test_an_error_reaches_every_item_of_its_batch_and_no_other() -> None:
    """The next query runs as if nothing had happened."""
    query = Query()
    batches = Batcher(query, concurrency=1)
    failed = asked(batches, "a", "b", "a")
    await turns()
    later = asked(batches, "a", "c")
    query.fail(0, OSError("gone"))
    found = await asyncio.gather(*failed, return_exceptions=True)
    assert [repr(each) for each in found] == ["OSError('gone')"] * 3
    await turns()
    query.let_go(1)
    assert await asyncio.gather(*later) == ["A", "C"]


async def test_a_cancelled_caller_does_not_affect_the_others() -> None:
    """It makes no difference whether its query has been sent, or whether any caller is left."""
    query = Query()
    batches = Batcher(query, concurrency=1)
    first, same = asked(batches, "a", "a")
    await turns()
    waiting, also, gone = asked(batches, "b", "b", "c")
    await turns()
    for task in (first, waiting, gone):
        task.cancel()
    await turns()
    query.let_go(0)
    assert await same == "A"
    await turns()
    query.let_go(1)
    assert await also == "B"
    assert [task.cancelled() for task in (first, waiting, gone)] == [True, True, True]
    (alone,) = asked(batches, "d")
    await turns()
    alone.cancel()
    query.fail(2, OSError("nobody waits for this"))
    await turns()
    (last,) = asked(batches, "e")
    await turns()
    query.let_go(3)
    assert await last == "E"


@pytest.mark.parametrize("at_once", [1, 2])
@pytest.mark.parametrize("turn", range(6))
async def test_an_item_that_comes_as_the_last_query_ends_is_looked_up(turn: int, at_once: int) -> None:
    """On whichever turn of the event loop it comes, it does not wait for another item."""
    query = Query()
    batches = Batcher(query, concurrency=at_once)
    first = []
    for index in range(at_once):
        first += asked(batches, f"w{index}")
        await turns()

    async def late() -> str | None:
        for _ in range(turn):
            await asyncio.sleep(0)
        return await batches.get("late")

    task = asyncio.create_task(late())
    for index in range(at_once):
        query.let_go(index)
    await turns()
    assert "late" in [item for batch in query.sent for item in batch]
    query.let_go(at_once)
    assert await task == "LATE"


async def test_a_query_that_is_cancelled_leaves_nobody_waiting() -> None:
    """A driver that cancels a query does not leave its callers hanging."""
    query = Query()
    batches = Batcher(query, concurrency=1)
    tasks = asked(batches, "a")
    await turns()
    query.fail(0, asyncio.CancelledError())
    await turns()
    assert tasks[0].done()
    later = asked(batches, "b")
    await turns()
    query.let_go(1)
    assert await asyncio.gather(*later) == ["B"]
