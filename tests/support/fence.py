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
CHANGE = "UPDATE skill SET name = name || '.'"
"""A change of every workspace in SQL, that takes nothing away."""


async def epoch(sql: Sql) -> int:
    """Return the current epoch."""
    return int(await sql.fetchval("SELECT epoch FROM fence"))


Touched = tuple[Any, str | None, str | None, str | None]
"""The key, the workspace, the kind of part and the part of a row in `change`."""


async def touched(sql: Sql, epoch_before: int) -> set[Touched]:
    """Return what the one change after an epoch touches; nothing if there is no change."""
    rows = await sql.fetch(
        "SELECT epoch, key_id, workspace_id, part, part_id FROM change WHERE epoch > $1", epoch_before
    )
    now = await epoch(sql)
    assert {row["epoch"] for row in rows} == set(range(epoch_before + 1, now + 1))
    assert now <= epoch_before + 1
    found = [(row["key_id"], row["workspace_id"], row["part"], row["part_id"]) for row in rows]
    assert len(found) == len(set(found)), "each is there once"
    return set(found)


def parts(*names: str, workspace_id: str = "acme") -> set[Touched]:
    """Return touched parts, named as in `member bob`; `member` is all members, and `keys` all keys."""
    split = [name.split(" ", 1) for name in names]
    return {(None, workspace_id, None if kind == "keys" else kind, id_[0] if id_ else None) for kind, *id_ in split}


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


async def warm(of: Process, token: str, source_ip: str = "") -> None:
    """Wait until a token is decided from memory."""

    async def is_kept() -> bool:
        hits = of.memory.hits
        await of.outcome(token, source_ip=source_ip)
        return of.memory.hits > hits

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
