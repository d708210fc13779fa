"""Purge keys that have ended long ago, with what is personal in their audit events."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.ids import KeyId
from skilder_keys.storage.plans import prefer_indexes

if TYPE_CHECKING:
    from datetime import timedelta

    from skilder_keys.storage.database import Connection

_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended(concat('purge of keys of ', current_schema()), 0))"


async def try_lock(connection: Connection) -> bool:
    """Let no other process purge keys until the transaction ends; return False if one does so now."""
    return bool(await connection.fetchval(_LOCK))


async def purge(connection: Connection, age: timedelta, limit: int) -> list[KeyId]:
    """Purge keys that were revoked or have expired longer ago than an age, and return their ids.

    All generations of a key go together, after the last of them has ended.

    Args:
        connection: Inside a transaction.
        age: At least a day.
        limit: The most keys that are looked up; their other generations come in addition.
    """
    await prefer_indexes(connection)
    rows = await connection.fetch("SELECT purged_id FROM purge_keys($1, $2)", age, limit)
    return [KeyId(row["purged_id"]) for row in rows]
