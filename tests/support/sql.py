"""Connections of the tests' own to a database."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Yield a connection as any client other than the service has it."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()
