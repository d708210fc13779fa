"""The random keys that the processes of a fleet share: table `signing_key`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from skilder_keys.storage.database import Connection


async def load(connection: Connection, name: Literal["page_token"]) -> bytes:
    """Return the 32 bytes of a key, which a migration made."""
    return bytes(await connection.fetchval("SELECT value FROM signing_key WHERE name = $1", name))
