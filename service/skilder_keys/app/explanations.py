"""Explain what a key reaches and why. This reads one state of the database, and nothing that a process remembers."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from skilder_keys.app.key_steps import actor_in, find_key, for_actor, parsed_key_id
from skilder_keys.app.page import Page, first_of
from skilder_keys.domain.denial import DenialReason
from skilder_keys.domain.explanations import Explanation, GrantedTool, explain_hats, listed_tools
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.networks import Networks, check_address
from skilder_keys.domain.paging import listing
from skilder_keys.domain.permissions import Reach, paths_through
from skilder_keys.domain.token import KeyType
from skilder_keys.domain.tool_sets import check_tool
from skilder_keys.storage import catalog_lists, tool_reach

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skilder_keys.domain.access import CallerLimits
    from skilder_keys.domain.explanations import FoundTool, HatExplanation
    from skilder_keys.domain.ids import HatId, SkillId, ToolId, UserId
    from skilder_keys.domain.keys import Key
    from skilder_keys.domain.paging import PageTokens
    from skilder_keys.domain.tool_sets import ToolName
    from skilder_keys.offload import Offload
    from skilder_keys.storage.database import Connection, Database
    from skilder_keys.storage.tool_reach import ToolSkills

_SEARCHED = 2000
"""How many tools are looked at for a page of those that a key reaches, so that a call is short however few they are."""


class Explanations:
    """Explains keys. Its method raises UnavailableError if the database does not respond."""

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

    async def explain(
        self,
        key_id: str,
        tool: ToolId | ToolName | None,
        source_ip: str = "",
        *,
        page_size: int,
        page_token: str,
        actor: UserId | None,
        limits: CallerLimits,
    ) -> tuple[Explanation, Page[FoundTool]]:
        """Return what a key reaches and why, and a page of its tools, which is empty if one tool is asked about.

        Args:
            key_id: The key.
            tool: The tool that is asked about; None for none.
            source_ip: The address from which the key is used; empty if it is not known.
            page_size: The most tools.
            page_token: Where the page begins.
            actor: For whom; None for the caller itself.
            limits: What the caller is limited to.

        Raises:
            InvalidRequestError: Names every invalid field.
            KeyNotFoundError: There is no such key.
            ForeignWorkspaceError: The caller is not allowed the workspace of the key.
            ActorNotMemberError: The actor is not a member of the workspace.
            ActorNotAllowedError: The actor may not see the key.
        """
        violations = Violations()
        parsed = parsed_key_id(violations, key_id)
        if tool is not None:
            check_tool(violations, "", tool)
        if source_ip:
            check_address(violations, "source_ip", source_ip)
        limit = violations.page_size(page_size)
        violations.actor(actor)
        violations.raise_if_any()
        listed = listing("ExplainKey", actor, listed_tools(key_id, tool))
        after = self._page_tokens.open(listed, page_token)
        async with self._database.snapshot() as snapshot:
            key = await find_key(snapshot, parsed, limits)
            if actor is not None:
                (await actor_in(snapshot, key.workspace_id, actor)).require_key(key)
            key = await for_actor(snapshot, key, actor)
            hats = await self._hats(snapshot, key)
            reached = [hat.hat_id for hat in hats if hat.is_reached]
            denial, grant, end = _denial(key, source_ip), None, None
            tools: list[FoundTool] = []
            if tool is None:
                tools, end = await self._tools(snapshot, key, reached, after or "", limit)
            elif denial is None:
                grant = await _grant(snapshot, key, reached, tool)
                denial = DenialReason.TOOL_NOT_ALLOWED if grant is None else None
        explanation = Explanation(key, denial, () if after else tuple(hats), grant)
        return explanation, Page(tools, end, listed, self._page_tokens)

    async def _hats(self, connection: Connection, key: Key) -> list[HatExplanation]:
        """Return of each hat whether a key reaches it, and why; none for a runtime key."""
        if key.type is KeyType.RUNTIME:
            return []
        reach = key.reach
        if key.user_id is not None:
            teams = await tool_reach.teams_of(connection, key.workspace_id, [key.user_id])
            reach = Reach(teams.get(key.user_id, frozenset()), reach.hat_ids)
        parents = await catalog_lists.read_parents(connection, key.workspace_id)
        hats = await tool_reach.read_hats(connection, key.workspace_id)
        return await self._offload.run(explain_hats, hats, parents, reach)

    async def _tools(
        self, connection: Connection, key: Key, hat_ids: Sequence[HatId], after: str, limit: int
    ) -> tuple[list[FoundTool], str | None]:
        """Return the first tools of some hats after an id, and where the page ends; None if it is the last."""
        skill_ids = await tool_reach.skills_of_hats(connection, key.workspace_id, hat_ids)
        if not skill_ids:
            return [], None
        piece = await tool_reach.read_tools(connection, key.workspace_id, after=after, limit=_SEARCHED)
        found, end = first_of(await self._offload.run(partial(_having, piece, skill_ids)), limit)
        return found, str(piece[-1].tool.id) if end is None and len(piece) == _SEARCHED else end


def _denial(key: Key, source_ip: str) -> DenialReason | None:
    """Return why Authorize denies a key from an address, whatever is asked; None if it does not."""
    if key.denial is None and key.networks is not None and not Networks(key.networks).allow(source_ip):
        return DenialReason.SOURCE_NOT_ALLOWED
    return key.denial


def _having(tools: Sequence[ToolSkills], skill_ids: frozenset[SkillId]) -> list[FoundTool]:
    return [each.tool for each in tools if not skill_ids.isdisjoint(each.skill_ids)]


async def _grant(
    connection: Connection, key: Key, hat_ids: Sequence[HatId], tool: ToolId | ToolName
) -> GrantedTool | None:
    """Return the grant of a tool by some hats, which are in order of id; None if they do not reach it."""
    found = await tool_reach.find_tool(connection, key.workspace_id, tool)
    if found is None or not found[1]:
        return None
    having = await tool_reach.hats_with_tool(connection, key.workspace_id, found[0].id)
    paths, count = paths_through((hat_id, having[hat_id]) for hat_id in hat_ids if hat_id in having)
    return GrantedTool(found[0], tuple(paths), count) if count else None
