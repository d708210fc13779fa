"""Show and list workspaces and their parts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from skilder_keys.app.page import Element, Page, first_of
from skilder_keys.domain.access import Actor
from skilder_keys.domain.errors import WorkspaceNotFoundError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.masks import check_mask
from skilder_keys.domain.paging import listing
from skilder_keys.domain.permissions import Reach, reached_hats
from skilder_keys.domain.search import Words
from skilder_keys.domain.workspace import FIELDS, Catalog, Workspace
from skilder_keys.offload import Offload
from skilder_keys.storage import catalog, catalog_lists, workspace_lists, workspaces

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from skilder_keys.domain.access import CallerLimits
    from skilder_keys.domain.ids import UserId, WorkspaceId
    from skilder_keys.domain.paging import PageTokens
    from skilder_keys.domain.workspace import Hat, Member, Tool, WorkspaceStatus
    from skilder_keys.domain.workspace_lists import (
        HatFilter,
        ListedWorkspace,
        MemberFilter,
        ToolFilter,
        WorkspaceFilter,
    )
    from skilder_keys.storage.database import Connection, Database

Part = TypeVar("Part", bound=Element)

_SEARCHED = 2000
"""How many parts are looked at for a page of those that are chosen, so that a call is short however rare they are."""


class WorkspaceReads:
    """Shows and lists workspaces and their parts.

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
                contents = await catalog.load_catalog(snapshot, workspace_id, offload=self._offload, parts=parts)
        return status, Workspace(status.id, status.name, members, contents, status.key_policy)

    async def list_workspaces(
        self,
        workspace_filter: WorkspaceFilter,
        *,
        page_size: int,
        page_token: str,
        actor: UserId | None,
        limits: CallerLimits,
    ) -> Page[ListedWorkspace]:
        """Return a page of workspaces, in order of id. An actor sees only those that they are a member of.

        A caller that is limited to workspaces sees only those.

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
                connection, workspace_filter, actor=actor, after=after, limit=limit + 1, only=limits.workspaces
            )
        return Page(*first_of(found, limit), listed, self._page_tokens)

    async def list_members(
        self, member_filter: MemberFilter, *, page_size: int, page_token: str, actor: UserId | None
    ) -> Page[Member]:
        """Return a page of the members of a workspace, in order of id.

        Raises:
            InvalidRequestError: Names every invalid field.
            WorkspaceNotFoundError: There is no such workspace, or it was deleted.
            ActorNotMemberError: The actor is not a member of the workspace.
        """
        paging = self._paging("ListMembers", member_filter, page_size, page_token, actor)
        words = Words.of(member_filter.text)
        workspace_id = member_filter.workspace_id
        async with self._database.snapshot() as snapshot:
            await _visible(snapshot, workspace_id, actor)
            found, end = await self._matching(
                lambda after, limit: catalog_lists.read_members(snapshot, member_filter, after=after, limit=limit),
                None if words is None else lambda members: [each for each in members if words.occur(each.id)],
                paging,
            )
            members = await catalog_lists.with_teams(snapshot, workspace_id, found)
        return Page(members, end, paging.listing, self._page_tokens)

    async def list_hats(
        self, hat_filter: HatFilter, *, page_size: int, page_token: str, actor: UserId | None
    ) -> Page[Hat]:
        """Return a page of the hats of a workspace, in order of id, without instructions. Raise as `list_members`."""
        paging = self._paging("ListHats", hat_filter, page_size, page_token, actor)
        words = Words.of(hat_filter.text)
        workspace_id, user_id = hat_filter.workspace_id, hat_filter.user_id
        async with self._database.snapshot() as snapshot:
            await _visible(snapshot, workspace_id, actor)
            reached = None if user_id is None else await _reached(snapshot, workspace_id, user_id)

            def chosen(hats: Iterable[Hat]) -> Iterable[Hat]:
                if reached is not None:
                    hats = reached(hats)
                return hats if words is None else [each for each in hats if words.occur(each.id, each.name)]

            found, end = await self._matching(
                lambda after, limit: catalog_lists.read_hats(snapshot, workspace_id, after=after, limit=limit),
                None if reached is None and words is None else chosen,
                paging,
            )
        return Page(found, end, paging.listing, self._page_tokens)

    async def list_tools(
        self, tool_filter: ToolFilter, *, page_size: int, page_token: str, actor: UserId | None
    ) -> Page[Tool]:
        """Return a page of the tools of a workspace, in order of id. Raise as `list_members`."""
        paging = self._paging("ListTools", tool_filter, page_size, page_token, actor)
        words = Words.of(tool_filter.text)
        async with self._database.snapshot() as snapshot:
            await _visible(snapshot, tool_filter.workspace_id, actor)
            found, end = await self._matching(
                lambda after, limit: catalog_lists.read_tools(snapshot, tool_filter, after=after, limit=limit),
                None if words is None else lambda tools: [each for each in tools if words.occur(each.id, each.name)],
                paging,
            )
        return Page(found, end, paging.listing, self._page_tokens)

    def _paging(
        self,
        method: str,
        parts: MemberFilter | HatFilter | ToolFilter,
        page_size: int,
        page_token: str,
        actor: UserId | None,
    ) -> _Paging:
        violations = Violations()
        parts.check(violations)
        limit = violations.page_size(page_size)
        violations.actor(actor)
        violations.raise_if_any()
        listed = listing(method, actor, parts)
        return _Paging(listed, self._page_tokens.open(listed, page_token) or "", limit)

    async def _matching(
        self,
        read: Callable[[str, int], Awaitable[list[Part]]],
        chosen: Callable[[list[Part]], Iterable[Part]] | None,
        paging: _Paging,
    ) -> tuple[list[Part], str | None]:
        """Return the parts of a page that are chosen, and the position where it ends; None if it is the last page.

        Texts are compared here, not in Postgres, whose idea of upper and lower case depends on the locale of the
        database: with the locale C it knows only that of ASCII.

        Args:
            read: Reads some parts after an id.
            chosen: Returns those of some parts that are listed; None for all.
            paging: Where the page begins, and how long it is.
        """
        if chosen is None:
            return first_of(await read(paging.after, paging.limit + 1), paging.limit)
        piece = await read(paging.after, _SEARCHED)
        found, end = first_of(list(await self._offload.run(chosen, piece)), paging.limit)
        return found, str(piece[-1].id) if end is None and len(piece) == _SEARCHED else end


@dataclass(frozen=True, slots=True)
class _Paging:
    """Which page of which list."""

    listing: str
    after: str
    limit: int


async def _reached(
    connection: Connection, workspace_id: WorkspaceId, user_id: UserId
) -> Callable[[Iterable[Hat]], Iterable[Hat]]:
    """Return what chooses the hats that the keys of a user reach."""
    role = await catalog.member_role(connection, workspace_id, user_id)
    if role is None:
        return lambda _: ()
    (member,) = await catalog_lists.with_teams(connection, workspace_id, [catalog_lists.FoundMember(user_id, role)])
    parents = await catalog_lists.read_parents(connection, workspace_id)
    return partial(reached_hats, parents=parents, reach=Reach(frozenset(member.team_ids), None))


async def _visible(connection: Connection, workspace_id: WorkspaceId, actor: UserId | None) -> WorkspaceStatus:
    """Return a workspace that exists and that an actor may see."""
    status = await workspaces.find(connection, workspace_id)
    if status is None or status.deleted_at is not None:
        raise WorkspaceNotFoundError(f"There is no workspace {workspace_id!r}.")
    if actor is not None:
        Actor(actor, await catalog.member_role(connection, workspace_id, actor)).require_member()
    return status
