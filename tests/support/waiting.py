"""Waiting for a condition."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg


async def until_running(sql: asyncpg.Connection[Any], count: int) -> None:
    """Wait until the service runs this many statements in the database of `sql`."""
    async with asyncio.timeout(60):
        while count != await sql.fetchval(
            """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'skilder-keys' AND state <> 'idle'
            """
        ):
            await asyncio.sleep(0.01)
            # Inside a transaction Postgres keeps showing the first snapshot of the activity, unless that is cleared.
            await sql.execute("SELECT pg_stat_clear_snapshot()")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(60):
        while not await holds():
            await asyncio.sleep(0.05)
