"""Workers that start together listen together."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest

from skilder_keys.supervisor.opening import Opening
from tests.support.memory import turns


async def test_the_first_that_is_prepared_waits_for_the_others() -> None:
    """All go on at the same moment. One that fails to start, or starts later, holds up nobody."""
    opening = Opening(most_seconds=60)
    with ExitStack() as stack:
        first, second = [stack.enter_context(opening.starting()) for _ in range(2)]
        waiting = asyncio.create_task(first())
        await turns()
        assert not waiting.done()
        with pytest.raises(OSError, match="no port"), opening.starting():
            raise OSError("no port")
        await turns()
        assert not waiting.done()
        await second()
        await waiting
        with opening.starting() as third:
            await third()


async def test_a_worker_alone_waits_for_nobody() -> None:
    """Nor does one whose siblings do not come to an end."""
    opening = Opening(most_seconds=0.05)
    with opening.starting() as alone:
        await alone()
    with opening.starting(), opening.starting() as hurried:
        async with asyncio.timeout(60):
            await hurried()
