"""The permission rule: key -> workspace -> hats -> skills -> tools."""

from collections.abc import Collection, Iterable, KeysView, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeVar

from skilder_keys.domain.ids import HatId, SkillId, TeamId
from skilder_keys.domain.workspace import HatAudience

MAX_PATHS = 10
"""The most paths that a grant of one tool lists."""


class Reach(NamedTuple):
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


class AssignedHat(Protocol):
    """What decides about who reaches a hat."""

    @property
    def id(self) -> HatId: ...  # noqa: D102 - as in domain.workspace.Hat
    @property
    def audience(self) -> HatAudience: ...  # noqa: D102
    @property
    def team_ids(self) -> Iterable[TeamId]: ...  # noqa: D102


AnyTeams = frozenset[TeamId] | KeysView[TeamId]
AnyHat = TypeVar("AnyHat", bound=AssignedHat)


@dataclass(frozen=True, slots=True)
class ToolPath:
    """A path from a key to a tool: a reached hat, and a skill of the hat that has the tool."""

    hat_id: HatId
    skill_id: SkillId


def reached_hats(hats: Iterable[AnyHat], parents: Mapping[TeamId, TeamId | None], reach: Reach) -> tuple[AnyHat, ...]:
    """Return the hats that a key reaches, in their order. It may use the enabled tools of the skills of these hats.

    A hat with the audience WORKSPACE serves everybody. Another hat serves its teams and the teams below them; without a
    team it serves nobody. A key reaches the hats that serve its user; a key without a user reaches all hats that serve
    anybody. A key with a limit reaches only those of them that the limit names.

    Args:
        hats: The hats of the workspace.
        parents: The team above each team of the workspace; None for a team at the top.
        reach: How much the key may see.
    """
    served = None if reach.team_ids is None else with_teams_above(reach.team_ids, parents)
    return tuple(hat for hat in hats if reaches(hat, served, reach.hat_ids))


def reaches(hat: AssignedHat, served: AnyTeams | None, named: frozenset[HatId] | None) -> bool:
    """Return whether a key reaches a hat: the rule of `reached_hats` for one.

    Args:
        hat: The hat.
        served: The teams whose hats serve the key's user; None for a key without a user.
        named: The hats that the key is limited to; None without a limit.
    """
    if named is not None and hat.id not in named:
        return False
    if hat.audience is HatAudience.WORKSPACE:
        return True
    return any(True for _ in hat.team_ids) if served is None else not served.isdisjoint(hat.team_ids)


def paths_through(hats: Iterable[tuple[HatId, Collection[SkillId]]]) -> tuple[list[ToolPath], int]:
    """Return the first MAX_PATHS paths to a tool, and how many there are.

    Args:
        hats: The reached hats, in order of id, each with those of its skills that have the tool.
    """
    paths: list[ToolPath] = []
    count = 0
    for hat_id, skill_ids in hats:
        count += len(skill_ids)
        if skill_ids and len(paths) < MAX_PATHS:
            paths.extend(ToolPath(hat_id, skill_id) for skill_id in sorted(skill_ids))
    return paths[:MAX_PATHS], count


def with_teams_above(team_ids: frozenset[TeamId], parents: Mapping[TeamId, TeamId | None]) -> frozenset[TeamId]:
    """Return some teams and all above them: the teams whose hats serve a user of these teams."""
    above: set[TeamId] = set()
    for start in team_ids:
        team_id: TeamId | None = start
        # To stop at a team that is in the set also ends a cycle, should one ever pass the checks.
        while team_id is not None and team_id not in above:
            above.add(team_id)
            team_id = parents.get(team_id)
    return frozenset(above)
