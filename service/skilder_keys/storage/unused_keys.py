"""Keys that nobody has used for long, in workspaces whose key policy revokes them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from skilder_keys.domain.field_changes import revocation_changes
from skilder_keys.domain.ids import KeyId, WorkspaceId
from skilder_keys.storage import audit, principals
from skilder_keys.storage.plans import prefer_indexes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from skilder_keys.domain.principal import Principal
    from skilder_keys.storage.database import Connection

_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended(concat('unused keys of ', current_schema()), 0))"
# $2 is how long a key must be unused. One that has expired is left as it is.
_IS_UNUSED = """
    coalesce(last_used_at, created_at) < now() - $2::interval AND (expires_at > clock_timestamp()) IS NOT false
"""


class UnusedKey(NamedTuple):
    """A key that was revoked, whose it was, and when it was used last or, if it never was, issued."""

    id: KeyId
    user_id: str | None
    runtime_id: str | None
    used_at: datetime


async def try_lock(connection: Connection) -> bool:
    """Let no other process revoke unused keys until the transaction ends; return False if one does so now."""
    return bool(await connection.fetchval(_LOCK))


async def workspaces_with_rule(connection: Connection, settled: timedelta) -> list[WorkspaceId]:
    """Return the workspaces that have had the rule, as it is, for at least some time."""
    await prefer_indexes(connection)
    rows = await connection.fetch(
        "SELECT id FROM workspace WHERE unused_rule_since <= now() - $1::interval AND deleted_at IS NULL ORDER BY id",
        settled,
    )
    return [WorkspaceId(row["id"]) for row in rows]


async def has_rule(connection: Connection, workspace_id: WorkspaceId, settled: timedelta) -> bool:
    """Return whether a workspace, which is locked, still has had the rule for at least some time."""
    return bool(
        await connection.fetchval(
            "SELECT true FROM workspace WHERE id = $1 AND unused_rule_since <= now() - $2::interval",
            workspace_id,
            settled,
        )
    )


async def search(
    connection: Connection, workspace_id: WorkspaceId, unused_for: timedelta, after: KeyId | None, limit: int
) -> tuple[list[KeyId], KeyId | None]:
    """Look through some keys of a workspace that are not revoked, in order of id.

    Return the ids of those that were not used for some time, and where to go on; None if these were the last.
    """
    await prefer_indexes(connection)
    # A plan for a workspace with most of the keys would go through those of all workspaces, in order of id.
    await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL random_page_cost = 1")
    row = await connection.fetchrow(
        f"""
        SELECT array_agg(id ORDER BY id) FILTER (WHERE is_unused) AS unused,
               (array_agg(id ORDER BY id DESC))[$4 - count(*) + 1] AS last
        FROM (
            SELECT id, {_IS_UNUSED} AS is_unused FROM key
            WHERE workspace_id = $1 AND revoked_at IS NULL AND (workspace_id, id) > ($1, $3)
            ORDER BY workspace_id, id LIMIT $4
        ) AS searched
        """,  # noqa: S608 - a constant
        workspace_id,
        unused_for,
        after or KeyId(UUID(int=0)),
        limit,
    )
    if row is None:
        raise LookupError("an aggregate always has a row")
    return [KeyId(each) for each in row["unused"] or ()], None if row["last"] is None else KeyId(row["last"])


async def revoke(
    connection: Connection,
    workspace_id: WorkspaceId,
    key_ids: Iterable[KeyId],
    unused_for: timedelta,
    *,
    by: Principal,
    reason: str,
) -> list[UnusedKey]:
    """Revoke those of some keys that were not used for some time, with an event each, and return them.

    A use that is being recorded at the same time counts: each key is looked at again when its row is locked. A row that
    another transaction has locked is left out, so this never waits.

    Args:
        connection: Inside a transaction.
        workspace_id: The workspace.
        key_ids: Keys of this workspace.
        unused_for: How long ago the recorded last use, or the issue of a key that was never used, must be.
        by: Who revokes them.
        reason: Why.
    """
    await prefer_indexes(connection)
    kind, id_ = principals.columns(by)
    rows = await connection.fetch(
        f"""
        WITH unused AS MATERIALIZED (
            SELECT key.id, coalesce(last_used_at, created_at) AS used_at
            FROM unnest($6::uuid[]) AS wanted (id) JOIN key ON key.id = wanted.id
            -- Written so that only the index by id fits.
            WHERE array_position(ARRAY[$1], workspace_id) = 1 AND num_nulls(revoked_at) = 1 AND {_IS_UNUSED}
            ORDER BY key.id
            FOR NO KEY UPDATE OF key SKIP LOCKED
        )
        UPDATE key SET revoked_at = now(), revoked_by_kind = $3, revoked_by_id = $4, revoke_reason = $5
        FROM unused WHERE key.id = unused.id
        RETURNING key.id, user_id, runtime_id, unused.used_at, now() AS at
        """,  # noqa: S608 - a constant
        workspace_id,
        unused_for,
        kind,
        id_,
        reason,
        list(key_ids),
    )
    found = [UnusedKey(KeyId(row["id"]), row["user_id"], row["runtime_id"], row["used_at"]) for row in rows]
    details = {
        each.id: json.dumps(
            {
                "user_id": each.user_id,
                "runtime_id": each.runtime_id,
                "reason": reason,
                "last_used_at": each.used_at.isoformat(),
                "changes": revocation_changes(row["at"], reason),
            }
        )
        for each, row in zip(found, rows, strict=True)
    }
    await audit.record_by_policy(connection, "key.revoked", workspace_id, by, details)
    return found
