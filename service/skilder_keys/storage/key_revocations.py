"""Revoke the keys that match a filter: tables `key` and `audit_event`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.field_changes import revocation_changes
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.key_filter import KeyOrder
from skilder_keys.storage import audit
from skilder_keys.storage.key_orders import ORDERS
from skilder_keys.storage.key_search import search_for

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skilder_keys.domain.access import Origin
    from skilder_keys.domain.key_filter import KeyFilter
    from skilder_keys.storage.database import Connection


async def find(connection: Connection, key_filter: KeyFilter, *, workspace_deleted: bool, limit: int) -> list[KeyId]:
    """Return the ids of keys that match a filter, those that were not used for longest first.

    Args:
        connection: A snapshot.
        key_filter: The filter.
        workspace_deleted: Whether the workspace of the filter was deleted.
        limit: The most keys.
    """
    kind = KeyOrder.LEAST_RECENTLY_USED
    search = await search_for(connection, key_filter, workspace_deleted=workspace_deleted, order=kind)
    if search.is_empty:
        return []
    order, most = ORDERS[kind], search.parameter(limit)
    found = search.select(f"key.id, {order.places}", search.end(order, most))
    await connection.execute(search.settings)
    rows = await connection.fetch(
        f"SELECT id FROM ({found}) AS found {order.by(most, places=True)}",  # noqa: S608 - no value stands in it
        *search.values,
    )
    return [KeyId(row["id"]) for row in rows]


async def revoke(
    connection: Connection,
    key_ids: Sequence[KeyId],
    key_filter: KeyFilter,
    *,
    workspace_deleted: bool,
    reason: str,
    origin: Origin,
) -> list[KeyId]:
    """Revoke those of some keys that still match a filter and are not revoked; return their ids.

    Call it in a transaction of its own. The keys stay locked until it ends, and so does the fence at its end.
    """
    search = await search_for(connection, key_filter, workspace_deleted=workspace_deleted)
    if search.is_empty:
        return []
    # In order of id, so that two calls that revoke the same keys do not deadlock.
    chosen = search.parameter(sorted(key_ids))
    kind, by, why = (search.parameter(each) for each in (origin.principal.kind.value, origin.principal.id, reason))
    await connection.execute(search.settings)
    # One by one, since Postgres may read the whole workspace to find those of a list. A key that another transaction
    # has changed meanwhile has to match as it is then.
    rows = await connection.fetch(
        f"""
        WITH matching AS MATERIALIZED (
            SELECT found.id FROM unnest({chosen}::uuid[]) AS chosen (id) CROSS JOIN LATERAL (
                SELECT key.id FROM key
                WHERE key.id = chosen.id AND num_nulls(key.revoked_at) = 1 AND {search.all_conditions()}
                FOR NO KEY UPDATE
            ) AS found
        )
        UPDATE key SET revoked_at = now(), revoked_by_kind = {kind}, revoked_by_id = {by}, revoke_reason = {why}
        FROM matching WHERE key.id = matching.id
        RETURNING key.id, key.user_id, key.runtime_id, key.revoked_at
        """,  # noqa: S608
        *search.values,
    )
    details = {
        KeyId(row["id"]): {
            "user_id": row["user_id"],
            "runtime_id": row["runtime_id"],
            "reason": reason,
            "changes": revocation_changes(row["revoked_at"], reason),
        }
        for row in rows
    }
    await audit.record_each(connection, "key.revoked", origin, key_filter.workspace_id, details)
    return list(details)
