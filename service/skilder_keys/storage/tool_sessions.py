"""Sessions of commands that read the database themselves, for as long as they need."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from skilder_keys.storage.database import translated_errors
from skilder_keys.storage.migrations import require_schema
from skilder_keys.storage.sessions import Connector, transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from skilder_keys.storage.database import Connection

_CONNECT_SECONDS = 10
# They read for as long as it takes, but wait for no lock for long.
_LIMITS = {"statement_timeout": "0", "lock_timeout": "5s", "idle_in_transaction_session_timeout": "0"}


@asynccontextmanager
async def session(url: str, schema: str, name: str) -> AsyncIterator[Connection]:
    """Open a connection, and check that the tables are those of this version or of a newer one.

    Raises:
        DatabaseUrlError: The URL cannot be used.
        SchemaOutdatedError: The database lacks migrations.
        UnavailableError: The database cannot be reached, or cannot be used.
    """
    connector = Connector(url, schema)
    with translated_errors():
        limit = max(_CONNECT_SECONDS, connector.total_connect_timeout)
        connection = await connector.connect(name, limit, settings=_LIMITS)
        try:
            await require_schema(connection, schema)
            yield connection
        finally:
            await connection.close()


@asynccontextmanager
async def snapshot(url: str, schema: str, name: str) -> AsyncIterator[Connection]:
    """Open a connection as `session` does, inside a read-only transaction that sees one state."""
    async with session(url, schema, name) as connection, transaction(connection, "repeatable_read", readonly=True):
        yield connection
