"""How Postgres plans the statements of a change, also the checks and cascades of foreign keys that it fires."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skilder_keys.storage.database import Connection


async def prefer_indexes(connection: Connection) -> None:
    """Make plans use indexes until the commit, also in the checks of foreign keys.

    A plan that is made for a small table reads all of it, and the connection keeps that plan while the table grows.
    """
    await connection.execute("SET LOCAL enable_seqscan = off")


async def forget_plans(connection: Connection) -> None:
    """Make the connection plan every statement anew, also the checks and cascades of foreign keys.

    A plan that is made for a small table uses any index that can find the row, even one that reads a whole workspace,
    and the connection keeps that plan while the table grows.
    """
    await connection.execute("DISCARD PLANS")
