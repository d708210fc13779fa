"""The audit trail: table `audit_event`. Its rows never change."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.domain.access import Origin
    from skilder_keys.domain.ids import KeyId, WorkspaceId
    from skilder_keys.domain.principal import Principal
    from skilder_keys.storage.database import Connection

AuditAction = Literal[
    "key.issued",
    "key.renewed",
    "key.rotated",
    "key.revoked",
    "key.updated",
    "key.suspended",
    "key.resumed",
    "workspace.applied",
    "workspace.updated",
    "workspace.deleted",
]


async def record(
    connection: Connection,
    action: AuditAction,
    origin: Origin,
    workspace_id: WorkspaceId,
    *,
    key_id: KeyId | None = None,
    details: Mapping[str, object] | str,
) -> None:
    """Write an event. Call it in the transaction of the change, so that both are committed or neither is.

    Args:
        connection: Inside that transaction.
        action: What was done.
        origin: Who did it, on whose behalf, and from where.
        workspace_id: The workspace in which it was done.
        key_id: The key that was changed, if any.
        details: What else there is to know, as JSON values or as JSON text. Never a token or a hash.
    """
    await connection.execute(
        """
        INSERT INTO audit_event (action, workspace_id, key_id, caller, actor, peer, details)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        """,
        action,
        workspace_id,
        key_id,
        origin.caller.name,
        origin.actor,
        origin.peer,
        details if isinstance(details, str) else json.dumps(details),
    )


async def record_each(
    connection: Connection,
    action: AuditAction,
    origin: Origin,
    workspace_id: WorkspaceId,
    details: Mapping[KeyId, Mapping[str, object]],
) -> None:
    """Write an event for each of several keys, as `record` does.

    Args:
        connection: Inside the transaction of the change.
        action: What was done.
        origin: Who did it, on whose behalf, and from where.
        workspace_id: The workspace in which it was done.
        details: What else there is to know, by key.
    """
    await connection.execute(
        """
        INSERT INTO audit_event (action, workspace_id, key_id, caller, actor, peer, details)
        SELECT $1, $2, key_id, $3, $4, $5, details FROM unnest($6::uuid[], $7::jsonb[]) AS changed (key_id, details)
        """,
        action,
        workspace_id,
        origin.caller.name,
        origin.actor,
        origin.peer,
        list(details),
        [json.dumps(each) for each in details.values()],
    )


async def record_by_policy(
    connection: Connection,
    action: AuditAction,
    workspace_id: WorkspaceId,
    by: Principal,
    details: Mapping[KeyId, str],
) -> None:
    """Write an event for each of some keys, which the service has changed by itself.

    Args:
        connection: Inside the transaction of the change.
        action: What was done.
        workspace_id: The workspace of the keys.
        by: Who did it. In place of a caller the event has the kind and the id: no caller's name has a colon.
        details: By key, what else there is to know, as JSON text.
    """
    await connection.execute(
        """
        INSERT INTO audit_event (action, workspace_id, key_id, caller, peer, details)
        SELECT $1, $2, event.key_id, $3, '', event.details::jsonb
        FROM unnest($4::uuid[], $5::text[]) AS event (key_id, details)
        """,
        action,
        workspace_id,
        f"{by.kind.value}:{by.id}",
        list(details),
        list(details.values()),
    )
