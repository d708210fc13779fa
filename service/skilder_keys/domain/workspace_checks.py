"""The checks of a desired workspace, before any of it is applied."""

import re
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, TypeVar

from skilder_keys.domain.errors import WorkspaceTooLargeError
from skilder_keys.domain.fields import MAX_DESCRIPTION, MAX_INSTRUCTIONS, MAX_NAME, Violations, quoted
from skilder_keys.domain.workspace import Catalog, Hat, HatAudience, Member, Skill, Team, Tool, Workspace

if TYPE_CHECKING:
    from skilder_keys.domain.ids import TeamId

Part = TypeVar("Part", Member, Team, Hat, Skill, Tool)

MAX_TEAM_DEPTH = 10
MAX_MEMBERS = 10_000
MAX_TEAMS = 1_000
MAX_HATS = 1_000
MAX_SKILLS = 5_000
MAX_TOOLS = 20_000
MAX_TOOL_PATHS = 50_000
MAX_TOOL_ID_BYTES = 3 * 2**20
"""The most bytes of the ids of the tools of a skill together, so that a skill fits into a part of a tool set."""
MAX_BYTES = 16 * 2**20 - 2**10
"""The most bytes of a workspace as a message, so that GetWorkspace never answers with more than 16 MiB."""

# A field of an entry. The id is left out: a description of an invalid id quotes the id already.
_ENTRY = re.compile(r"workspace\.(members|teams|hats|skills|tools)\[(\d+)\]\.(?!(?:user_)?id$)")


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
    _check_bounds(violations, workspace)
    _check_references(violations, workspace)
    _name_entries(violations, workspace)
    violations.raise_if_any()
    return _canonical(workspace)


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


def _name_entries(violations: Violations, workspace: Workspace) -> None:
    """Add to each description the id of the entry, because people cannot count to entry 300."""
    catalog = workspace.catalog
    parts: dict[str, Sequence[Member | Team | Hat | Skill | Tool]] = {
        "members": workspace.members,
        "teams": catalog.teams,
        "hats": catalog.hats,
        "skills": catalog.skills,
        "tools": catalog.tools,
    }

    def named(field: str) -> str:
        match = _ENTRY.match(field)
        entry = parts[match[1]][int(match[2])] if match else None
        return f"of {quoted(entry.id)} " if entry and entry.id else ""

    violations.name_entries(named)


def _check_bounds(violations: Violations, workspace: Workspace) -> None:
    catalog = workspace.catalog
    violations.identifier("workspace.id", workspace.id)
    violations.text("workspace.name", workspace.name, maximum=MAX_NAME)
    for at, member in _paths("members", workspace.members):
        violations.foreign_id(f"{at}.user_id", member.id)
    for at, team in _paths("teams", catalog.teams):
        violations.identifier(f"{at}.id", team.id)
        violations.text(f"{at}.name", team.name, maximum=MAX_NAME)
    for at, hat in _paths("hats", catalog.hats):
        violations.identifier(f"{at}.id", hat.id)
        violations.text(f"{at}.name", hat.name, maximum=MAX_NAME)
        violations.text(f"{at}.description", hat.description, maximum=MAX_DESCRIPTION, required=False, lines=True)
        violations.text(f"{at}.instructions", hat.instructions, maximum=MAX_INSTRUCTIONS, required=False, lines=True)
        if hat.audience is HatAudience.WORKSPACE and hat.team_ids:
            violations.add(f"{at}.audience", "is the whole workspace, but the hat has team_ids too: leave one out")
    for at, skill in _paths("skills", catalog.skills):
        violations.identifier(f"{at}.id", skill.id)
        violations.text(f"{at}.name", skill.name, maximum=MAX_NAME)
        violations.text(f"{at}.description", skill.description, maximum=MAX_DESCRIPTION, required=False, lines=True)
        size = len("".join(skill.tool_ids).encode())
        if size > MAX_TOOL_ID_BYTES:
            violations.add(f"{at}.tool_ids", f"have {size} bytes together; at most {MAX_TOOL_ID_BYTES} are allowed")
    for at, tool in _paths("tools", catalog.tools):
        violations.foreign_id(f"{at}.id", tool.id)
        violations.foreign_id(f"{at}.name", tool.name)
        violations.foreign_id(f"{at}.mcp_server", tool.mcp_server)


def _check_references(violations: Violations, workspace: Workspace) -> None:
    catalog = workspace.catalog
    _unique(violations, "workspace.members", "user_id", [member.id for member in workspace.members])
    _unique(violations, "workspace.teams", "id", [team.id for team in catalog.teams])
    _unique(violations, "workspace.hats", "id", [hat.id for hat in catalog.hats])
    _unique(violations, "workspace.skills", "id", [skill.id for skill in catalog.skills])
    _unique(violations, "workspace.tools", "id", [tool.id for tool in catalog.tools])
    _unique(violations, "workspace.tools", "name", [(tool.mcp_server, tool.name) for tool in catalog.tools])

    teams = {team.id for team in catalog.teams}
    skills = {skill.id for skill in catalog.skills}
    tools = {tool.id for tool in catalog.tools}
    for at, member in _paths("members", workspace.members):
        _references(violations, f"{at}.team_ids", member.team_ids, teams)
    for at, hat in _paths("hats", catalog.hats):
        _references(violations, f"{at}.team_ids", hat.team_ids, teams)
        _references(violations, f"{at}.skill_ids", hat.skill_ids, skills)
    for at, skill in _paths("skills", catalog.skills):
        _references(violations, f"{at}.tool_ids", skill.tool_ids, tools)
    _check_team_tree(violations, catalog.teams)
    _check_tool_paths(violations, catalog)


def _check_team_tree(violations: Violations, teams: Sequence[Team]) -> None:
    parents = {team.id: team.parent_id for team in teams}
    for at, team in _paths("teams", teams):
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


def _references(violations: Violations, at: str, values: Sequence[str], known: Iterable[str]) -> None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value not in known:
            violations.add(f"{at}[{index}]", f"names {quoted(value)}, which does not exist")
        elif value in seen:
            violations.add(f"{at}[{index}]", f"names {quoted(value)} again")
        if violations.full:
            return
        seen.add(value)


def _paths(name: str, values: Sequence[Part]) -> Iterable[tuple[str, Part]]:
    for index, value in enumerate(values):
        yield f"workspace.{name}[{index}]", value


def _canonical(workspace: Workspace) -> Workspace:
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


def _in_order(parts: Iterable[Part]) -> tuple[Part, ...]:
    return tuple(sorted(parts, key=attrgetter("id")))
