"""What can go wrong with a use case. Each error knows its stable reason; `rpc.status` knows its status code.

That a token is denied is not an error: see `domain.denial`.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """A field of a request that is not as it must be.

    Attributes:
        field: The path of the field in the request, e.g. `workspace.hats[2].team_ids[0]`.
        description: What is wrong with it, as the end of a sentence that begins with the field.
    """

    field: str
    description: str


class KeysError(Exception):
    """The service failed; its log tells how."""

    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str = "", **details: str) -> None:
        """Takes a sentence for people (by default the class's own) and details for programs."""
        super().__init__(message or (type(self).__doc__ or "").splitlines()[0])
        self.details: Mapping[str, str] = details


class InvalidRequestError(KeysError):
    """The request is malformed."""

    reason = "INVALID_REQUEST"

    def __init__(self, *violations: FieldViolation) -> None:
        """Takes every field at fault; the sentence tells the first three."""
        told = [f"{each.field} {each.description}" for each in violations[:3]]
        more = [f"and {len(violations) - 3} more"] if len(violations) > 3 else []  # noqa: PLR2004
        super().__init__("; ".join(told + more))
        self.violations = violations


class CallerNotAllowedError(KeysError):
    """The caller's role does not allow this method."""

    reason = "CALLER_NOT_ALLOWED"


class ForeignWorkspaceError(KeysError):
    """A runtime instance may ask about keys of its own workspace only."""

    reason = "FOREIGN_WORKSPACE"


class ActorNotMemberError(KeysError):
    """The actor is not a member of the workspace."""

    reason = "ACTOR_NOT_MEMBER"


class ActorNotAllowedError(KeysError):
    """The actor may not do this."""

    reason = "ACTOR_NOT_ALLOWED"


class KeyNotFoundError(KeysError):
    """There is no such key."""

    reason = "KEY_NOT_FOUND"


class WorkspaceNotFoundError(KeysError):
    """There is no such workspace."""

    reason = "WORKSPACE_NOT_FOUND"


class WorkspaceDeletedError(KeysError):
    """The workspace was deleted; its id is not used again."""

    reason = "WORKSPACE_DELETED"


class VersionMismatchError(KeysError):
    """The workspace is not at the expected version: read it again and decide anew."""

    reason = "VERSION_MISMATCH"


class TooManyChangedError(KeysError):
    """More would be removed than is allowed without saying so."""

    reason = "TOO_MANY_CHANGED"


class RequestUsedError(KeysError):
    """This request_id issued a key that has been used since, so its first answer arrived."""

    reason = "REQUEST_USED"


class RequestRevokedError(KeysError):
    """This request_id issued a key that has been revoked since: use a new request_id."""

    reason = "REQUEST_REVOKED"


class UnavailableError(KeysError):
    """The service cannot decide now: try again."""

    reason = "UNAVAILABLE"


class BusyError(UnavailableError):
    """The service has more to do than it can: try again a little later."""

    reason = "BUSY"
