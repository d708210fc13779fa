"""Keys, their states, and what decides about their tokens."""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from skilder_keys.domain.denial import DenialReason
from skilder_keys.domain.ids import HatId, KeyId, RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.key_policy import FRESH, PolicyRule
from skilder_keys.domain.labels import Label
from skilder_keys.domain.permissions import NOTHING, Reach
from skilder_keys.domain.principal import Principal
from skilder_keys.domain.token import KeyType, hint

MAX_NAMED_HATS = 100


class KeyState(Enum):
    """Whether a key can be used now. If several values apply, a key has the one that comes last here."""

    ACTIVE = "active"
    SUSPENDED = "suspended"
    EXPIRED = "expired"
    MEMBER_REMOVED = "member_removed"
    WORKSPACE_GONE = "workspace_gone"
    REVOKED = "revoked"


class RevokeScope(Enum):
    """Which keys a revocation ends."""

    KEY = "key"
    FAMILY = "family"


class PreviousKeys(Enum):
    """What becomes of the keys that a runtime instance already has when another is issued for it."""

    KEEP = "keep"
    REVOKE = "revoke"


class KeyLimit(Enum):
    """The limits that a key may have."""

    HATS = "hats"
    NETWORKS = "networks"
    EXPIRY = "expiry"


class KeyAction(Enum):
    """What may be done with a key."""

    UPDATE = "update"
    ROTATE = "rotate"
    SUSPEND = "suspend"
    RESUME = "resume"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class Revocation:
    """The revocation of a key.

    Attributes:
        at: The time.
        reason: A text for people; may be empty.
    """

    at: datetime
    by: Principal
    reason: str


@dataclass(frozen=True, slots=True)
class Suspension:
    """The suspension of a key, with the attributes of a `Revocation`."""

    at: datetime
    by: Principal
    reason: str


@dataclass(frozen=True, slots=True)
class Key:
    """A key, without its secret.

    Attributes:
        user_id: The user of a user key; None for other types.
        runtime_id: The instance of a runtime key; None for other types.
        hat_ids: The hats that a limited key may reach, in order, including removed ones; None without a limit.
        last_used_at: A time at most about a minute before the last use; None if it was never used.
        revocation: None if the key was not revoked.
        workspace_deleted: Whether the workspace was deleted.
        user_is_member: Whether the key's user is a member of the workspace; False for a key without a user.
        networks: The networks from which it may be used, as CIDR blocks; None for any.
        expires_at: When it expires; None if it does not.
        expired: Whether it had expired when it was read, by the database's clock.
        suspension: None if it is not suspended.
        version: How often it was changed, counted from 1.
        updated_at: When it was changed last; when it was issued, if it was not.
        labels: In order of name.
        family_id: The first key of those that follow each other by rotation; itself, if it follows none.
        predecessor_id: The key that it follows; None for the first.
        successor_id: The newest key that follows it; None if it was not rotated.
        has_live_successor: Whether a successor is neither revoked nor expired, where that was read.
        violations: The rules of the present key policy that it does not keep, where that was read.
        last_source_ip: The `source_ip` of the last grant that had one, where that was read; otherwise empty.
        actions: What somebody may do with it now, where it was read for them.
    """

    id: KeyId
    type: KeyType
    workspace_id: WorkspaceId
    user_id: UserId | None
    runtime_id: RuntimeId | None
    description: str
    hat_ids: tuple[HatId, ...] | None
    created_at: datetime
    created_by: Principal
    last_used_at: datetime | None
    revocation: Revocation | None
    workspace_deleted: bool
    user_is_member: bool
    networks: tuple[str, ...] | None
    expires_at: datetime | None
    expired: bool
    suspension: Suspension | None
    version: int
    updated_at: datetime
    labels: tuple[Label, ...]
    family_id: KeyId
    predecessor_id: KeyId | None
    successor_id: KeyId | None
    has_live_successor: bool = False
    violations: tuple[PolicyRule, ...] = ()
    last_source_ip: str = ""
    actions: tuple[KeyAction, ...] = ()

    @property
    def hint(self) -> str:
        """The prefix and the last characters of the id."""
        return hint(self.type, self.id)

    @property
    def reach(self) -> Reach:
        """How much of its workspace it may see, without the teams of its user."""
        if self.type is KeyType.RUNTIME:
            return NOTHING
        return Reach(None, None if self.hat_ids is None else frozenset(self.hat_ids))

    @property
    def state(self) -> KeyState:
        """Whether the key can be used now. Authorize decides by it."""
        return state_of(
            revoked=self.revocation is not None,
            workspace_deleted=self.workspace_deleted,
            member_removed=self.user_id is not None and not self.user_is_member,
            expired=self.expired,
            suspended=self.suspension is not None,
        )

    @property
    def denial(self) -> DenialReason | None:
        """Why Authorize denies its token, whatever is asked; None if it does not."""
        return None if self.state is KeyState.ACTIVE else DenialReason[self.state.name]


def state_of(
    *, revoked: bool, workspace_deleted: bool, member_removed: bool, expired: bool, suspended: bool
) -> KeyState:
    """Return the state of a key, by what decides about it. `storage.key_lists` has the same rule in SQL."""
    if revoked:
        return KeyState.REVOKED
    if workspace_deleted:
        return KeyState.WORKSPACE_GONE
    if member_removed:
        return KeyState.MEMBER_REMOVED
    if expired:
        return KeyState.EXPIRED
    return KeyState.SUSPENDED if suspended else KeyState.ACTIVE


@dataclass(slots=True)
class KeyFacts:
    """What a decision needs of a key. It is made for each key that a process sees for the first time, so it is small.

    The attributes are those of `Key`; `revoked` and `suspended` say whether it is.
    """

    id: KeyId
    type: KeyType
    workspace_id: WorkspaceId
    user_id: UserId | None
    runtime_id: RuntimeId | None
    description: str
    hat_ids: frozenset[HatId] | None
    networks: tuple[str, ...] | None
    expires_at: datetime | None
    family_id: KeyId
    revoked: bool
    suspended: bool

    @property
    def reach(self) -> Reach:
        """How much of its workspace it may see, without the teams of its user."""
        return NOTHING if self.type is KeyType.RUNTIME else Reach(None, self.hat_ids)


@dataclass(slots=True)
class Credential:
    """What decides about a key's token, except the contents of its workspace.

    Attributes:
        key: The key.
        secret_hash: The argon2id hash of the secret, a PHC string.
        workspace_version: The version of the workspace at the time of reading.
        unused_seconds: How long ago the recorded last use was, by the clock of the database; None without one.
        revoked_if_unused: Whether its workspace has the key policy that unused keys are revoked.
        seconds_left: How long the key was still valid, by the clock of the database; None if it does not expire.
    """

    key: KeyFacts
    secret_hash: str
    workspace_version: int
    unused_seconds: float | None = None
    revoked_if_unused: bool = False
    seconds_left: float | None = None

    @property
    def denial(self) -> DenialReason | None:
        """Why the token is denied, whatever its workspace has; None if the workspace decides."""
        if self.key.revoked:
            return DenialReason.REVOKED
        if self.seconds_left is not None and self.seconds_left <= 0:
            return DenialReason.EXPIRED
        return DenialReason.SUSPENDED if self.key.suspended else None

    @property
    def must_be_recorded(self) -> bool:
        """Whether the next use must be on record before it is granted.

        That is so for the first use. Where unused keys are revoked, it is so for each one that comes long after the
        last on record, so that no crash of a process makes a key look unused.
        """
        if self.unused_seconds is None:
            return True
        return self.revoked_if_unused and not 0 <= self.unused_seconds < FRESH.total_seconds()
