"""Rows written directly into Postgres, for what would take long through the service, or what it would never write."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from tests.support.ids import new_key_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    import asyncpg

NO_HASH = "$argon2id$v=19$m=1024,t=1,p=1$none$none"
"""A placeholder for a hash, which no secret verifies."""


@asynccontextmanager
async def without_events(sql: asyncpg.Connection[Any]) -> AsyncIterator[None]:
    """Let many rows be written without an audit event of each, and without looking at what they refer to."""
    await sql.execute("SET session_replication_role = replica")
    try:
        yield
    finally:
        await sql.execute("RESET session_replication_role")


async def insert(sql: asyncpg.Connection[Any], table: str, **values: Any) -> None:
    """Insert a row."""
    columns = ", ".join(values)
    places = ", ".join(f"${index}" for index, _ in enumerate(values, 1))
    await sql.execute(f'INSERT INTO "{table}" ({columns}) VALUES ({places})', *values.values())  # noqa: S608


async def insert_key(sql: asyncpg.Connection[Any], **values: Any) -> UUID:
    """Insert a key, by default a workspace key of `acme`, and return its id."""
    defaults: dict[str, Any] = {
        "id": new_key_id(),
        "type": "workspace",
        "workspace_id": "acme",
        "description": "Slack Support Bot",
        "secret_hash": NO_HASH,
        "limited_to_hats": False,
        "created_by_kind": "caller",
        "created_by_id": "tests",
    }
    row = defaults | values
    await insert(sql, "key", **row)
    id_: UUID = row["id"]
    return id_
