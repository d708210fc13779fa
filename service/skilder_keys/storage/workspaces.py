"""Workspaces: table `workspace`. Their contents are in `storage.catalog`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.workspace import WorkspaceStatus

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from skilder_keys.domain.ids import UserId
    from skilder_keys.storage.database import Connection


async def find(connection: Connection, workspace_id: WorkspaceId) -> WorkspaceStatus | None:
    """Return a workspace, even a deleted one, or None."""
    row = await connection.fetchrow(
        "SELECT id, name, version, created_at, updated_at, deleted_at FROM workspace WHERE id = $1", workspace_id
    )
    return None if row is None else _status(row)


async def lock(
    connection: Connection, workspace_id: WorkspaceId, mode: Literal["read", "write"]
) -> WorkspaceStatus | None:
    """Return a workspace as `find` does, and lock it until the transaction ends.

    Transactions with mode "read" exclude those with mode "write", but not one another. Neither mode blocks a
    revocation, because the check of a foreign key passes both locks.
    """
    row = await connection.fetchrow(
        f"""
        SELECT id, name, version, created_at, updated_at, deleted_at FROM workspace WHERE id = $1
        FOR {"SHARE" if mode == "read" else "NO KEY UPDATE"}
        """,  # noqa: S608 - one of two constants
        workspace_id,
    )
    return None if row is None else _status(row)


async def create(connection: Connection, workspace_id: WorkspaceId, name: str) -> bool:
    """Insert an empty workspace at version 1; return False if the id is used already, even by a deleted workspace."""
    return bool(
        await connection.fetchval(
            "INSERT INTO workspace (id, name, version) VALUES ($1, $2, 1) ON CONFLICT (id) DO NOTHING RETURNING true",
            workspace_id,
            name,
        )
    )


async def advance(connection: Connection, workspace_id: WorkspaceId, name: str) -> None:
    """Add 1 to the version and set the name."""
    await connection.execute(
        "UPDATE workspace SET version = version + 1, name = $2, updated_at = now() WHERE id = $1", workspace_id, name
    )


async def mark_deleted(connection: Connection, workspace_id: WorkspaceId) -> datetime:
    """Mark a workspace as deleted, permanently, add 1 to its version, and return the time."""
    deleted_at: datetime = await connection.fetchval(
        """
        UPDATE workspace SET version = version + 1, updated_at = now(), deleted_at = now() WHERE id = $1
        RETURNING deleted_at
        """,
        workspace_id,
    )
    return deleted_at


async def list_page(
    connection: Connection, *, member: UserId | None, after: str | None, limit: int
) -> list[WorkspaceStatus]:
    """Return the first `limit` existing workspaces after the id `after`, in order of id.

    If a member is given, return only the workspaces that have this member.
    """
    if member is not None:
        return await _list_of_member(connection, member, after=after, limit=limit)
    rows = await connection.fetch(
        """
        SELECT id, name, version, created_at, updated_at, deleted_at FROM workspace
        WHERE deleted_at IS NULL AND id > $1
        ORDER BY id LIMIT $2
        """,
        after or "",
        limit,
    )
    return [_status(row) for row in rows]


async def _list_of_member(
    connection: Connection, member: UserId, *, after: str | None, limit: int
) -> list[WorkspaceStatus]:
    # The LIMIT of the subquery prevents a join with the whole table of workspaces. The comparison of rows fits only the
    # index that begins with the user: by the other one, Postgres may read all members of the workspaces that follow.
    rows = await connection.fetch(
        """
        SELECT found.* FROM member
        JOIN LATERAL (
            SELECT id, name, version, created_at, updated_at, deleted_at FROM workspace
            WHERE id = member.workspace_id LIMIT 1
        ) AS found ON true
        WHERE member.user_id = $1 AND (member.user_id, member.workspace_id) > ($1, $2) AND deleted_at IS NULL
        ORDER BY member.workspace_id LIMIT $3
        """,
        member,
        after or "",
        limit,
    )
    return [_status(row) for row in rows]


def _status(row: asyncpg.Record) -> WorkspaceStatus:
    return WorkspaceStatus(
        id=WorkspaceId(row["id"]),
        name=row["name"],
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        deleted_at=row["deleted_at"],
    )
