"""A workspace: its members, and what their agents may use."""

from dataclasses import dataclass, fields
from datetime import datetime
from enum import Enum

from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId, UserId, WorkspaceId
from skilder_keys.domain.key_policy import NO_POLICY, KeyPolicy


class HatAudience(Enum):
    """Which keys reach a hat: those of its teams, or all of the workspace."""

    TEAMS = "teams"
    WORKSPACE = "workspace"


class MemberRole(Enum):
    """The role of a member, which decides what they may do with keys and the catalog."""

    ADMIN = "admin"
    EDITOR = "editor"
    VIEWER = "viewer"


@dataclass(frozen=True, slots=True)
class Member:
    """A person in a workspace, and the teams they are in."""

    id: UserId
    role: MemberRole
    team_ids: tuple[TeamId, ...]


@dataclass(frozen=True, slots=True)
class Team:
    """A team. Its members have its hats and those of every team above it."""

    id: TeamId
    name: str
    parent_id: TeamId | None


@dataclass(frozen=True, slots=True)
class Hat:
    """A group of skills that an agent uses together.

    Attributes:
        audience: WORKSPACE if the hat serves the whole workspace; TEAMS if it serves `team_ids` and the teams below.
            With TEAMS and no team it serves nobody.
        team_ids: Empty for WORKSPACE.
    """

    id: HatId
    name: str
    description: str
    instructions: str
    audience: HatAudience
    team_ids: tuple[TeamId, ...]
    skill_ids: tuple[SkillId, ...]


@dataclass(frozen=True, slots=True)
class Skill:
    """A group of tools that serve one purpose."""

    id: SkillId
    name: str
    description: str
    tool_ids: tuple[ToolId, ...]


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool of an MCP server. A disabled tool is not granted."""

    id: ToolId
    name: str
    mcp_server: str
    disabled: bool


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the keys of a workspace can reach, and the teams that decide which keys reach it."""

    teams: tuple[Team, ...]
    hats: tuple[Hat, ...]
    skills: tuple[Skill, ...]
    tools: tuple[Tool, ...]


@dataclass(frozen=True, slots=True)
class Workspace:
    """A whole workspace, as it is or as it is to be.

    Attributes:
        key_policy: What its keys must keep to. None in a workspace as it is to be: the policy stays.
    """

    id: WorkspaceId
    name: str
    members: tuple[Member, ...]
    catalog: Catalog
    key_policy: KeyPolicy | None = None


FIELDS = tuple(
    name
    for each in fields(Workspace)
    for name in ([each.name] if each.name != "catalog" else [part.name for part in fields(Catalog)])
)
"""The fields of a workspace as a message, which a mask can name: those of the records, without `catalog` itself."""


@dataclass(frozen=True, slots=True)
class WorkspaceStatus:
    """A workspace without its contents.

    Attributes:
        version: 1 at first; each change adds 1.
        key_policy: What its keys must keep to.
        created_at: The time when it was first applied.
        updated_at: The time of the last change.
        deleted_at: The time when it was deleted; None while it exists.
    """

    id: WorkspaceId
    name: str
    version: int
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
    key_policy: KeyPolicy = NO_POLICY
