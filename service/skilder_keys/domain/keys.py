"""Keys, and the requests to issue and list them."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from enum import Enum

from skilder_keys.domain.fields import MAX_KEY_DESCRIPTION, Violations, quoted
from skilder_keys.domain.ids import HatId, KeyId, RuntimeId, TeamId, UserId, WorkspaceId
from skilder_keys.domain.permissions import NOTHING, Reach
from skilder_keys.domain.records import canonical_json
from skilder_keys.domain.token import KeyType, hint

MAX_NAMED_HATS = 100


class KeyState(Enum):
    """Whether a key can still be used."""

    ACTIVE = "active"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class Revocation:
    """The revocation of a key.

    Attributes:
        at: The time.
        by: A user id, or `caller:NAME`.
        reason: A text for people; may be empty.
    """

    at: datetime
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class Key:
    """A key, without its secret.

    Attributes:
        user_id: The user of a user key; None for other types.
        runtime_id: The instance of a runtime key; None for other types.
        hat_ids: The hats that a limited key may reach, in order, including removed ones; None without a limit.
        created_by: A user id, or `caller:NAME`.
        last_used_at: A time at most about a minute before the last use; None if it was never used.
        revocation: None while the key is active.
    """

    id: KeyId
    type: KeyType
    workspace_id: WorkspaceId
    user_id: UserId | None
    runtime_id: RuntimeId | None
    description: str
    hat_ids: tuple[HatId, ...] | None
    created_at: datetime
    created_by: str
    last_used_at: datetime | None
    revocation: Revocation | None

    @property
    def hint(self) -> str:
        """The prefix and the last characters of the id."""
        return hint(self.type, self.id)

    @property
    def state(self) -> KeyState:
        """Whether the key can still be used."""
        return KeyState.REVOKED if self.revocation else KeyState.ACTIVE


@dataclass(frozen=True, slots=True)
class Credential:
    """Everything that decides about a key's token, except the catalog.

    Attributes:
        secret_hash: The argon2id hash of the secret, a PHC string.
        workspace_version: The version of the workspace at the time of reading.
        workspace_deleted: Whether the workspace was deleted.
        user_is_member: Whether the key's user is a member of the workspace; False for a key without a user.
        team_ids: The teams of that user.
    """

    key: Key
    secret_hash: str
    workspace_version: int
    workspace_deleted: bool
    user_is_member: bool
    team_ids: frozenset[TeamId]

    @property
    def reach(self) -> Reach:
        """The part of its workspace that the key may see."""
        if self.key.type is KeyType.RUNTIME:
            return NOTHING
        return Reach(
            team_ids=self.team_ids if self.key.type is KeyType.USER else None,
            hat_ids=None if self.key.hat_ids is None else frozenset(self.key.hat_ids),
        )


@dataclass(frozen=True, slots=True)
class KeySpec:
    """The key to issue: the arguments of IssueKey that define it."""

    type: KeyType
    workspace_id: WorkspaceId
    user_id: UserId | None
    runtime_id: RuntimeId | None
    description: str
    hat_ids: tuple[HatId, ...]

    def digest(self, actor: UserId | None) -> bytes:
        """Return 32 bytes (SHA-256) that are the same for a retry of this request and differ for any other."""
        return hashlib.sha256(canonical_json(self, actor).encode()).digest()

    def check(self, violations: Violations) -> None:
        """Add every invalid field to `violations`."""
        violations.identifier("workspace_id", self.workspace_id)
        violations.text("description", self.description, maximum=MAX_KEY_DESCRIPTION)
        if self.type is KeyType.USER:
            violations.user("user_id", self.user_id or "")
        elif self.user_id:
            violations.add("user_id", f"is {quoted(self.user_id)}, but is for user keys only")
        if self.type is KeyType.RUNTIME:
            violations.foreign_id("runtime_id", self.runtime_id or "")
        elif self.runtime_id:
            violations.add("runtime_id", f"is {quoted(self.runtime_id)}, but is for runtime keys only")
        if self.type is KeyType.RUNTIME and self.hat_ids:
            violations.add("hat_ids", "must be empty: a runtime key has no tools")
        violations.count("hat_ids", self.hat_ids, maximum=MAX_NAMED_HATS)
        for index, hat_id in enumerate(self.hat_ids[:MAX_NAMED_HATS]):
            violations.identifier(f"hat_ids[{index}]", hat_id)
            if hat_id in self.hat_ids[:index]:
                violations.add(f"hat_ids[{index}]", f"names {quoted(hat_id)} again")


@dataclass(frozen=True, slots=True)
class KeyFilter:
    """Which keys of a workspace to list; None means any.

    Attributes:
        unused_since: Only keys that were last used before this time or, if never used, issued before it.
    """

    workspace_id: WorkspaceId
    type: KeyType | None = None
    user_id: UserId | None = None
    state: KeyState | None = None
    unused_since: datetime | None = None
