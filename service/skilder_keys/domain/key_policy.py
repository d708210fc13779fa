"""The key policy of a workspace: what keys that are issued in it must keep to."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import timedelta
from enum import Enum
from typing import TYPE_CHECKING

from skilder_keys.domain.durations import MAX_LIFETIME, MIN_LIFETIME, check_length, in_words
from skilder_keys.domain.errors import PolicyViolationError
from skilder_keys.domain.token import KeyType

if TYPE_CHECKING:
    from datetime import datetime

    from skilder_keys.domain.fields import Violations
    from skilder_keys.domain.key_spec import KeySpec

MAX_KEYS_PER_USER = 10_000
MIN_UNUSED = timedelta(days=1)

FRESH = timedelta(minutes=30)
"""Where unused keys are revoked: how long a process may use a key without reading it again, and how old its recorded
last use may be then. If that is older, the use is recorded before the key is granted."""
BEHIND = timedelta(minutes=90)
"""So a recorded last use is at most this far behind: twice FRESH, and room for clocks that run at other rates."""


class PolicyRule(Enum):
    """The rules of a key policy. The values are the fields of KeyPolicy."""

    MAX_LIFETIME = "max_lifetime"
    REVOKE_UNUSED_AFTER = "revoke_unused_after"
    MAX_ACTIVE_KEYS_PER_USER = "max_active_keys_per_user"
    REQUIRE_HAT_LIMIT = "require_hat_limit"
    UNIQUE_DESCRIPTIONS = "unique_descriptions"


@dataclass(frozen=True, slots=True)
class KeyPolicy:
    """What keys must keep to when they are issued or changed, and when they are unused.

    Attributes:
        max_lifetime: The longest lifetime. Keys that are issued without an expiry get it. None for any.
        revoke_unused_after: How long a key may be unused until the service revokes it; None for ever.
        max_active_keys_per_user: The most user keys that a user may have; None for any number.
        require_hat_limit: Whether workspace keys must be limited to named hats.
        unique_descriptions: Whether no two live keys may have the same description.
    """

    max_lifetime: timedelta | None = None
    revoke_unused_after: timedelta | None = None
    max_active_keys_per_user: int | None = None
    require_hat_limit: bool = False
    unique_descriptions: bool = False

    def check(self, violations: Violations, at: str) -> None:
        """Add every field out of bounds. The paths of the fields begin with `at`."""
        if self.max_lifetime is not None:
            check_length(violations, f"{at}.max_lifetime", self.max_lifetime, MIN_LIFETIME, MAX_LIFETIME)
        if self.revoke_unused_after is not None:
            check_length(violations, f"{at}.revoke_unused_after", self.revoke_unused_after, MIN_UNUSED, MAX_LIFETIME)
        most = self.max_active_keys_per_user
        if most is not None and not 0 <= most <= MAX_KEYS_PER_USER:
            violations.add(f"{at}.max_active_keys_per_user", f"is {most}; 0 to {MAX_KEYS_PER_USER} are allowed")

    def plain(self) -> dict[str, object]:
        """Return the rules that hold, as JSON values; lengths of time are in seconds."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            name: value.total_seconds() if isinstance(value, timedelta) else value
            for name, value in values.items()
            if value is not None and value is not False
        }

    def limit_lifetime(self, spec: KeySpec, now: datetime) -> KeySpec:
        """Return a key to issue with the lifetime that it gets: the longest one, if none is said or usual.

        Args:
            spec: The key.
            now: When it is issued.

        Raises:
            PolicyViolationError: It would live longer.
        """
        if self.max_lifetime is None:
            return spec
        if spec.expires_at is None and spec.lifetime is None:
            return replace(spec, lifetime=min(self.max_lifetime, spec.default_lifetime or self.max_lifetime))
        self.require_lifetime(spec.lifetime if spec.expires_at is None else spec.expires_at - now)
        return spec

    def require_lifetime(self, lifetime: timedelta | None) -> None:
        """Raise PolicyViolationError if a lifetime is too long; None is without end."""
        most = self.max_lifetime
        if most is not None and (lifetime is None or lifetime > most):
            raise PolicyViolationError(
                f"The key policy of the workspace allows keys a lifetime of {in_words(most)} at most.",
                rule=PolicyRule.MAX_LIFETIME.name,
                limit=f"{most.total_seconds():.15g}s",
            )

    def require_count(self, count: int) -> None:
        """Raise PolicyViolationError if a user who has this many keys may not have another one."""
        most = self.max_active_keys_per_user
        if most is not None and count >= most:
            raise PolicyViolationError(
                f"The key policy of the workspace allows a user {most} keys, and this one has {count}: revoke one.",
                rule=PolicyRule.MAX_ACTIVE_KEYS_PER_USER.name,
                limit=str(most),
            )

    def require_hats(self, type_: KeyType, *, limited: bool) -> None:
        """Raise PolicyViolationError if a key must be limited to hats and is not."""
        if self.require_hat_limit and type_ is KeyType.WORKSPACE and not limited:
            raise PolicyViolationError(
                "The key policy of the workspace requires workspace keys to be limited to hats: set hat_limit.",
                rule=PolicyRule.REQUIRE_HAT_LIMIT.name,
                limit="true",
            )


NO_POLICY = KeyPolicy()
