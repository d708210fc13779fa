"""Tasks that run up to their first wait when they are created."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.transports.envoy.eager_task import EagerTask, task_factory

if TYPE_CHECKING:
    from collections.abc import Coroutine


async def start(work: Coroutine[Any, Any, None]) -> EagerTask:
    """Start work from an event loop callback, where no task is current."""
    loop = asyncio.get_running_loop()
    made: asyncio.Future[EagerTask] = loop.create_future()
    loop.call_soon(lambda: made.set_result(EagerTask(work, loop)))
    return await made


async def ended(task: EagerTask) -> None:
    """Wait for the end of the work; return or raise as it does."""
    end: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    task.add_done_callback(lambda _: end.set_result(None))
    async with asyncio.timeout(10):
        await end
    task.result()


async def test_work_that_does_not_wait_is_done_at_once() -> None:
    """Its result is reported to callbacks that are added later."""
    seen: list[object] = []

    async def work() -> None:
        seen.append(asyncio.current_task())

    task = await start(work())
    assert task.done()
    assert seen == [task]
    await ended(task)


async def test_work_that_waits_continues_when_it_can() -> None:
    """It may wait for a future, a turn of the loop or another task, and is the current task throughout."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[str] = loop.create_future()
    seen: list[object] = []

    async def work() -> None:
        seen.extend((await ready, asyncio.current_task()))
        await asyncio.sleep(0)
        seen.extend(await asyncio.gather(asyncio.sleep(0, "one"), asyncio.sleep(0, "two")))
        seen.append(asyncio.current_task())

    task = await start(work())
    assert not task.done()
    ready.set_result("ready")
    await ended(task)
    assert seen == ["ready", task, "one", "two", task]


async def test_an_error_of_a_future_is_raised_where_it_is_awaited() -> None:
    """An error of the work itself is reported at its end, whether it has waited or not."""
    ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        with pytest.raises(LookupError):
            await ready
        raise ValueError("of the work")

    task = await start(work())
    ready.set_exception(LookupError())
    with pytest.raises(ValueError, match="of the work"):
        await ended(task)

    async def at_once() -> None:
        raise ValueError("at once")

    with pytest.raises(ValueError, match="at once"):
        await ended(await start(at_once()))


async def test_cancelling_raises_where_the_task_waits() -> None:
    """The task may continue after that. A task that has ended cannot be cancelled."""
    never: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    cleaned = []

    async def work() -> None:
        try:
            await never
        finally:
            await asyncio.sleep(0)
            cleaned.append(True)

    task = await start(work())
    assert task.cancel()
    assert task.cancelling() == 1
    with pytest.raises(asyncio.CancelledError):
        await ended(task)
    assert never.cancelled()
    assert cleaned == [True]
    assert not task.cancel()


async def test_cancelling_a_running_task_raises_at_its_next_wait() -> None:
    """As when the loop cancels it between two turns."""
    heard = []

    async def by_itself() -> None:
        current = asyncio.current_task()
        assert current is not None
        current.cancel()
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            heard.append("a future")

    await ended(await start(by_itself()))

    async def between_turns() -> None:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            heard.append("a turn")

    loop = asyncio.get_running_loop()
    made: list[EagerTask] = []

    def begin_and_cancel() -> None:
        made.append(EagerTask(between_turns(), loop))
        made[0].cancel()

    loop.call_soon(begin_and_cancel)
    await asyncio.sleep(0)
    await ended(made[0])
    assert heard == ["a future", "a turn"]


async def test_timeouts_and_task_groups_work_in_an_eager_task() -> None:
    """They cancel their own task and then take the cancellation back."""

    async def fails() -> None:
        raise LookupError

    async def in_a_group() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(fails())
            await asyncio.sleep(60)

    async def work() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        with pytest.raises(ExceptionGroup):
            await in_a_group()
        current = asyncio.current_task()
        assert current is not None
        assert current.cancelling() == 0

    await ended(await start(work()))


async def test_an_event_loop_lists_eager_tasks_as_its_tasks() -> None:
    """And still makes asyncio's own tasks from coroutines."""

    async def work() -> None:
        await asyncio.sleep(0)

    task = await start(work())
    loop = asyncio.get_running_loop()
    assert task_factory(loop, task) is task
    own = task_factory(loop, work(), name="own")
    assert isinstance(own, asyncio.Task)
    assert own.get_name() == "own"
    await own
    await ended(task)
