"""The requests to issue keys, and checks that requests to change them share."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta

from skilder_keys.domain.durations import MAX_LIFETIME, MIN_LIFETIME, check_length
from skilder_keys.domain.fields import MAX_KEY_DESCRIPTION, Violations, quoted
from skilder_keys.domain.ids import HatId, RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.keys import MAX_NAMED_HATS, KeyLimit, PreviousKeys
from skilder_keys.domain.labels import Label, check_labels
from skilder_keys.domain.networks import check_networks
from skilder_keys.domain.records import canonical_json
from skilder_keys.domain.token import KeyType

RUNTIME_LIFETIME = timedelta(days=30)
"""How long a runtime key lives if nobody says otherwise."""


@dataclass(frozen=True, slots=True)
class KeySpec:
    """The key to issue: the arguments of IssueKey that define it.

    Attributes:
        hat_ids: The hats that the key is limited to; empty for a key that reaches no hat; None without a limit.
        unlimited: The limits that the key does not have. A key that can reach hats needs `hat_ids` or KeyLimit.HATS
            here, so that a limit that was forgotten does not issue a key without one.
        expires_at: When the key expires; None if that is not given as a time.
        lifetime: How long the key is valid; None if that is not given. Without both it does not expire, except a
            runtime key, which gets RUNTIME_LIFETIME.
        labels: In order of name.
        previous_keys: What becomes of the keys that the instance of a runtime key already has; None if that is not
            said.
        networks: The networks from which it may be used; None for any.
    """

    type: KeyType
    workspace_id: WorkspaceId
    user_id: UserId | None
    runtime_id: RuntimeId | None
    description: str
    hat_ids: tuple[HatId, ...] | None
    unlimited: tuple[KeyLimit, ...]
    expires_at: datetime | None = None
    lifetime: timedelta | None = None
    labels: tuple[Label, ...] = ()
    previous_keys: PreviousKeys | None = None
    networks: tuple[str, ...] | None = None

    @property
    def default_lifetime(self) -> timedelta | None:
        """How long the key is valid if neither `expires_at` nor `lifetime` is given; None for ever."""
        return RUNTIME_LIFETIME if self.type is KeyType.RUNTIME else None

    def digest(self, actor: UserId | None) -> bytes:
        """Return 32 bytes (SHA-256) that are the same for a retry of this request and differ for any other.

        Fields with a default were added later. They count only if they are set, so that a retry after an upgrade is
        recognized.
        """
        return hashlib.sha256(canonical_json(self, actor).encode()).digest()

    def check(self, violations: Violations) -> None:
        """Add every invalid field to `violations`."""
        violations.identifier("workspace_id", self.workspace_id)
        violations.text("description", self.description, maximum=MAX_KEY_DESCRIPTION)
        if self.type is KeyType.USER:
            violations.foreign_id("user_id", self.user_id or "")
        elif self.user_id:
            violations.add("user_id", f"is {quoted(self.user_id)}, but is for user keys only")
        if self.type is KeyType.RUNTIME:
            violations.foreign_id("runtime_id", self.runtime_id or "")
        elif self.runtime_id:
            violations.add("runtime_id", f"is {quoted(self.runtime_id)}, but is for runtime keys only")
        if self.type is not KeyType.RUNTIME and self.previous_keys is not None:
            violations.add("previous_keys", "is set, but is for runtime keys only")
        self._check_limits(violations)
        if self.lifetime is not None:
            check_length(violations, "lifetime", self.lifetime, MIN_LIFETIME, MAX_LIFETIME)
        check_labels(violations, self.labels)
        if self.networks is not None:
            check_networks(violations, "network_limit.networks", self.networks)
        check_hat_ids(violations, "hat_limit.hat_ids", self.hat_ids or ())

    def _check_limits(self, violations: Violations) -> None:
        limited, unlimited = self.hat_ids is not None, KeyLimit.HATS in self.unlimited
        if self.type is KeyType.RUNTIME:
            if limited:
                violations.add("hat_limit", "must not be set: a runtime key has no tools")
            if unlimited:
                violations.add("unlimited", "must be empty: a runtime key has no tools")
        elif limited and unlimited:
            violations.add("hat_limit", "is set, but unlimited has KEY_LIMIT_HATS: leave one of the two out")
            violations.add("unlimited", "has KEY_LIMIT_HATS, but hat_limit is set: leave one of the two out")
        elif not limited and not unlimited:
            violations.add(
                "hat_limit", "is required: name the hats that the key may reach, or add KEY_LIMIT_HATS to unlimited"
            )
            violations.add(
                "unlimited", "is required: add KEY_LIMIT_HATS if the key may reach every hat, or set hat_limit"
            )
        for index, limit in enumerate(self.unlimited):
            if limit is not KeyLimit.HATS:
                violations.add(f"unlimited[{index}]", f"is KEY_LIMIT_{limit.name}: a new key needs KEY_LIMIT_HATS only")
        check_listed_once(violations, self.unlimited)


def check_hat_ids(violations: Violations, field: str, hat_ids: tuple[HatId, ...]) -> None:
    """Check the list of the hats that a key is limited to."""
    violations.count(field, hat_ids, maximum=MAX_NAMED_HATS)
    for index, hat_id in enumerate(hat_ids[:MAX_NAMED_HATS]):
        violations.identifier(f"{field}[{index}]", hat_id)
        if hat_id in hat_ids[:index]:
            violations.add(f"{field}[{index}]", f"names {quoted(hat_id)} again")


def check_listed_once(violations: Violations, unlimited: tuple[KeyLimit, ...]) -> None:
    """Check that each limit in `unlimited` is there once."""
    for index, limit in enumerate(unlimited):
        if limit in unlimited[:index]:
            violations.add(f"unlimited[{index}]", f"names KEY_LIMIT_{limit.name} again")
