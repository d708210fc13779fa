"""Waiting for what Postgres does."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg


async def until_running(sql: asyncpg.Connection[Any], count: int) -> None:
    """Return once the service has so many statements under way in the database of `sql`."""
    async with asyncio.timeout(60):
        while count != await sql.fetchval(
            """
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'skilder-keys' AND state <> 'idle'
            """
        ):
            await asyncio.sleep(0.01)
            # Inside a transaction Postgres shows the activity it saw first, again and again, unless told otherwise.
            await sql.execute("SELECT pg_stat_clear_snapshot()")
