"""Remove audit events that were exported: tables `audit_event` and `audit_head`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from skilder_keys.domain.audit_check import PRUNED, Head

if TYPE_CHECKING:
    from datetime import datetime

    from skilder_keys.storage.database import Connection


async def last_before(connection: Connection, workspace_id: str, before: datetime) -> int:
    """Return the last number up to which all events of a workspace are older than a time; 0 if there is none.

    A time is that of the start of a transaction, so it may be older than that of an event with a smaller number.
    """
    number: int = await connection.fetchval(
        """
        SELECT coalesce(
            (SELECT number - 1 FROM audit_event WHERE workspace_id = $1 AND number IS NOT NULL AND at >= $2
             ORDER BY workspace_id, number LIMIT 1),
            (SELECT number FROM audit_head WHERE workspace_id = $1), 0)
        """,
        workspace_id,
        before,
    )
    return number


async def signed_off(connection: Connection, workspace_id: str) -> int:
    """Return the last number that was signed off to be removed; 0 if none was."""
    sql = "SELECT pruned_number FROM audit_head WHERE workspace_id = $1"
    return int(await connection.fetchval(sql, workspace_id) or 0)


async def sign_off(connection: Connection, workspace_id: str, through: Head, details: dict[str, Any]) -> bool:
    """Write the event that lets the chain begin after an event, unless that is done; return whether it was written.

    Call it in a transaction.

    Raises:
        LookupError: The event is not there with this hash.
    """
    head = await connection.fetchrow(
        "SELECT pruned_number FROM audit_head WHERE workspace_id = $1 FOR UPDATE", workspace_id
    )
    if head is None or head["pruned_number"] >= through.number:
        return False
    id_ = await connection.fetchval(
        "SELECT id FROM audit_event WHERE workspace_id = $1 AND number = $2 AND hash = $3",
        workspace_id,
        through.number,
        through.hash,
    )
    if id_ is None:
        raise LookupError
    await connection.execute(
        "UPDATE audit_head SET pruned_number = $2, pruned_id = $3 WHERE workspace_id = $1",
        workspace_id,
        through.number,
        id_,
    )
    await connection.execute(
        """
        INSERT INTO audit_event (action, workspace_id, caller, peer, details)
        VALUES ($1, $2, concat('database:', session_user), coalesce(host(inet_client_addr()), ''), $3)
        """,
        PRUNED,
        workspace_id,
        json.dumps({"through": through.number, "hash": through.hash.hex(), **details}),
    )
    return True


async def remove(connection: Connection, workspace_id: str, limit: int) -> int:
    """Remove the oldest events of those that were signed off, at most `limit`, and return how many.

    Call it in a transaction.
    """
    await connection.execute("SELECT set_config('skilder_keys.pruning', pg_current_xact_id()::text, true)")
    removed: int = await connection.fetchval(
        """
        WITH removed AS (
            DELETE FROM audit_event WHERE id = ANY(ARRAY(
                SELECT id FROM audit_event
                WHERE workspace_id = $1 AND id <= (SELECT pruned_id FROM audit_head WHERE workspace_id = $1)
                ORDER BY workspace_id, id LIMIT $2))
            RETURNING 1
        )
        SELECT count(*) FROM removed
        """,
        workspace_id,
        limit,
    )
    return removed
