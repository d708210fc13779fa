"""What a key reaches and why, and who reaches a tool."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from uuid import UUID

from skilder_keys.domain.denial import DenialReason
from skilder_keys.domain.ids import HatId, KeyId, TeamId, ToolId, UserId
from skilder_keys.domain.keys import Key
from skilder_keys.domain.permissions import Reach, ToolPath, reaches
from skilder_keys.domain.tool_sets import ToolName
from skilder_keys.domain.workspace import HatAudience


class HatReach(Enum):
    """Whether a key reaches a hat, and why."""

    WORKSPACE = "workspace"
    TEAM = "team"
    OUTSIDE_LIMIT = "outside_limit"
    NO_TEAM = "no_team"


@dataclass(frozen=True, slots=True)
class OutlinedHat:
    """A hat, as far as it decides who reaches it, and its name."""

    id: HatId
    name: str
    audience: HatAudience
    team_ids: tuple[TeamId, ...]


@dataclass(frozen=True, slots=True)
class HatExplanation:
    """Whether a key reaches a hat, and why.

    Attributes:
        team_ids: The teams from one of the user's teams up to one that the hat serves; empty unless `reach` is TEAM.
    """

    hat_id: HatId
    name: str
    reach: HatReach
    team_ids: tuple[TeamId, ...]

    @property
    def is_reached(self) -> bool:
        """Whether the key reaches the hat."""
        return self.reach in (HatReach.WORKSPACE, HatReach.TEAM)


@dataclass(frozen=True, slots=True)
class FoundTool:
    """An enabled tool."""

    id: ToolId
    name: str
    mcp_server: str


@dataclass(frozen=True, slots=True)
class GrantedTool:
    """A tool that a key reaches, the first paths to it, and how many there are."""

    tool: FoundTool
    paths: tuple[ToolPath, ...]
    path_count: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a key reaches and why, without the page of its tools.

    Attributes:
        denial: Why Authorize would deny its token, or the tool; None if it would not.
        hats: The hats of the workspace; empty on a later page.
        grant: The tool that was asked about, if Authorize would grant it.
    """

    key: Key
    denial: DenialReason | None
    hats: tuple[HatExplanation, ...]
    grant: GrantedTool | None


@dataclass(frozen=True, slots=True)
class ListedTools:
    """What a page token of ExplainKey or ListToolUsers is valid for.

    Attributes:
        of: The key or the workspace.
        tool_id: The tool, if it was named by its id.
        mcp_server: Its MCP server, if it was named by its name.
        tool_name: Its name on that server.
    """

    of: str
    tool_id: str | None
    mcp_server: str | None
    tool_name: str | None


def listed_tools(of: str, tool: ToolId | ToolName | None) -> ListedTools:
    """Return what a page token is valid for."""
    if isinstance(tool, ToolName):
        return ListedTools(of, None, tool.mcp_server, tool.name)
    return ListedTools(of, tool, None, None)


@dataclass(frozen=True, slots=True)
class ToolUser:
    """A member or a key that reaches a tool, and the first paths to it."""

    user: UserId | Key
    paths: tuple[ToolPath, ...]

    @property
    def id(self) -> str:
        """Where it stands in the list of a tool's users, as `position_of` returns it."""
        return position_of(self.user.id if isinstance(self.user, Key) else self.user)


def position_of(user: UserId | KeyId) -> str:
    """Return where a user stands in the list of a tool's users: the members come before the keys."""
    return f"key {user}" if isinstance(user, UUID) else f"member {user}"


def explain_hats(
    hats: Iterable[OutlinedHat], parents: Mapping[TeamId, TeamId | None], reach: Reach
) -> list[HatExplanation]:
    """Return of each hat whether a key reaches it, and why. `permissions.reached_hats` has the same rule."""
    ways = None if reach.team_ids is None else _ways_up(reach.team_ids, parents)
    return [_explain(hat, ways, reach.hat_ids) for hat in hats]


def _explain(
    hat: OutlinedHat, ways: Mapping[TeamId, tuple[TeamId, ...]] | None, named: frozenset[HatId] | None
) -> HatExplanation:
    way: tuple[TeamId, ...] = ()
    if not reaches(hat, None if ways is None else ways.keys(), named):
        reach = HatReach.NO_TEAM if named is None or hat.id in named else HatReach.OUTSIDE_LIMIT
    elif ways is None or hat.audience is HatAudience.WORKSPACE:
        reach = HatReach.WORKSPACE
    else:
        reach = HatReach.TEAM
        way = min((ways[each] for each in hat.team_ids if each in ways), key=lambda each: (len(each), each))
    return HatExplanation(hat.id, hat.name, reach, way)


def _ways_up(
    team_ids: Iterable[TeamId], parents: Mapping[TeamId, TeamId | None]
) -> Mapping[TeamId, tuple[TeamId, ...]]:
    """Return some teams and all above them, each with the shortest way to it from one of the teams."""
    ways: dict[TeamId, tuple[TeamId, ...]] = {}
    for start in sorted(team_ids):
        way: tuple[TeamId, ...] = ()
        team_id: TeamId | None = start
        # If a shorter way to a team is known, so is one to each team above it. This also ends a cycle.
        while team_id is not None and (team_id not in ways or len(ways[team_id]) > len(way) + 1):
            way = (*way, team_id)
            ways[team_id] = way
            team_id = parents.get(team_id)
    return ways
