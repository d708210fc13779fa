"""A workspace: its members, and what their agents may use."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId, UserId, WorkspaceId


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
    """A group of skills that an agent uses together. A hat without a team serves the whole workspace."""

    id: HatId
    name: str
    description: str
    instructions: str
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
    """A tool of an MCP server. Inactive tools are not granted."""

    id: ToolId
    name: str
    mcp_server: str
    active: bool


@dataclass(frozen=True, slots=True)
class Catalog:
    """What the keys of a workspace can reach, and the teams that decide which keys reach it."""

    teams: tuple[Team, ...]
    hats: tuple[Hat, ...]
    skills: tuple[Skill, ...]
    tools: tuple[Tool, ...]


@dataclass(frozen=True, slots=True)
class Workspace:
    """A whole workspace, as it is or as it is to be."""

    id: WorkspaceId
    name: str
    members: tuple[Member, ...]
    catalog: Catalog


@dataclass(frozen=True, slots=True)
class WorkspaceStatus:
    """A workspace without its contents.

    Attributes:
        version: 1 at first; each change adds 1.
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
