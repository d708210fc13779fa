"""Families of keys: each key but the first is the successor of another, by rotation. Tables `key` and `key_hat`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.ids import KeyId
from skilder_keys.storage import principals
from skilder_keys.storage.key_rows import KEY_COLUMNS, key_of, present
from skilder_keys.storage.keys import NEW_ID
from skilder_keys.storage.plans import forget_plans, prefer_indexes

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime, timedelta

    from skilder_keys.domain.ids import RuntimeId, WorkspaceId
    from skilder_keys.domain.keys import Key
    from skilder_keys.domain.principal import Principal
    from skilder_keys.storage.database import Connection
    from skilder_keys.storage.keys import IssueRequest

COPIED = ("type", "workspace_id", "user_id", "runtime_id", "description", "limited_to_hats", "labels", "networks")
"""The columns that a successor has from its predecessor. A test has the others, and why."""

_LIVE = "revoked_at IS NULL AND (expires_at IS NULL OR expires_at > clock_timestamp())"
_RUNTIME_LOCK = 0x534B_5255_4E54  # "SKRUNT": these advisory locks are different from others


async def lock(connection: Connection, key_ids: Iterable[KeyId]) -> None:
    """Lock keys until the transaction ends, in order of id.

    Whoever makes a successor, or changes several keys of a family, first locks the first key of the family, and reads
    the others in a statement after that. So nobody can miss a successor that another transaction is making.
    """
    await prefer_indexes(connection)
    await connection.execute(
        "SELECT FROM key WHERE id = ANY($1::uuid[]) ORDER BY id FOR NO KEY UPDATE", sorted(set(key_ids))
    )


async def insert_successor(
    connection: Connection,
    predecessor: Key,
    *,
    secret_hash: str,
    expires_at: datetime | None,
    created_by: Principal,
    request: IssueRequest | None,
) -> KeyId | None:
    """Insert the successor of a key and return its id. If the request has issued a key already, return None.

    Call it after `lock` of the first key of the family and of the predecessor.
    """
    columns = ", ".join(COPIED)
    key_id = await connection.fetchval(
        f"""
        INSERT INTO key ({columns}, id, family_id, predecessor_id, secret_hash, expires_at,
                         created_by_kind, created_by_id, request_caller, request_id, request_digest)
        SELECT {columns}, {NEW_ID}, coalesce(family_id, id), id, $2, $3, $4, $5, $6, $7, $8 FROM key WHERE id = $1
        ON CONFLICT ON CONSTRAINT key_request DO NOTHING
        RETURNING id
        """,  # noqa: S608 - the columns are constants
        predecessor.id,
        secret_hash,
        expires_at,
        *principals.columns(created_by),
        request.caller if request else None,
        request.id if request else None,
        request.digest if request else None,
    )
    if key_id is not None and predecessor.hat_ids:
        await forget_plans(connection)
        await connection.execute(
            """
            INSERT INTO key_hat (workspace_id, key_id, hat_id)
            SELECT workspace_id, $2, hat_id FROM key_hat WHERE key_id = $1
            """,
            predecessor.id,
            key_id,
        )
    return None if key_id is None else KeyId(key_id)


async def planned_lifetime(connection: Connection, key_id: KeyId) -> timedelta | None:
    """Return how long a key was to live before it was rotated; None for ever."""
    lifetime: timedelta | None = await connection.fetchval(
        """
        SELECT CASE WHEN isfinite(planned_end) THEN planned_end - created_at END
        FROM (SELECT created_at, coalesce(unrotated_expires_at, expires_at) AS planned_end
              FROM key WHERE id = $1) AS key
        """,
        key_id,
    )
    return lifetime


async def end_after(connection: Connection, key_id: KeyId, grace: timedelta) -> Key:
    """Let a key expire after a grace from now, unless it expires sooner, and return it."""
    row = await connection.fetchrow(
        f"""
        UPDATE key SET expires_at = least(expires_at, greatest(statement_timestamp() + make_interval(secs => $2),
                                                               created_at + interval '1 microsecond')),
                       unrotated_expires_at = coalesce(unrotated_expires_at, expires_at, 'infinity')
        WHERE id = $1
        RETURNING {KEY_COLUMNS}
        """,  # noqa: S608 - the same
        key_id,
        grace.total_seconds(),
    )
    return key_of(present(row))


async def live_successor(connection: Connection, key_id: KeyId) -> KeyId | None:
    """Return the newest successor of a key that is neither revoked nor expired, or None."""
    found = await connection.fetchval(
        f"SELECT id FROM key WHERE predecessor_id = $1 AND {_LIVE} ORDER BY id DESC LIMIT 1",  # noqa: S608
        key_id,
    )
    return None if found is None else KeyId(found)


async def revoke(connection: Connection, key_ids: Iterable[KeyId], *, by: Principal, reason: str) -> list[Key]:
    """Revoke keys, and return those that were not revoked before, in order of id."""
    ids = sorted(set(key_ids))
    await lock(connection, ids)
    rows = await connection.fetch(
        f"""
        UPDATE key SET revoked_at = now(), revoked_by_kind = $2, revoked_by_id = $3, revoke_reason = $4
        WHERE id = ANY($1::uuid[]) AND revoked_at IS NULL
        RETURNING {KEY_COLUMNS}
        """,  # noqa: S608
        ids,
        *principals.columns(by),
        reason,
    )
    return sorted(map(key_of, rows), key=lambda key: key.id)


async def members(connection: Connection, family_ids: Iterable[KeyId]) -> list[KeyId]:
    """Return the ids of the keys of some families, in order."""
    rows = await connection.fetch(
        """
        SELECT id FROM key WHERE id = ANY($1::uuid[])
        UNION ALL SELECT id FROM key WHERE family_id = ANY($1::uuid[]) ORDER BY id
        """,
        list(family_ids),
    )
    return [KeyId(row["id"]) for row in rows]


async def lock_runtime(connection: Connection, workspace_id: WorkspaceId, runtime_id: RuntimeId) -> None:
    """Let nobody else issue a first key for a runtime instance until the transaction ends."""
    await prefer_indexes(connection)
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended($1, $2))", f"{workspace_id} {runtime_id}", _RUNTIME_LOCK
    )


async def live_families(connection: Connection, workspace_id: WorkspaceId, runtime_id: RuntimeId) -> list[KeyId]:
    """Return the families with a key of a runtime instance that is neither revoked nor expired, in order of id."""
    rows = await connection.fetch(
        f"""
        SELECT DISTINCT coalesce(family_id, id) AS id FROM key
        WHERE workspace_id = $1 AND runtime_id = $2 AND {_LIVE} ORDER BY 1
        """,  # noqa: S608
        workspace_id,
        runtime_id,
    )
    return [KeyId(row["id"]) for row in rows]
