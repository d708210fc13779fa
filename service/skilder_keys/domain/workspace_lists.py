"""What lists of workspaces and of their parts choose. A field that is empty is no condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.domain.search import check_search

if TYPE_CHECKING:
    from skilder_keys.domain.fields import Violations
    from skilder_keys.domain.ids import SkillId, TeamId, UserId, WorkspaceId
    from skilder_keys.domain.workspace import MemberRole, WorkspaceStatus


@dataclass(frozen=True, slots=True)
class WorkspaceFilter:
    """Some workspaces.

    Attributes:
        user_id: Only those that have this member; None for any.
        show_deleted: Whether deleted ones are among them. They have no members.
    """

    user_id: UserId | None = None
    show_deleted: bool = False

    def check(self, violations: Violations) -> None:
        """Add every invalid field to `violations`."""
        violations.foreign_id("user_id", self.user_id or "", required=False)


@dataclass(frozen=True, slots=True)
class ListedWorkspace:
    """A workspace in a list.

    Attributes:
        member_role: The role of the user that the filter names; None if it names none.
    """

    status: WorkspaceStatus
    member_role: MemberRole | None = None

    @property
    def id(self) -> WorkspaceId:
        """The workspace's id."""
        return self.status.id


@dataclass(frozen=True, slots=True)
class MemberFilter:
    """Some members of a workspace. A member must match each field that is not empty.

    Attributes:
        text: Words in the user id.
        team_id: Those of this team itself, not of the teams below it.
    """

    workspace_id: WorkspaceId
    text: str = ""
    team_id: TeamId | None = None
    role: MemberRole | None = None

    def check(self, violations: Violations) -> None:
        """Add every invalid field to `violations`."""
        violations.identifier("workspace_id", self.workspace_id)
        check_search(violations, "text", self.text)
        violations.identifier("team_id", self.team_id or "", required=False)


@dataclass(frozen=True, slots=True)
class HatFilter:
    """Some hats of a workspace. A hat must match each field that is not empty.

    Attributes:
        text: Words in the id or the name.
        user_id: The hats that the keys of this user reach, as far as they are not limited; none if it is no member.
    """

    workspace_id: WorkspaceId
    text: str = ""
    user_id: UserId | None = None

    def check(self, violations: Violations) -> None:
        """Add every invalid field to `violations`."""
        violations.identifier("workspace_id", self.workspace_id)
        check_search(violations, "text", self.text)
        violations.foreign_id("user_id", self.user_id or "", required=False)


@dataclass(frozen=True, slots=True)
class ToolFilter:
    """Some tools of a workspace, also disabled ones. A tool must match each field that is not empty.

    Attributes:
        text: Words in the id or the name.
    """

    workspace_id: WorkspaceId
    text: str = ""
    mcp_server: str = ""
    skill_id: SkillId | None = None

    def check(self, violations: Violations) -> None:
        """Add every invalid field to `violations`."""
        violations.identifier("workspace_id", self.workspace_id)
        check_search(violations, "text", self.text)
        violations.foreign_id("mcp_server", self.mcp_server, required=False)
        violations.identifier("skill_id", self.skill_id or "", required=False)
