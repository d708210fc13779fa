"""What the keys of a workspace can reach: its teams, hats, skills and tools, with their serialised pieces.

Nothing here changes once it is made, so threads and calls share it. After a change, new contents share everything with
the old ones that the change did not touch.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, TypeVar, cast

from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.held_parts import HeldHat, HeldSkill, basic_piece, full_piece, held_hat, held_skill
from skilder_keys.domain.difference import Part
from skilder_keys.domain.permissions import Reach, paths_through, reached_hats, with_teams_above
from skilder_keys.domain.workspace import HatAudience

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from skilder_keys.app.authorization.encoding import EncodedToolSet
    from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId
    from skilder_keys.storage.snapshots import HatRow, SkillRow, SnapshotRead

_SHARED_TOOL_BYTES = 100
"""The memory of a tool in the contents of an MCP server: its piece is that of the workspace."""

Id = TypeVar("Id", bound=str)
Held = TypeVar("Held")
Row = TypeVar("Row")
Linked = TypeVar("Linked")


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of a workspace at some state.

    Attributes:
        parents: The team above each team; None for a team at the top.
        hats: The hats, in order of id.
        skills: The skills.
        tools: The pieces of the enabled tools.
        hats_of: The hats that name a team, by team; for None, those that serve everybody.
        skills_of: The skills that have a tool, also a disabled one.
        tools_by_name: The enabled tools of each MCP server, by their names.
        weight: About how many bytes of memory they take, as measured.
    """

    parents: Mapping[TeamId, TeamId | None]
    hats: Mapping[HatId, HeldHat]
    skills: Mapping[SkillId, HeldSkill]
    tools: Mapping[ToolId, bytes]
    hats_of: Mapping[TeamId | None, tuple[HatId, ...]]
    skills_of: Mapping[ToolId, tuple[SkillId, ...]]
    tools_by_name: Mapping[str, Mapping[str, ToolId]]
    weight: int

    def reached(self, reach: Reach) -> tuple[HeldHat, ...]:
        """Return the hats that a key reaches, in order of id. Look only at those that its teams or its limit name."""
        if reach.hat_ids is not None:
            hat_ids: Iterable[HatId] = sorted(reach.hat_ids & self.hats.keys())
        elif reach.team_ids is not None:
            served = with_teams_above(reach.team_ids, self.parents)
            hat_ids = sorted({hat_id for each in (None, *served) for hat_id in self.hats_of.get(each, ())})
        else:
            hat_ids = self.hats
        return reached_hats(map(self.hats.__getitem__, hat_ids), self.parents, reach)

    def grant(self, hats: Iterable[HeldHat], version: str, tool_id: ToolId) -> bytes | None:
        """Return the second part of a grant of one tool by some hats; None if they do not reach it.

        Args:
            hats: The hats, in order of id.
            version: The version of the tool set of these hats.
            tool_id: The tool.
        """
        piece = self.tools.get(tool_id)
        having = self.skills_of.get(tool_id)
        if piece is None or not having:
            return None
        paths, count = paths_through((hat.id, hat.skill_ids.intersection(having)) for hat in hats)
        return encoding.tool_grant_field(piece, paths, count, version) if count else None

    def server_of(self, tool_id: ToolId) -> str | None:
        """Return the MCP server of an enabled tool; None if there is no such tool."""
        piece = self.tools.get(tool_id)
        return None if piece is None else encoding.tool_name(piece).mcp_server

    def size(self, hats: Iterable[HeldHat]) -> int:
        """Return about how many elements the tool set of some hats has; tools of several skills count several times."""
        return sum(1 + len(self.skills[each].tool_ids) for each in _skill_ids(hats))

    def tool_set(self, hats: Collection[HeldHat], version: str, *, full: bool = False) -> EncodedToolSet:
        """Encode the tool set of some hats, which are in order of id; a full one has their texts."""
        skill_ids, tool_ids = self._ids(hats)
        piece = full_piece if full else basic_piece
        return encoding.tool_set(
            version,
            map(piece, hats),
            (self.tools[each] for each in sorted(tool_ids)),
            (piece(self.skills[each]) for each in sorted(skill_ids)),
        )

    def least_bytes(self, hats: Collection[HeldHat], *, full: bool = False) -> int:
        """Return how many bytes the tool set of some hats has at least, encoded; almost as many as it has."""
        skill_ids, tool_ids = self._ids(hats)
        parts: list[HeldHat | HeldSkill] = [*hats, *map(self.skills.__getitem__, skill_ids)]
        pieces = (each.piece for each in parts), map(self.tools.__getitem__, tool_ids)
        return sum(map(len, chain(*pieces))) + (sum(len(each.texts) for each in parts) if full else 0)

    def is_small(self, server: str, most: int) -> bool:
        """Return whether `of_server` looks at no more than about so many elements."""
        size = len(self.hats)
        for tool_id in self.tools_by_name.get(server, {}).values():
            size += 1 + sum(len(self.skills[each].tool_ids) for each in self.skills_of.get(tool_id, ()))
            if size > most:
                return False
        return size <= most

    def of_server(self, server: str) -> Contents:
        """Return the tools of an MCP server, the skills that have any of them, and the hats that have any of these.

        Of the rest of the contents, nothing is in it. It may take long: use a thread unless it is small.
        """
        tools = {each: self.tools[each] for each in self.tools_by_name.get(server, {}).values()}
        skill_ids = frozenset(skill_id for tool_id in tools for skill_id in self.skills_of.get(tool_id, ()))
        skills = {}
        for each in skill_ids:
            skill = self.skills[each]
            skills[each] = held_skill(replace(skill, tool_ids=tuple(filter(tools.__contains__, skill.tool_ids))), tools)
        hats = {
            hat.id: held_hat(replace(hat, skill_ids=hat.skill_ids & skill_ids), skills)
            for hat in self.hats.values()
            if not hat.skill_ids.isdisjoint(skill_ids)
        }
        weight = _weight(hats.values(), skills.values(), 0) + _SHARED_TOOL_BYTES * len(tools)
        return replace(EMPTY, hats=hats, skills=skills, tools=tools, weight=weight)

    def _ids(self, hats: Iterable[HeldHat]) -> tuple[frozenset[SkillId], frozenset[ToolId]]:
        """Return the skills and the enabled tools of some hats."""
        skill_ids = _skill_ids(hats)
        return skill_ids, frozenset().union(*(self.skills[each].tool_ids for each in skill_ids)) & self.tools.keys()


EMPTY = Contents(parents={}, hats={}, skills={}, tools={}, hats_of={}, skills_of={}, tools_by_name={}, weight=0)


def _skill_ids(hats: Iterable[HeldHat]) -> frozenset[SkillId]:
    return frozenset().union(*(hat.skill_ids for hat in hats))


def updated(base: Contents, read: SnapshotRead) -> Contents:
    """Return the contents with the parts that were read in place of the former ones. It may take long: use a thread.

    Args:
        base: The former contents.
        read: Parts of the workspace. All parts of `base` that are not among them must be of the same state.
    """
    wanted = read.wanted
    if wanted.keys() <= {Part.MEMBER}:
        return base
    parents = read.parents() if Part.TEAM in wanted else base.parents
    pieces = {tool.id: encoding.tool_piece(tool.id, tool.name, tool.mcp_server) for tool in read.tools()}
    tools = _replaced(base.tools, wanted.get(Part.TOOL, ()), pieces)
    changed_tools: frozenset[ToolId] = _changed(base.tools, wanted.get(Part.TOOL, ()), pieces)

    skill_rows = {row.id: row for row in read.skills()}
    kept_skills = _replaced(base.skills, wanted.get(Part.SKILL, ()), {})
    stale = {each for tool_id in changed_tools for each in base.skills_of.get(tool_id, ()) if each in kept_skills}
    stale_skills: list[SkillRow | HeldSkill] = [kept_skills[each] for each in stale]
    encoded = {row.id: held_skill(row, tools) for row in (*skill_rows.values(), *stale_skills)}
    skills = {**kept_skills, **encoded}
    changed_skills: frozenset[SkillId] = _changed(base.skills, wanted.get(Part.SKILL, ()), encoded)

    kept_hats = _replaced(base.hats, wanted.get(Part.HAT, ()), {})
    stale_hats: list[HatRow | HeldHat] = [
        hat for hat in kept_hats.values() if not changed_skills.isdisjoint(hat.skill_ids)
    ]
    hat_rows = {row.id: row for row in read.hats()}
    hats = {**kept_hats, **{row.id: held_hat(row, skills) for row in (*hat_rows.values(), *stale_hats)}}
    with_texts: chain[HeldHat | HeldSkill] = chain(hats.values(), skills.values())
    return Contents(
        parents=parents,
        hats={each: hats[each] for each in sorted(hats)},
        skills=skills,
        tools=tools,
        hats_of=_linking(base.hats_of, wanted.get(Part.HAT, ()), base.hats, hat_rows, _served),
        skills_of=_linking(base.skills_of, wanted.get(Part.SKILL, ()), base.skills, skill_rows, _tool_ids),
        tools_by_name=_named(base, wanted.get(Part.TOOL, ()), read),
        weight=_weight(hats.values(), skills.values(), len(tools)) + sum(len(each.texts) for each in with_texts),
    )


def _named(base: Contents, ids: Collection[str] | None, read: SnapshotRead) -> Mapping[str, Mapping[str, ToolId]]:
    """Return the enabled tools by name, after those with these ids, or all for None, are those that were read."""
    if ids is not None and not ids:
        return base.tools_by_name
    named = {} if ids is None else dict(base.tools_by_name)
    own: set[str] = set()  # the servers whose tools are in a dict of their own

    def of(server: str) -> dict[str, ToolId]:
        if server not in own:
            own.add(server)
            named[server] = dict(named.get(server, {}))
        return cast("dict[str, ToolId]", named[server])

    for id_ in () if ids is None else base.tools.keys() & ids:
        name = encoding.tool_name(base.tools[id_])
        # Another tool may have taken the name, and be read before this one.
        if of(name.mcp_server).get(name.name) == id_:
            del of(name.mcp_server)[name.name]
    for tool in read.tools():
        of(tool.mcp_server)[tool.name] = tool.id
    return {server: tools for server, tools in named.items() if tools}


def _weight(hats: Collection[HeldHat], skills: Collection[HeldSkill], tools: int) -> int:
    links = sum(len(hat.team_ids) + len(hat.skill_ids) for hat in hats)
    links += sum(len(skill.tool_ids) for skill in skills)
    return 1000 * (1 + len(hats) + len(skills)) + 500 * tools + 100 * links


def _replaced(base: Mapping[Id, Held], ids: Collection[str] | None, read: Mapping[Id, Held]) -> Mapping[Id, Held]:
    """Return the items, after those with these ids, or all for None, are those that were read."""
    if ids is None:
        return read
    if not ids:
        return base
    replaced = {**base, **read}
    for each in ids:
        if each not in read:
            replaced.pop(cast("Id", each), None)
    return replaced


def _changed(base: Mapping[Id, object], ids: Collection[str] | None, made: Mapping[Id, object]) -> frozenset[Id]:
    """Return the ids of the items that may have changed: those that were read, all for None, and those made anew."""
    return frozenset({*(base if ids is None else cast("Collection[Id]", ids)), *made})


def _served(hat: HatRow | HeldHat) -> Iterable[TeamId | None]:
    return (None,) if hat.audience is HatAudience.WORKSPACE else hat.team_ids


def _tool_ids(skill: SkillRow | HeldSkill) -> Iterable[ToolId]:
    return skill.tool_ids


def _linking(
    former: Mapping[Linked, tuple[Id, ...]],
    ids: Collection[str] | None,
    base: Mapping[Id, Held],
    rows: Mapping[Id, Row],
    links: Callable[[Held | Row], Iterable[Linked]],
) -> Mapping[Linked, tuple[Id, ...]]:
    """Return which items link to what, after the items with these ids, or all for None, are those that were read.

    Args:
        former: What this returned before.
        ids: The ids of what was read.
        base: The items as they were before.
        rows: The items that were read.
        links: Returns to what an item links.
    """
    if ids is not None and not ids:
        return former
    found: dict[Linked, tuple[Id, ...]] = {}
    if ids is not None:
        found.update(former)
        for id_ in base.keys() & ids:
            for link in links(base[id_]):
                found[link] = tuple(each for each in found[link] if each != id_)
    shared: dict[tuple[Id, ...], tuple[Id, ...]] = {}
    for id_, row in rows.items():
        for link in links(row):
            linking = (*found.get(link, ()), id_)
            found[link] = shared.setdefault(linking, linking)
    return found
