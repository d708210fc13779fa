"""List who reaches a tool. This reads one state of the database, and nothing that a process remembers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from skilder_keys.app.key_steps import actor_in
from skilder_keys.app.page import Page
from skilder_keys.domain.errors import ToolNotFoundError, WorkspaceNotFoundError
from skilder_keys.domain.explanations import ToolUser, listed_tools, position_of
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.ids import KeyId, UserId
from skilder_keys.domain.key_actions import with_actions
from skilder_keys.domain.keys import Key, KeyState
from skilder_keys.domain.paging import listing
from skilder_keys.domain.permissions import Reach, paths_through, reached_hats
from skilder_keys.domain.tool_sets import check_tool
from skilder_keys.domain.workspace import MemberRole
from skilder_keys.domain.workspace_lists import MemberFilter
from skilder_keys.storage import catalog_lists, tool_reach, workspaces

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skilder_keys.domain.explanations import OutlinedHat
    from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId, WorkspaceId
    from skilder_keys.domain.paging import PageTokens
    from skilder_keys.domain.permissions import ToolPath
    from skilder_keys.domain.tool_sets import ToolName
    from skilder_keys.offload import Offload
    from skilder_keys.storage.database import Connection, Database
    from skilder_keys.storage.tool_reach import Candidate

_SEARCHED = 2000
"""How many members, and how many keys, are looked at for a page, so that a call is short however few reach the tool."""
_FIRST_KEY = "key "
"""The position before the first key."""


class ToolUsers:
    """Lists who reaches a tool. Its method raises UnavailableError if the database does not respond."""

    def __init__(self, database: Database, page_tokens: PageTokens, offload: Offload) -> None:
        """Make the use case.

        Args:
            database: The database.
            page_tokens: Seals page tokens.
            offload: Where long work runs.
        """
        self._database = database
        self._page_tokens = page_tokens
        self._offload = offload

    async def page(
        self,
        workspace_id: WorkspaceId,
        tool: ToolId | ToolName,
        *,
        page_size: int,
        page_token: str,
        actor: UserId | None,
    ) -> Page[ToolUser]:
        """Return a page of those who reach a tool: the members in order of id, then the keys, newest first.

        An actor who is not an admin sees only themselves and their own user keys.

        Raises:
            InvalidRequestError: Names every invalid field.
            WorkspaceNotFoundError: There is no such workspace, or it was deleted.
            ToolNotFoundError: The workspace has no such tool.
            ActorNotMemberError: The actor is not a member of the workspace.
        """
        violations = Violations()
        violations.identifier("workspace_id", workspace_id)
        check_tool(violations, "", tool)
        limit = violations.page_size(page_size)
        violations.actor(actor)
        violations.raise_if_any()
        listed = listing("ListToolUsers", actor, listed_tools(workspace_id, tool))
        kind, _, after = (self._page_tokens.open(listed, page_token) or "member ").partition(" ")
        async with self._database.snapshot() as snapshot:
            status = await workspaces.find(snapshot, workspace_id)
            if status is None or status.deleted_at is not None:
                raise WorkspaceNotFoundError(f"There is no workspace {workspace_id!r}.")
            only, person = None, None
            if actor is not None:
                person = await actor_in(snapshot, workspace_id, actor)
                person.require_member()
                only = None if person.role is MemberRole.ADMIN else actor
            leading = await _leading(snapshot, workspace_id, tool)
            users: list[ToolUser] = []
            end: str | None = _FIRST_KEY if leading.hats else None
            before = None
            if kind == "key":
                before = KeyId(UUID(after)) if after else None
            elif leading.hats:
                users, end = await self._members(snapshot, leading, only, after, limit)
            if end == _FIRST_KEY and len(users) < limit:
                keys, end = await self._keys(snapshot, leading, only, before, limit - len(users))
                users += keys
        users = [
            ToolUser(with_actions(each.user, person), each.paths) if isinstance(each.user, Key) else each
            for each in users
        ]
        return Page(users, end, listed, self._page_tokens)

    async def _members(
        self, connection: Connection, leading: _Leading, only: UserId | None, after: str, limit: int
    ) -> tuple[list[ToolUser], str | None]:
        """Return the first members after a user id who reach the tool, and where the page ends.

        Args:
            connection: A snapshot.
            leading: What leads to the tool.
            only: The only member to look at; None for all.
            after: The user id; empty for the first members.
            limit: The most members to return.
        """
        workspace_id = leading.workspace_id
        if only is not None:
            found = [only]
        else:
            read = await catalog_lists.read_members(
                connection, MemberFilter(workspace_id), after=after, limit=_SEARCHED
            )
            found = [member.id for member in read]
        teams = await tool_reach.teams_of(connection, workspace_id, found)
        users = await self._offload.run(leading.members, found, teams)
        if len(users) > limit:
            return users[:limit], users[limit - 1].id
        return users, position_of(found[-1]) if len(found) == _SEARCHED else _FIRST_KEY

    async def _keys(
        self, connection: Connection, leading: _Leading, only: UserId | None, before: KeyId | None, limit: int
    ) -> tuple[list[ToolUser], str | None]:
        """Return the first keys older than one that reach the tool, and where the page ends; None at the end."""
        found = await tool_reach.read_candidates(
            connection,
            leading.workspace_id,
            [hat.id for hat in leading.hats],
            user_id=only,
            before=before,
            limit=_SEARCHED,
        )
        user_ids = {each.user_id for each in found if each.user_id is not None}
        teams = await tool_reach.teams_of(connection, leading.workspace_id, user_ids)
        paths = await self._offload.run(leading.keys, found, teams)
        chosen = list(paths)[:limit]
        keys = await tool_reach.read_keys(connection, chosen)
        users = [ToolUser(key, paths[key.id]) for key in keys if key.state is KeyState.ACTIVE]
        if len(paths) > limit:
            return users, position_of(chosen[-1])
        return users, position_of(found[-1].id) if len(found) == _SEARCHED else None


@dataclass(frozen=True, slots=True)
class _Leading:
    """What leads to a tool.

    Attributes:
        hats: The hats with a skill that has the tool, in order of id; empty if it is disabled.
        skill_ids: These skills, by hat.
        parents: The team above each team.
    """

    workspace_id: WorkspaceId
    hats: Sequence[OutlinedHat]
    skill_ids: Mapping[HatId, frozenset[SkillId]]
    parents: Mapping[TeamId, TeamId | None]

    def paths(self, reach: Reach, known: dict[Reach, tuple[ToolPath, ...]]) -> tuple[ToolPath, ...]:
        """Return the first paths of a key to the tool. `known` has those that were found before."""
        paths = known.get(reach)
        if paths is None:
            reached = reached_hats(self.hats, self.parents, reach)
            paths = known[reach] = tuple(paths_through((hat.id, self.skill_ids[hat.id]) for hat in reached)[0])
        return paths

    def members(self, user_ids: Sequence[UserId], teams: Mapping[UserId, frozenset[TeamId]]) -> list[ToolUser]:
        """Return those of some members who reach the tool."""
        known: dict[Reach, tuple[ToolPath, ...]] = {}
        users = (ToolUser(each, self.paths(Reach(teams[each], None), known)) for each in user_ids if each in teams)
        return [user for user in users if user.paths]

    def keys(
        self, candidates: Sequence[Candidate], teams: Mapping[UserId, frozenset[TeamId]]
    ) -> dict[KeyId, tuple[ToolPath, ...]]:
        """Return the paths of those of some keys that reach the tool, in their order."""
        known: dict[Reach, tuple[ToolPath, ...]] = {}
        found = {}
        for each in candidates:
            if each.user_id is not None and each.user_id not in teams:
                continue
            paths = self.paths(Reach(None if each.user_id is None else teams[each.user_id], each.hat_ids), known)
            if paths:
                found[each.id] = paths
        return found


async def _leading(connection: Connection, workspace_id: WorkspaceId, tool: ToolId | ToolName) -> _Leading:
    found = await tool_reach.find_tool(connection, workspace_id, tool)
    if found is None:
        raise ToolNotFoundError
    having = await tool_reach.hats_with_tool(connection, workspace_id, found[0].id) if found[1] else {}
    hats = [hat for hat in await tool_reach.read_hats(connection, workspace_id) if hat.id in having]
    return _Leading(workspace_id, hats, having, await catalog_lists.read_parents(connection, workspace_id))
