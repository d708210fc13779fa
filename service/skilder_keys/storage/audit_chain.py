"""Read the whole audit trail: tables `audit_event` and `audit_head`."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from skilder_keys.domain.audit_chain import ChainedEvent, OlderEvent
from skilder_keys.domain.audit_check import Head
from skilder_keys.storage.audit_events import BY_INDEX

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from skilder_keys.storage.database import Connection

_BATCH = 2000
_AT = """to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')"""
_CHAINED = f"""
SELECT workspace_id, id, number, {_AT}, action, key_id::text, caller, actor, peer, details::text,
       salt, private_digest, hash
FROM audit_event WHERE workspace_id = $1 AND number > $2 ORDER BY workspace_id, number
"""  # noqa: S608 - a constant
_OLDER = f"""
SELECT workspace_id, id, {_AT}, action, key_id::text, caller, actor, peer, details::text, private_digest
FROM audit_event WHERE workspace_id = $1 AND number IS NULL ORDER BY workspace_id, id
"""  # noqa: S608 - a constant


async def heads(connection: Connection) -> dict[str, Head | None]:
    """Return the head on record of each workspace that has events or a head, in order of their ids."""
    rows = await connection.fetch(
        """
        WITH RECURSIVE with_events AS (
            (SELECT workspace_id FROM audit_event ORDER BY workspace_id LIMIT 1)
            UNION ALL
            SELECT (SELECT audit_event.workspace_id FROM audit_event
                    WHERE audit_event.workspace_id > with_events.workspace_id ORDER BY workspace_id LIMIT 1)
            FROM with_events WHERE workspace_id IS NOT NULL
        )
        SELECT workspace_id, number, hash
        FROM (SELECT workspace_id FROM with_events WHERE workspace_id IS NOT NULL) AS found
        FULL JOIN audit_head USING (workspace_id)
        ORDER BY workspace_id
        """
    )
    return {row["workspace_id"]: None if row["number"] is None else Head(row["number"], row["hash"]) for row in rows}


async def chained(connection: Connection, workspace_id: str, after: int = 0) -> AsyncIterator[list[ChainedEvent]]:
    """Yield the events of a workspace that come after a number, in lists and in order. Call it in a transaction."""
    await connection.execute(BY_INDEX)
    cursor = await connection.cursor(_CHAINED, workspace_id, after)
    # Postgres reads the next ones while the caller looks at these.
    coming = asyncio.create_task(cursor.fetch(_BATCH))
    try:
        while rows := await coming:
            coming = asyncio.create_task(cursor.fetch(_BATCH))
            await asyncio.sleep(0)  # it is sent now
            yield [ChainedEvent(*row) for row in rows]
    finally:
        coming.cancel()
        await asyncio.gather(coming, return_exceptions=True)


async def older(connection: Connection, workspace_id: str) -> AsyncIterator[list[OlderEvent]]:
    """Yield the events of a workspace from before the chain, in lists and in order. Call it in a transaction."""
    await connection.execute(BY_INDEX)
    cursor = await connection.cursor(_OLDER, workspace_id)
    while rows := await cursor.fetch(_BATCH):
        yield [OlderEvent(*row) for row in rows]
