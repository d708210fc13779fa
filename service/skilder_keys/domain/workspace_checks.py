"""The checks of a desired workspace, before any of it is applied."""

import re
from collections.abc import Collection, Hashable, Iterable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TypeVar

from skilder_keys.domain.difference import Part, parts_of
from skilder_keys.domain.errors import WorkspaceTooLargeError
from skilder_keys.domain.fields import MAX_DESCRIPTION, MAX_INSTRUCTIONS, MAX_NAME, Violations, quoted
from skilder_keys.domain.ids import TeamId
from skilder_keys.domain.workspace import Catalog, Hat, HatAudience, Member, Skill, Team, Tool, Workspace

Entry = TypeVar("Entry", Member, Team, Hat, Skill, Tool)

MAX_TEAM_DEPTH = 10
MAX_MEMBERS = 10_000
MAX_TEAMS = 1_000
MAX_HATS = 1_000
MAX_SKILLS = 5_000
MAX_TOOLS = 20_000
MAX_TOOL_PATHS = 50_000
MAX_ELEMENTS = 250_000
"""The most parts, and ids in parts, of a workspace together."""
MAX_TOOL_ID_BYTES = 3 * 2**20
"""The most bytes of the ids of the tools of a skill together, so that a skill fits into a part of a tool set."""
MAX_BYTES = 16 * 2**20 - 2**10
"""The most bytes of a workspace as a message, so that GetWorkspace never answers with more than 16 MiB."""

NAMED = (Part.TEAM, Part.SKILL, Part.TOOL)
"""The kinds of parts that other parts name."""

_LISTS = {
    "members": Part.MEMBER,
    "teams": Part.TEAM,
    "hats": Part.HAT,
    "skills": Part.SKILL,
    "tools": Part.TOOL,
}
# A field of an entry. The id is left out: a description of an invalid id quotes the id already.
_ENTRY = re.compile(rf"\w+\.({'|'.join(_LISTS)})\[(\d+)\]\.(?!(?:user_)?id$)")


def checked(workspace: Workspace, violations: Violations | None = None) -> Workspace:
    """Return the workspace in canonical order, so that equal workspaces compare equal.

    Args:
        workspace: The desired workspace.
        violations: Invalid fields that were found before, to be reported together with those found here.

    Raises:
        InvalidRequestError: Names every field out of bounds, every id or reference that occurs twice, every reference
            to an entry that does not exist, every hat that serves the whole workspace and has teams too, and every
            team that is its own ancestor or deeper than ten levels.
    """
    violations = Violations() if violations is None else violations
    _check_sizes(workspace)
    violations.identifier("workspace.id", workspace.id)
    violations.text("workspace.name", workspace.name, maximum=MAX_NAME)
    check_bounds(violations, "workspace", workspace)
    check_unique(violations, "workspace", workspace)
    catalog = workspace.catalog
    check_references(violations, "workspace", workspace, {part: ids_of(workspace, part) for part in NAMED})
    check_team_tree(violations, "workspace", catalog.teams, {team.id: team.parent_id for team in catalog.teams})
    _check_tool_paths(violations, catalog)
    name_entries(violations, workspace)
    violations.raise_if_any()
    return canonical(workspace)


def check_bytes(size: int) -> None:
    """Reject a workspace that has too many bytes as a message.

    Raises:
        WorkspaceTooLargeError: Its details are `bytes` and `limit`.
    """
    if size > MAX_BYTES:
        raise WorkspaceTooLargeError(
            f"The workspace would have {size} bytes, and at most {MAX_BYTES} are allowed: shorten descriptions and"
            " instructions.",
            bytes=str(size),
            limit=str(MAX_BYTES),
        )


def _check_sizes(workspace: Workspace) -> None:
    """Reject lists that are too long, before other checks take time for each element."""
    violations = Violations()
    catalog = workspace.catalog
    violations.count("workspace.members", workspace.members, maximum=MAX_MEMBERS)
    violations.count("workspace.teams", catalog.teams, maximum=MAX_TEAMS)
    violations.count("workspace.hats", catalog.hats, maximum=MAX_HATS)
    violations.count("workspace.skills", catalog.skills, maximum=MAX_SKILLS)
    violations.count("workspace.tools", catalog.tools, maximum=MAX_TOOLS)
    violations.raise_if_any()


def name_entries(violations: Violations, workspace: Workspace) -> None:
    """Add to each description the id of the entry, because people cannot count to entry 300.

    Args:
        violations: The invalid fields. Their paths are those of the lists of `workspace`, after a first name.
        workspace: The entries, in the order of the request.
    """
    parts = parts_of(workspace)

    def named(field: str) -> str:
        match = _ENTRY.match(field)
        entry = parts[_LISTS[match[1]]][int(match[2])] if match else None
        return f"of {quoted(entry.id)} " if entry and entry.id else ""

    violations.name_entries(named)


def check_bounds(violations: Violations, root: str, workspace: Workspace) -> None:
    """Check each field of each part by itself. The paths of the fields begin with `root`."""
    catalog = workspace.catalog
    if workspace.key_policy is not None:
        workspace.key_policy.check(violations, f"{root}.key_policy")
    for at, member in _paths(f"{root}.members", workspace.members):
        violations.foreign_id(f"{at}.user_id", member.id)
    for at, team in _paths(f"{root}.teams", catalog.teams):
        violations.identifier(f"{at}.id", team.id)
        violations.text(f"{at}.name", team.name, maximum=MAX_NAME)
    for at, hat in _paths(f"{root}.hats", catalog.hats):
        violations.identifier(f"{at}.id", hat.id)
        violations.text(f"{at}.name", hat.name, maximum=MAX_NAME)
        violations.text(f"{at}.description", hat.description, maximum=MAX_DESCRIPTION, required=False, lines=True)
        violations.text(f"{at}.instructions", hat.instructions, maximum=MAX_INSTRUCTIONS, required=False, lines=True)
        if hat.audience is HatAudience.WORKSPACE and hat.team_ids:
            violations.add(f"{at}.audience", "is the whole workspace, but the hat has team_ids too: leave one out")
    for at, skill in _paths(f"{root}.skills", catalog.skills):
        violations.identifier(f"{at}.id", skill.id)
        violations.text(f"{at}.name", skill.name, maximum=MAX_NAME)
        violations.text(f"{at}.description", skill.description, maximum=MAX_DESCRIPTION, required=False, lines=True)
        size = len("".join(skill.tool_ids).encode())
        if size > MAX_TOOL_ID_BYTES:
            violations.add(f"{at}.tool_ids", f"have {size} bytes together; at most {MAX_TOOL_ID_BYTES} are allowed")
    for at, tool in _paths(f"{root}.tools", catalog.tools):
        violations.foreign_id(f"{at}.id", tool.id)
        violations.foreign_id(f"{at}.name", tool.name)
        violations.foreign_id(f"{at}.mcp_server", tool.mcp_server)


def check_unique(violations: Violations, root: str, workspace: Workspace) -> None:
    """Check that no two parts of a kind have the same id, and no two tools of a server the same name."""
    catalog = workspace.catalog
    _unique(violations, f"{root}.members", "user_id", [member.id for member in workspace.members])
    _unique(violations, f"{root}.teams", "id", [team.id for team in catalog.teams])
    _unique(violations, f"{root}.hats", "id", [hat.id for hat in catalog.hats])
    _unique(violations, f"{root}.skills", "id", [skill.id for skill in catalog.skills])
    _unique(violations, f"{root}.tools", "id", [tool.id for tool in catalog.tools])
    _unique(violations, f"{root}.tools", "name", [(tool.mcp_server, tool.name) for tool in catalog.tools])


def check_references(
    violations: Violations, root: str, workspace: Workspace, known: Mapping[Part, Collection[str]]
) -> None:
    """Check that parts name only what exists, and nothing twice; the parent of a team is checked with the tree.

    Args:
        violations: Gets the invalid fields.
        root: What their paths begin with.
        workspace: The parts.
        known: The ids that exist, of each kind in `NAMED`; a set, or a mapping.
    """
    catalog = workspace.catalog
    if workspace.key_policy is not None:
        workspace.key_policy.check(violations, f"{root}.key_policy")
    for at, member in _paths(f"{root}.members", workspace.members):
        _references(violations, f"{at}.team_ids", member.team_ids, known[Part.TEAM])
    for at, hat in _paths(f"{root}.hats", catalog.hats):
        _references(violations, f"{at}.team_ids", hat.team_ids, known[Part.TEAM])
        _references(violations, f"{at}.skill_ids", hat.skill_ids, known[Part.SKILL])
    for at, skill in _paths(f"{root}.skills", catalog.skills):
        _references(violations, f"{at}.tool_ids", skill.tool_ids, known[Part.TOOL])


def ids_of(workspace: Workspace, part: Part) -> frozenset[str]:
    """Return the ids of all parts of a kind."""
    return frozenset(each.id for each in parts_of(workspace)[part])


def check_team_tree(
    violations: Violations, root: str, teams: Sequence[Team], parents: Mapping[TeamId, TeamId | None]
) -> None:
    """Check that the parents of teams exist, and that no team is its own ancestor or deeper than ten levels.

    Args:
        violations: Gets the invalid fields.
        root: What their paths begin with.
        teams: The teams to check.
        parents: The parent of each team of the workspace.
    """
    for at, team in _paths(f"{root}.teams", teams):
        if team.parent_id is not None and team.parent_id not in parents:
            violations.add(f"{at}.parent_id", f"names {quoted(team.parent_id)}, which does not exist")
            continue
        above: list[TeamId] = []
        parent = team.parent_id
        while parent is not None and parent != team.id and len(above) < MAX_TEAM_DEPTH:
            above.append(parent)
            parent = parents.get(parent)
        if parent == team.id:
            violations.add(f"{at}.parent_id", f"makes {quoted(team.id)} its own ancestor")
        elif len(above) == MAX_TEAM_DEPTH:
            # A team below a cycle, but not part of it, is reported here too.
            violations.add(f"{at}.parent_id", f"puts {quoted(team.id)} deeper than {MAX_TEAM_DEPTH} levels")


def _check_tool_paths(violations: Violations, catalog: Catalog) -> None:
    sizes = {skill.id: len(skill.tool_ids) for skill in catalog.skills}
    paths = sum(sizes.get(skill_id, 0) for hat in catalog.hats for skill_id in hat.skill_ids)
    if paths > MAX_TOOL_PATHS:
        violations.add("workspace.hats", f"reach tools by {paths} paths; at most {MAX_TOOL_PATHS} are allowed")


def _unique(violations: Violations, at: str, name: str, values: Sequence[Hashable]) -> None:
    seen: set[Hashable] = set()
    for index, value in enumerate(values):
        if value in seen:
            parts = value[::-1] if isinstance(value, tuple) else (value,)
            text = " on ".join(quoted(str(part)) for part in parts)
            violations.add(f"{at}[{index}].{name}", f"is {text}, which another entry has already")
        seen.add(value)


def _references(violations: Violations, at: str, values: Sequence[str], known: Collection[str]) -> None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value not in known:
            violations.add(f"{at}[{index}]", f"names {quoted(value)}, which does not exist")
        elif value in seen:
            violations.add(f"{at}[{index}]", f"names {quoted(value)} again")
        if violations.full:
            return
        seen.add(value)


def _paths(name: str, values: Sequence[Entry]) -> Iterable[tuple[str, Entry]]:
    for index, value in enumerate(values):
        yield f"{name}[{index}]", value


def canonical(workspace: Workspace) -> Workspace:
    """Return the same in one order, so that equal workspaces compare equal."""
    catalog = workspace.catalog
    return replace(
        workspace,
        members=_in_order(replace(each, team_ids=tuple(sorted(each.team_ids))) for each in workspace.members),
        catalog=Catalog(
            teams=_in_order(catalog.teams),
            hats=_in_order(
                replace(each, team_ids=tuple(sorted(each.team_ids)), skill_ids=tuple(sorted(each.skill_ids)))
                for each in catalog.hats
            ),
            skills=_in_order(replace(each, tool_ids=tuple(sorted(each.tool_ids))) for each in catalog.skills),
            tools=_in_order(catalog.tools),
        ),
    )


def _in_order(parts: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(parts, key=attrgetter("id")))
