"""The keys that a rule of a key policy compares a new one with, and the locks that keep two from passing at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.ids import KeyId
from skilder_keys.storage.plans import prefer_indexes

if TYPE_CHECKING:
    from skilder_keys.domain.ids import UserId, WorkspaceId
    from skilder_keys.storage.database import Connection
    from skilder_keys.storage.keys import IssueRequest

LIVE = "key.revoked_at IS NULL AND coalesce(key.expires_at > statement_timestamp(), true)"
"""That a key is neither revoked nor expired. A suspended key is live: it can be resumed."""


async def lock_user(connection: Connection, workspace_id: WorkspaceId, user_id: UserId) -> None:
    """Let no other transaction give this user of a workspace a key, until this one ends. Lock the user first."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(concat_ws(E'\\n', 'key user', $1::text, $2::text), 0))",
        workspace_id,
        user_id,
    )


async def lock_description(connection: Connection, workspace_id: WorkspaceId, description: str) -> None:
    """Let no other transaction give a key of a workspace this description, until this one ends."""
    await connection.execute(
        "SELECT pg_advisory_xact_lock(hashtextextended(concat_ws(E'\\n', 'key description', $1::text, lower($2)), 0))",
        workspace_id,
        description,
    )


async def is_issued(connection: Connection, request: IssueRequest) -> bool:
    """Return whether a request has issued a key already, so that another one issues none."""
    return bool(
        await connection.fetchval(
            "SELECT true FROM key WHERE request_caller = $1 AND request_id = $2", request.caller, request.id
        )
    )


async def count_of_user(connection: Connection, workspace_id: WorkspaceId, user_id: UserId) -> int:
    """Return how many live keys a user has. Those of a family, which follow each other by rotation, count as one."""
    await prefer_indexes(connection)
    count: int = await connection.fetchval(
        f"""
        SELECT count(DISTINCT coalesce(family_id, id)) FROM key WHERE workspace_id = $1 AND user_id = $2 AND {LIVE}
        """,  # noqa: S608 - a constant
        workspace_id,
        user_id,
    )
    return count


async def find_described(
    connection: Connection, workspace_id: WorkspaceId, description: str, family_id: KeyId | None
) -> KeyId | None:
    """Return a live key that has a description and is not of a family; None if there is none."""
    await prefer_indexes(connection)
    found = await connection.fetchval(
        f"""
        SELECT id FROM key
        WHERE md5(workspace_id || E'\n' || lower(description)) = md5($1 || E'\n' || lower($2))
          AND {LIVE} AND coalesce(family_id, id) IS DISTINCT FROM $3
        ORDER BY id LIMIT 1
        """,  # noqa: S608 - a constant
        workspace_id,
        description,
        family_id,
    )
    return None if found is None else KeyId(found)
