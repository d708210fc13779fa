"""The permission rule: key -> workspace -> hats -> skills -> tools."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId
from skilder_keys.domain.workspace import Catalog, Hat, HatAudience, Skill, Tool


@dataclass(frozen=True, slots=True)
class Reach:
    """How much of a workspace a key may see. Keys with equal reach share one tool set.

    Attributes:
        team_ids: The teams of the key's user; None for a key without a user, which reaches the hats of every team.
        hat_ids: The hats that the key was limited to when it was issued, including removed ones; None for a key
            without a limit.
    """

    team_ids: frozenset[TeamId] | None
    hat_ids: frozenset[HatId] | None


NOTHING = Reach(team_ids=frozenset(), hat_ids=frozenset())
"""The reach of a runtime key: it does not belong to an agent and has no tools."""


MAX_PATHS = 10
"""The most paths that a grant of one tool lists."""


@dataclass(frozen=True, slots=True)
class ReachedSkill:
    """A skill of a reached hat, with its enabled tools in order of id."""

    id: SkillId
    name: str
    tool_ids: tuple[ToolId, ...]


@dataclass(frozen=True, slots=True)
class ReachedHat:
    """A hat a key reaches, with its skills in order of id."""

    id: HatId
    name: str
    skill_ids: tuple[SkillId, ...]


@dataclass(frozen=True, slots=True)
class ToolPath:
    """A path from a key to a tool: a reached hat, and a skill of the hat that has the tool."""

    hat_id: HatId
    skill_id: SkillId


@dataclass(frozen=True, slots=True)
class ToolSet:
    """Everything that a key reaches: its hats, and their skills and tools, each one once. All are in order of id."""

    hats: tuple[ReachedHat, ...] = ()
    skills: tuple[ReachedSkill, ...] = ()
    tools: tuple[Tool, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolGrant:
    """The one tool that was asked for, and by which paths the key reaches it.

    Attributes:
        paths: The first paths in order of hat and skill, at most MAX_PATHS.
        path_count: How many paths there are.
    """

    tool: Tool
    paths: tuple[ToolPath, ...]
    path_count: int


def tool_grants(tools: ToolSet) -> dict[ToolId, ToolGrant]:
    """Return the grant of each tool of a tool set."""
    skills = {skill.id: skill for skill in tools.skills}
    paths: dict[ToolId, list[ToolPath]] = {tool.id: [] for tool in tools.tools}
    counts: Counter[ToolId] = Counter()
    for hat in tools.hats:
        for skill_id in hat.skill_ids:
            path = ToolPath(hat.id, skill_id)
            tool_ids = skills[skill_id].tool_ids
            counts.update(tool_ids)
            for tool_id in tool_ids:
                if len(paths[tool_id]) < MAX_PATHS:
                    paths[tool_id].append(path)
    return {tool.id: ToolGrant(tool, tuple(paths[tool.id]), counts[tool.id]) for tool in tools.tools}


def tool_set(catalog: Catalog, reach: Reach) -> ToolSet:
    """Return what a key with this reach may use.

    A hat with the audience WORKSPACE serves everybody. Another hat serves its teams and the teams below them; without a
    team it serves nobody. A key reaches the hats that serve its user; a key without a user reaches all hats that serve
    anybody. A key with a limit reaches only those of them that the limit names.
    """
    enabled = {tool.id: tool for tool in catalog.tools if not tool.disabled}
    parents = {team.id: team.parent_id for team in catalog.teams}
    hats = tuple(
        ReachedHat(hat.id, hat.name, tuple(sorted(hat.skill_ids)))
        for hat in reached_hats(sorted(catalog.hats, key=lambda hat: hat.id), parents, reach)
    )
    skill_ids = {skill_id for hat in hats for skill_id in hat.skill_ids}
    skills = tuple(
        _reached_skill(skill, enabled)
        for skill in sorted(catalog.skills, key=lambda skill: skill.id)
        if skill.id in skill_ids
    )
    tool_ids = {tool_id for skill in skills for tool_id in skill.tool_ids}
    return ToolSet(hats, skills, tuple(enabled[tool_id] for tool_id in sorted(tool_ids)))


def reached_hats(hats: Iterable[Hat], parents: Mapping[TeamId, TeamId | None], reach: Reach) -> tuple[Hat, ...]:
    """Return the hats that a key reaches, in their order.

    Args:
        hats: The hats of the workspace.
        parents: The team above each team of the workspace; None for a team at the top.
        reach: How much the key may see.
    """
    served = None if reach.team_ids is None else _with_teams_above(reach.team_ids, parents)
    return tuple(hat for hat in hats if _reaches(hat, served, reach.hat_ids))


def _reaches(hat: Hat, served: frozenset[TeamId] | None, named: frozenset[HatId] | None) -> bool:
    if named is not None and hat.id not in named:
        return False
    if hat.audience is HatAudience.WORKSPACE:
        return True
    return bool(hat.team_ids) if served is None else not served.isdisjoint(hat.team_ids)


def _with_teams_above(team_ids: frozenset[TeamId], parents: Mapping[TeamId, TeamId | None]) -> frozenset[TeamId]:
    above: set[TeamId] = set()
    for start in team_ids:
        team_id: TeamId | None = start
        # To stop at a team that is in the set also ends a cycle, should one ever pass the checks.
        while team_id is not None and team_id not in above:
            above.add(team_id)
            team_id = parents.get(team_id)
    return frozenset(above)


def _reached_skill(skill: Skill, enabled: dict[ToolId, Tool]) -> ReachedSkill:
    return ReachedSkill(skill.id, skill.name, tuple(sorted(id_ for id_ in skill.tool_ids if id_ in enabled)))
