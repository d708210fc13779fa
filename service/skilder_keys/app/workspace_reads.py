"""Show and list workspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app.page import Page
from skilder_keys.domain.access import Actor
from skilder_keys.domain.errors import WorkspaceNotFoundError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.masks import check_mask
from skilder_keys.domain.paging import listing
from skilder_keys.domain.workspace import FIELDS, Catalog, Workspace
from skilder_keys.offload import Offload
from skilder_keys.storage import catalog, workspace_lists, workspaces

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skilder_keys.domain.ids import UserId, WorkspaceId
    from skilder_keys.domain.paging import PageTokens
    from skilder_keys.domain.workspace import Member, WorkspaceStatus
    from skilder_keys.domain.workspace_lists import ListedWorkspace, WorkspaceFilter
    from skilder_keys.storage.database import Connection, Database


class WorkspaceReads:
    """Shows and lists workspaces.

    Every method raises UnavailableError if the database does not respond.
    """

    def __init__(self, database: Database, page_tokens: PageTokens, offload: Offload | None = None) -> None:
        """Make the use cases.

        Args:
            database: The database.
            page_tokens: Seals page tokens.
            offload: Where long work runs; by default in a new thread.
        """
        self._database = database
        self._page_tokens = page_tokens
        self._offload = offload or Offload()

    async def get(
        self, workspace_id: WorkspaceId, actor: UserId | None, read_mask: Sequence[str] = FIELDS
    ) -> tuple[WorkspaceStatus, Workspace]:
        """Return a workspace, with its parts in order of id.

        Args:
            workspace_id: The workspace.
            actor: For whom; None for the caller itself.
            read_mask: Names of FIELDS. Lists that it does not name are not read, and are empty.

        Raises:
            InvalidRequestError: Names every invalid field.
            WorkspaceNotFoundError: There is no such workspace, or it was deleted.
            ActorNotMemberError: The actor is not a member of the workspace.
        """
        violations = Violations()
        violations.identifier("workspace_id", workspace_id)
        violations.actor(actor)
        check_mask(violations, "read_mask", read_mask, FIELDS)
        violations.raise_if_any()
        members: tuple[Member, ...] = ()
        contents = Catalog((), (), (), ())
        parts = [name for name in catalog.CATALOG_PARTS if name in read_mask]
        async with self._database.snapshot() as snapshot:
            status = await _visible(snapshot, workspace_id, actor)
            if "members" in read_mask:
                members = await catalog.load_members(snapshot, workspace_id, self._offload)
            if parts:
                _, contents = await catalog.load_catalog(
                    snapshot, workspace_id, texts=True, offload=self._offload, parts=parts
                )
        return status, Workspace(status.id, status.name, members, contents)

    async def list(
        self, workspace_filter: WorkspaceFilter, *, page_size: int, page_token: str, actor: UserId | None
    ) -> Page[ListedWorkspace]:
        """Return a page of workspaces, in order of id. An actor sees only those that they are a member of.

        With both an actor and a user, list those that have both as members: whoever is in a workspace may see who else
        is in it, but not which other workspaces that person is in.

        Raises:
            InvalidRequestError: Names every invalid field.
        """
        violations = Violations()
        workspace_filter.check(violations)
        limit = violations.page_size(page_size)
        violations.actor(actor)
        violations.raise_if_any()
        listed = listing("ListWorkspaces", actor, workspace_filter)
        after = self._page_tokens.open(listed, page_token)
        async with self._database.connection() as connection:
            found = await workspace_lists.list_page(
                connection, workspace_filter, actor=actor, after=after, limit=limit + 1
            )
        return Page(found[:limit], len(found) > limit, listed, self._page_tokens)


async def _visible(connection: Connection, workspace_id: WorkspaceId, actor: UserId | None) -> WorkspaceStatus:
    """Return a workspace that exists and that an actor may see."""
    status = await workspaces.find(connection, workspace_id)
    if status is None or status.deleted_at is not None:
        raise WorkspaceNotFoundError(f"There is no workspace {workspace_id!r}.")
    if actor is not None:
        Actor(actor, await catalog.member_role(connection, workspace_id, actor)).require_member()
    return status
