"""Lists of workspaces: tables `workspace` and `member`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.workspace import MemberRole
from skilder_keys.domain.workspace_lists import ListedWorkspace
from skilder_keys.storage.workspaces import COLUMNS, status_of

if TYPE_CHECKING:
    from collections.abc import Collection

    from skilder_keys.domain.ids import UserId, WorkspaceId
    from skilder_keys.domain.workspace_lists import WorkspaceFilter
    from skilder_keys.storage.database import Connection


async def list_page(
    connection: Connection,
    workspace_filter: WorkspaceFilter,
    *,
    actor: UserId | None,
    after: str | None,
    limit: int,
    only: Collection[WorkspaceId] | None = None,
) -> list[ListedWorkspace]:
    """Return the first `limit` workspaces of a filter after the id `after`, in order of id.

    If an actor is given, return only those that have the actor as a member too. If `only` is given, return none that is
    not in it.
    """
    user_id = workspace_filter.user_id
    if user_id is not None:
        return await _of_member(connection, user_id, actor, after=after, limit=limit, only=only)
    if actor is not None:
        found = await _of_member(connection, actor, None, after=after, limit=limit, only=only)
        return [ListedWorkspace(each.status) for each in found]
    if only is not None:
        return await _among(connection, only, after=after, limit=limit, show_deleted=workspace_filter.show_deleted)
    rows = await connection.fetch(
        f"""
        SELECT {COLUMNS} FROM workspace
        WHERE (deleted_at IS NULL OR $3) AND id > $1
        ORDER BY id LIMIT $2
        """,  # noqa: S608 - a constant
        after or "",
        limit,
        workspace_filter.show_deleted,
    )
    return [ListedWorkspace(status_of(row)) for row in rows]


async def _among(
    connection: Connection, only: Collection[WorkspaceId], *, after: str | None, limit: int, show_deleted: bool
) -> list[ListedWorkspace]:
    """Return some of the given workspaces. This reads no other, unlike one statement for both cases."""
    rows = await connection.fetch(
        f"""
        SELECT {COLUMNS} FROM workspace
        WHERE id = ANY($1) AND (deleted_at IS NULL OR $4) AND id > $2
        ORDER BY id LIMIT $3
        """,  # noqa: S608 - a constant
        list(only),
        after or "",
        limit,
        show_deleted,
    )
    return [ListedWorkspace(status_of(row)) for row in rows]


async def _of_member(
    connection: Connection,
    user_id: UserId,
    other: UserId | None,
    *,
    after: str | None,
    limit: int,
    only: Collection[WorkspaceId] | None,
) -> list[ListedWorkspace]:
    """Return workspaces of a user, with their role; if another user is given, only those of both.

    A deleted workspace has no members. Should it have some by hand, they do not bring it back.
    """
    # The LIMIT of a subquery prevents a join with the whole table. The comparison of rows fits only the index that
    # begins with the user: by the other one, Postgres may read all members of the workspaces that follow.
    rows = await connection.fetch(
        f"""
        SELECT found.*, member.role FROM member
        JOIN LATERAL (
            SELECT {COLUMNS} FROM workspace
            WHERE id = member.workspace_id LIMIT 1
        ) AS found ON true
        WHERE member.user_id = $1 AND (member.user_id, member.workspace_id) > ($1, $2) AND deleted_at IS NULL
          AND ($5::text[] IS NULL OR member.workspace_id = ANY($5))
          AND ($4::text IS NULL OR (
              SELECT true FROM member AS other
              WHERE other.workspace_id = member.workspace_id AND other.user_id = $4 LIMIT 1
          ) IS NOT NULL)
        ORDER BY member.workspace_id LIMIT $3
        """,  # noqa: S608 - a constant
        user_id,
        after or "",
        limit,
        None if other == user_id else other,
        None if only is None else list(only),
    )
    return [ListedWorkspace(status_of(row), MemberRole(row["role"])) for row in rows]
