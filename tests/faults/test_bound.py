"""A bounded run always ends."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from faults.bound import StuckError, bounded


async def test_work_that_ends_is_as_without_a_bound() -> None:
    """With its result or its error."""

    async def fails() -> None:
        raise LookupError("a fault")

    assert await bounded(asyncio.sleep(0, "done"), 60, lambda: "") == "done"
    with pytest.raises(LookupError, match="a fault"):
        await bounded(fails(), 60, lambda: "")


async def test_stuck_work_is_cancelled_with_its_state_in_the_error() -> None:
    """The state is from before the cancellation, and clean-up is waited for."""
    state = ["it waits"]

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.01)
            state[0] = "it has ended"

    with pytest.raises(StuckError, match=r"did not end within 0 s\nit waits"):
        await bounded(waits(), 0.01, lambda: state[0])
    assert state == ["it has ended"]


async def test_a_lost_cancellation_is_repeated() -> None:
    """For the tasks of the work as well, which wait for each other."""
    lost = []

    async def loses_one() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        lost.append(True)
        await asyncio.Event().wait()

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(loses_one())

    with pytest.raises(StuckError):
        await bounded(work(), 0.01, lambda: "", end_seconds=0.01)
    assert lost == [True]
