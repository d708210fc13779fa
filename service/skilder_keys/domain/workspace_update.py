"""An update of single parts of a workspace, and its checks."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING

from skilder_keys.domain.difference import KINDS, Part, parts_of
from skilder_keys.domain.fields import MAX_NAME, Violations, quoted
from skilder_keys.domain.workspace_checks import (
    MAX_ELEMENTS,
    MAX_HATS,
    MAX_MEMBERS,
    MAX_SKILLS,
    MAX_TEAM_DEPTH,
    MAX_TEAMS,
    MAX_TOOL_PATHS,
    MAX_TOOLS,
    NAMED,
    canonical,
    check_bounds,
    check_bytes,
    check_references,
    check_team_tree,
    check_unique,
    ids_of,
    name_entries,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from skilder_keys.domain.ids import TeamId, WorkspaceId
    from skilder_keys.domain.totals import Totals
    from skilder_keys.domain.workspace import Workspace

MAX_PARTS = 5_000
"""The most parts of an update, to put and to remove together."""

_FOREIGN = (Part.MEMBER, Part.TOOL)
"""The kinds of parts whose ids other systems made."""
_LIMITS = {
    Part.MEMBER: ("members", MAX_MEMBERS),
    Part.TEAM: ("teams", MAX_TEAMS),
    Part.HAT: ("hats", MAX_HATS),
    Part.SKILL: ("skills", MAX_SKILLS),
    Part.TOOL: ("tools", MAX_TOOLS),
}


@dataclass(frozen=True, slots=True)
class PartRef:
    """A part by its kind and id."""

    part: Part
    id: str


@dataclass(frozen=True, slots=True)
class Update:
    """Some parts of a workspace to put in place, and some to remove.

    Attributes:
        name: The new name of the workspace; None to keep it.
        put: The parts to put in place, in the order of the request. Its own name means nothing.
        remove: The parts to remove.
    """

    workspace_id: WorkspaceId
    name: str | None
    put: Workspace
    remove: tuple[PartRef, ...]

    def removed(self, part: Part) -> frozenset[str]:
        """Return the ids to remove of a kind."""
        return frozenset(each.id for each in self.remove if each.part is part)

    def touched(self, part: Part) -> frozenset[str]:
        """Return the ids of the parts of a kind that are put or removed."""
        return ids_of(self.put, part) | self.removed(part)


@dataclass(frozen=True, slots=True)
class Naming:
    """Parts outside an update that name a part which it removes.

    Attributes:
        named: The part that is removed.
        by: The kind of the parts that name it.
        first: The least of their ids.
        count: How many they are.
    """

    named: PartRef
    by: Part
    first: str
    count: int


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the checks of an update need to know of the parts that it does not touch.

    Attributes:
        existing: Of each kind in `NAMED`, those ids that parts of the update name and that exist.
        parents: The parent of each team of the workspace, if the update touches teams; otherwise empty.
        namings: What still names the parts to remove.
        tool_names: The id of the tool that has a name on a server, by server and name, for those in the update.
    """

    existing: Mapping[Part, Collection[str]]
    parents: Mapping[TeamId, TeamId | None]
    namings: Sequence[Naming]
    tool_names: Mapping[tuple[str, str], str]


def check_update(update: Update, violations: Violations) -> None:
    """Check an update by itself, without the workspace that it changes.

    Raises:
        InvalidRequestError: Names every field out of bounds, and every part that occurs twice.
    """
    count = len(update.remove) + sum(map(len, parts_of(update.put).values()))
    if count > MAX_PARTS:
        violations.add("put", f"and remove have {count} parts together; at most {MAX_PARTS} are allowed")
        violations.raise_if_any()
    violations.identifier("workspace_id", update.workspace_id)
    if update.name is not None:
        violations.text("put.name", update.name, maximum=MAX_NAME)
    check_bounds(violations, "put", update.put)
    check_unique(violations, "put", update.put)
    check_named_ids(violations, update.put)
    name_entries(violations, update.put)
    put = {part: ids_of(update.put, part) for part in _LIMITS}
    seen: set[PartRef] = set()
    for index, each in enumerate(update.remove):
        at = f"remove[{index}].id"
        if each.part not in KINDS:
            violations.add(f"remove[{index}].part", "is required: name a member, team, hat, skill or tool")
            continue
        if each.part in _FOREIGN:
            violations.foreign_id(at, each.id)
        else:
            violations.identifier(at, each.id)
        if each.id in put[each.part]:
            violations.add(at, f"names the {each.part.value} {quoted(each.id)}, which is in put too")
        elif each in seen:
            violations.add(at, f"names the {each.part.value} {quoted(each.id)} again")
        seen.add(each)
    violations.raise_if_any()


def check_named_ids(violations: Violations, put: Workspace) -> None:
    """Check the form of the ids that parts name, as they are looked up in the database."""
    for index, member in enumerate(put.members):
        _check_ids(violations.identifier, f"put.members[{index}].team_ids", member.team_ids)
    for index, team in enumerate(put.catalog.teams):
        violations.identifier(f"put.teams[{index}].parent_id", team.parent_id or "", required=False)
    for index, hat in enumerate(put.catalog.hats):
        _check_ids(violations.identifier, f"put.hats[{index}].team_ids", hat.team_ids)
        _check_ids(violations.identifier, f"put.hats[{index}].skill_ids", hat.skill_ids)
    for index, skill in enumerate(put.catalog.skills):
        _check_ids(violations.foreign_id, f"put.skills[{index}].tool_ids", skill.tool_ids)


def _check_ids(check: Callable[[str, str], None], at: str, ids: Sequence[str]) -> None:
    for index, id_ in enumerate(ids):
        check(f"{at}[{index}]", id_)


def named_outside(update: Update) -> dict[Part, frozenset[str]]:
    """Return, of each kind in `NAMED`, the ids that the parts to put name and that the update does not touch itself."""
    put = update.put
    named: dict[Part, Iterable[str]] = {
        Part.TEAM: chain.from_iterable(
            [*(member.team_ids for member in put.members), *(hat.team_ids for hat in put.catalog.hats)]
        ),
        Part.SKILL: (id_ for hat in put.catalog.hats for id_ in hat.skill_ids),
        Part.TOOL: (id_ for skill in put.catalog.skills for id_ in skill.tool_ids),
    }
    return {part: frozenset(ids) - update.touched(part) for part, ids in named.items()}


def updated(before: Workspace, update: Update) -> Workspace:
    """Return the parts that an update touches, as they are after it, in canonical order.

    Args:
        before: Those of these parts that there are now, and the name of the workspace.
        update: The update.
    """
    name = before.name if update.name is None else update.name
    return canonical(replace(update.put, id=before.id, name=name))


def check_result(update: Update, around: Surroundings) -> None:
    """Check that the parts which an update puts in place fit those that stay.

    Raises:
        InvalidRequestError: Names every reference to a part that does not exist, every part that is removed although
            another one names it, every name of a tool that is taken, and every team at a place where it cannot be.
    """
    violations = Violations()
    put = update.put
    known = {part: (frozenset(around.existing[part]) | ids_of(put, part)) - update.removed(part) for part in NAMED}
    check_references(violations, "put", put, known)
    _check_tool_names(violations, update, around.tool_names)
    if update.touched(Part.TEAM):
        _check_teams(violations, update, around.parents)
    name_entries(violations, put)
    _check_namings(violations, update, around.namings)
    violations.raise_if_any()


def check_totals(before: Totals, after: Totals) -> None:
    """Check the limits that an update makes a workspace reach.

    A workspace that is over a limit already, as after a change by hand, may become smaller.

    Raises:
        InvalidRequestError: A number is too large.
        WorkspaceTooLargeError: The workspace would have too many bytes.
    """
    violations = Violations()
    for name, maximum in _LIMITS.values():
        count = getattr(after, name)
        if count > maximum and count > getattr(before, name):
            violations.add(f"put.{name}", f"would make it {count} {name}; at most {maximum} are allowed")
    if after.tool_paths > MAX_TOOL_PATHS and after.tool_paths > before.tool_paths:
        words = f"would let hats reach tools by {after.tool_paths} paths; at most {MAX_TOOL_PATHS} are allowed"
        violations.add("put", words)
    if after.elements > MAX_ELEMENTS and after.elements > before.elements:
        words = (
            f"would give the workspace lists of {after.elements} elements in all; at most {MAX_ELEMENTS} are allowed"
        )
        violations.add("put", words)
    violations.raise_if_any()
    if after.bytes > before.bytes:
        check_bytes(after.bytes)


def _check_tool_names(violations: Violations, update: Update, taken: Mapping[tuple[str, str], str]) -> None:
    touched = update.touched(Part.TOOL)
    for index, tool in enumerate(update.put.catalog.tools):
        other = taken.get((tool.mcp_server, tool.name))
        if other is not None and other not in touched:
            words = f"is {quoted(tool.name)} on {quoted(tool.mcp_server)}, which the tool {quoted(other)} has already"
            violations.add(f"put.tools[{index}].name", words)


def _check_teams(violations: Violations, update: Update, before: Mapping[TeamId, TeamId | None]) -> None:
    teams = update.put.catalog.teams
    removed = update.removed(Part.TEAM)
    parents = {id_: parent for id_, parent in before.items() if id_ not in removed}
    parents |= {team.id: team.parent_id for team in teams}
    check_team_tree(violations, "put", teams, parents)
    if violations:
        return
    # Teams that stay may be too deep now, below one that is moved.
    places = {team.id: index for index, team in enumerate(teams)}
    for id_ in parents:
        above = list(_above(id_, parents))
        if len(above) >= MAX_TEAM_DEPTH and id_ not in places:
            moved = next((each for each in above if each in places), None)
            if moved is not None:
                words = f"puts {quoted(id_)}, which is below it, deeper than {MAX_TEAM_DEPTH} levels"
                violations.add(f"put.teams[{places[moved]}].parent_id", words)


def _above(team_id: TeamId, parents: Mapping[TeamId, TeamId | None]) -> Iterable[TeamId]:
    """Yield the teams above a team, at most as many as are one too many."""
    parent = parents.get(team_id)
    for _ in range(MAX_TEAM_DEPTH):
        if parent is None:
            return
        yield parent
        parent = parents.get(parent)


def _check_namings(violations: Violations, update: Update, namings: Iterable[Naming]) -> None:
    naming: dict[PartRef, list[Naming]] = defaultdict(list)
    for each in namings:
        naming[each.named].append(each)
    for index, ref in enumerate(update.remove):
        if found := naming.get(ref):
            who = " and ".join(map(_who, found))
            verb = "name" if len(found) > 1 or found[0].count > 1 else "names"
            words = (
                f"is the {ref.part.value} {quoted(ref.id)}, which {who} still {verb}: "
                "take it out there first, or in the same request"
            )
            violations.add(f"remove[{index}].id", words)


def _who(naming: Naming) -> str:
    kind, first = naming.by.value, quoted(naming.first)
    return f"the {kind} {first}" if naming.count == 1 else f"{naming.count} {kind}s ({first}, …)"
