"""How tests look at the fence, and change it, directly in Postgres."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

from tests.support.rows import insert

if TYPE_CHECKING:
    import asyncpg

    from skilder_keys.domain.keys import Key
    from tests.support.fleet import Process

    Sql = asyncpg.Connection[Any]

LONG = 60.0
"""Seconds of a lease that no test waits for."""


async def epoch(sql: Sql) -> int:
    """Return the current epoch."""
    return int(await sql.fetchval("SELECT epoch FROM fence"))


async def readers(sql: Sql) -> set[UUID]:
    """Return the ids of all readers."""
    return {row["id"] for row in await sql.fetch("SELECT id FROM reader")}


async def reader_id(sql: Sql) -> UUID:
    """Return the id of the one reader."""
    (found,) = await readers(sql)
    return found


async def until_true(sql: Sql, condition: str, *values: object) -> None:
    """Wait until a query returns true."""
    async with asyncio.timeout(60):
        while not await sql.fetchval(condition, *values):
            await asyncio.sleep(0.005)


async def insert_laggard(sql: Sql, lease_seconds: float) -> UUID:
    """Insert the reader row of a process that has applied nothing and never will."""
    id_ = uuid4()
    await insert(sql, "reader", id=id_, epoch=-1, lease_seconds=lease_seconds)
    return id_


async def warm(of: Process, token: str) -> None:
    """Wait until a token is decided from memory."""

    async def is_kept() -> bool:
        hits = of.cache.hits
        await of.outcome(token)
        return of.cache.hits > hits

    async with asyncio.timeout(60):
        while not await is_kept():
            await asyncio.sleep(0.002)


async def revoke_by_hand(sql: Sql, key: Key) -> None:
    """Revoke a key in SQL, as an operator with psql does."""
    await sql.execute(
        """
        UPDATE key SET revoked_at = now(), revoked_by_kind = 'user', revoked_by_id = 'me', revoke_reason = ''
        WHERE id = $1
        """,
        key.id,
    )
