"""How the benchmarks measure what holds an event loop."""

from __future__ import annotations

import asyncio
import time

from bench.held import watched


async def test_the_longest_callback_counts_by_its_cpu_time() -> None:
    """What waits holds nothing up, and what runs in a thread is not the loop's."""

    def busy(seconds: float) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    with watched() as held:
        await asyncio.sleep(0.02)
        await asyncio.to_thread(busy, 0.02)
        assert held.seconds < 0.02
        asyncio.get_running_loop().call_soon(busy, 0.02)
        await asyncio.sleep(0)
    assert held.seconds >= 0.02
