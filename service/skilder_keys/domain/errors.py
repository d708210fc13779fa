"""The errors of the use cases. Each has a reason of the contract's ErrorReason; `rpc.status` has its status code.

The first line of an error's docstring is its default message for people. A denied token is not an error: see
`domain.denial`.
"""

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class FieldViolation:
    """An invalid field of a request.

    Attributes:
        field: The path of the field in the request, e.g. `workspace.hats[2].team_ids[0]`.
        description: What is wrong with the field: the end of a sentence that begins with its path.
    """

    field: str
    description: str


class KeysError(Exception):
    """The service failed: see its log."""

    reason: ClassVar[str] = "INTERNAL"
    metadata: ClassVar[tuple[str, ...]] = ()
    """The names of what programs need to know, in the order of the contract."""
    retry_after: timedelta | None = None
    """How long the caller should wait before it tries again, if it should."""

    def __init__(self, message: str = "", **details: str) -> None:
        """Make an error.

        Args:
            message: A sentence for people; by default the first line of the class's docstring.
            details: What programs need to know, by the names in `metadata`.

        Raises:
            TypeError: The details are not those of `metadata`.
        """
        if details.keys() != set(self.metadata):
            raise TypeError(f"{type(self).__name__} has the details {self.metadata}, not {tuple(details)}")
        super().__init__(message or (type(self).__doc__ or "").splitlines()[0])
        self.details: Mapping[str, str] = details


class InvalidRequestError(KeysError):
    """The request is malformed."""

    reason = "INVALID_REQUEST"

    def __init__(self, *violations: FieldViolation) -> None:
        """Make an error of all invalid fields; its message names the first three."""
        named = [f"{each.field} {each.description}" for each in violations[:3]]
        more = [f"and {len(violations) - 3} more"] if len(violations) > 3 else []  # noqa: PLR2004 - the three above
        super().__init__("; ".join(named + more))
        self.violations = violations


class ActorRequiredError(InvalidRequestError):
    """The caller must name the user for whom it makes the call."""

    reason = "ACTOR_REQUIRED"


class CallerNotAllowedError(KeysError):
    """The caller's role does not allow this method."""

    reason = "CALLER_NOT_ALLOWED"


class ForeignWorkspaceError(KeysError):
    """The caller is limited to other workspaces."""

    reason = "FOREIGN_WORKSPACE"


class ForeignMcpServerError(KeysError):
    """The caller is limited to other MCP servers."""

    reason = "FOREIGN_MCP_SERVER"


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


class ToolNotFoundError(KeysError):
    """The workspace has no such tool."""

    reason = "TOOL_NOT_FOUND"


class WorkspaceDeletedError(KeysError):
    """The workspace was deleted, and its id cannot be used again."""

    reason = "WORKSPACE_DELETED"


class VersionMismatchError(KeysError):
    """The workspace is not at the expected version: read it again, then repeat the change."""

    reason = "VERSION_MISMATCH"
    metadata = ("current_version",)


class TooManyChangedError(KeysError):
    """More would be removed or revoked than the request allows."""

    reason = "TOO_MANY_CHANGED"
    metadata = ("count", "allowed")


class WorkspaceTooLargeError(KeysError):
    """The workspace would have more bytes than a message may have."""

    reason = "WORKSPACE_TOO_LARGE"
    metadata = ("bytes", "limit")


class RequestUsedError(KeysError):
    """This request_id issued a key that has been used since: use a new request_id."""

    reason = "REQUEST_USED"
    metadata = ("key_id",)


class RequestRevokedError(KeysError):
    """This request_id issued a key that has been revoked since: use a new request_id."""

    reason = "REQUEST_REVOKED"
    metadata = ("key_id",)


class KeyNotActiveError(KeysError):
    """The key is not active."""

    reason = "KEY_NOT_ACTIVE"
    metadata = ("key_id", "state")


class KeyAlreadyRotatedError(KeysError):
    """The key was rotated: use its successor."""

    reason = "KEY_ALREADY_ROTATED"
    metadata = ("successor_id",)


class RuntimeHasKeysError(KeysError):
    """The runtime instance has keys: say with previous_keys what becomes of them."""

    reason = "RUNTIME_HAS_KEYS"
    metadata = ("family_id",)


class PolicyViolationError(KeysError):
    """The key would break the key policy of its workspace."""

    reason = "POLICY_VIOLATION"
    metadata = ("rule", "limit")


class DescriptionTakenError(KeysError):
    """Another key of the workspace has this description, and its key policy requires each to be unique."""

    reason = "DESCRIPTION_TAKEN"
    metadata = ("key_id",)


class ActivityRolledUpError(KeysError):
    """Counts of so short a length of time are not kept any more: ask for longer ones."""

    reason = "ACTIVITY_ROLLED_UP"
    metadata = ("step",)


class EventsPrunedError(KeysError):
    """The events that come next were pruned: list what is left, and follow from there."""

    reason = "EVENTS_PRUNED"
    metadata = ("first_number",)


class UnavailableError(KeysError):
    """The service cannot decide now: try again."""

    reason = "UNAVAILABLE"
    retry_after = timedelta(seconds=1)


class BusyError(UnavailableError):
    """The service is overloaded: try again a little later."""

    reason = "BUSY"
    retry_after = timedelta(seconds=2)

    def __init__(self, message: str = "", *, retry_after: timedelta = retry_after) -> None:
        """Make an error.

        Args:
            message: As in `KeysError`.
            retry_after: How long the service expects to be overloaded.
        """
        super().__init__(message)
        self.retry_after = retry_after
