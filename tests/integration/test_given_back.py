"""A connection is given back or closed, however the call that used it ends."""

from __future__ import annotations

import asyncio
import gc
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from skilder_keys.storage.database import Database
    from tests.support.proxy import Proxy


async def test_nobody_hears_of_a_connection_that_a_cancelled_call_left(far: Database, proxy: Proxy) -> None:
    """A call is cancelled twice on a frozen network: by its deadline, and by its caller, who hangs up meanwhile."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, fault: faults.append(fault))
    try:

        async def use() -> None:
            async with far.connection() as connection:
                started.set()
                await connection.fetchval("SELECT pg_sleep(60)")

        started = asyncio.Event()
        call = asyncio.create_task(use())
        await started.wait()
        await asyncio.sleep(0)
        proxy.stall()
        call.cancel()
        await asyncio.sleep(0)
        assert not call.done()
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        async with asyncio.timeout(60):
            while far.pool_use["used"]:
                await asyncio.sleep(0.01)
        del call
        gc.collect()
        await asyncio.sleep(0)
        assert not faults
    finally:
        asyncio.get_running_loop().set_exception_handler(None)
