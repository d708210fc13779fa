"""What lists of workspaces and of their parts choose. A field that is empty is no condition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skilder_keys.domain.fields import Violations
    from skilder_keys.domain.ids import UserId, WorkspaceId
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
