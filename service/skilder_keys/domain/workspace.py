"""A workspace: who is in it and what its agents may use."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId, UserId, WorkspaceId


class MemberRole(Enum):
    """What a member may do with keys and the catalog."""

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
    """The skills an agent has while it wears the hat. With no team, it serves the whole workspace."""

    id: HatId
    name: str
    description: str
    instructions: str
    team_ids: tuple[TeamId, ...]
    skill_ids: tuple[SkillId, ...]


@dataclass(frozen=True, slots=True)
class Skill:
    """The tools that belong to one ability."""

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
    """What a workspace's keys can reach, and the teams that decide which of them do."""

    teams: tuple[Team, ...]
    hats: tuple[Hat, ...]
    skills: tuple[Skill, ...]
    tools: tuple[Tool, ...]


@dataclass(frozen=True, slots=True)
class Workspace:
    """All of a workspace, as it is or as it should be."""

    id: WorkspaceId
    name: str
    members: tuple[Member, ...]
    catalog: Catalog


@dataclass(frozen=True, slots=True)
class WorkspaceStatus:
    """A workspace in brief.

    Attributes:
        version: Counts up with every change, from 1.
        created_at: When it was first applied.
        updated_at: When it last changed.
        deleted_at: When it was deleted; None while it exists.
    """

    id: WorkspaceId
    name: str
    version: int
    created_at: datetime
    updated_at: datetime
    deleted_at: datetime | None
