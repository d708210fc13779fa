"""Waiting for conditions, for what Postgres does, and for calls that race."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from tests.support.service import Refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg


async def until_running(sql: asyncpg.Connection[Any], count: int, condition: str = "state <> 'idle'") -> None:
    """Wait until the service runs this many statements in the database of `sql`."""
    async with asyncio.timeout(60):
        while count != await sql.fetchval(
            f"""
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND application_name = 'skilder-keys' AND {condition}
            """  # noqa: S608 - a constant
        ):
            await asyncio.sleep(0.01)
            # Inside a transaction Postgres keeps showing the first snapshot of the activity, unless that is cleared.
            await sql.execute("SELECT pg_stat_clear_snapshot()")


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(60):
        while not await holds():
            await asyncio.sleep(0.05)


async def until_blocked(sql: asyncpg.Connection[Any], count: int) -> None:
    """Wait until this many statements of the service wait for locks in the database of `sql`."""
    await until_running(sql, count, "wait_event_type = 'Lock'")


async def outcome(asked: Any) -> Any:
    """Await a call and return its response or its refusal."""
    try:
        return await asked
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)


async def outcome_after(steps: int, asked: Any) -> Any:
    """Return the outcome of a call that starts some turns of the event loop later, so that rounds differ."""
    for _ in range(steps):
        await asyncio.sleep(0)
    return await outcome(asked)
