"""Rotation: a key gets a successor, and expires after a grace."""

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from skilder_keys.domain.durations import MAX_LIFETIME, MIN_LIFETIME, check_length
from skilder_keys.domain.records import canonical_json

if TYPE_CHECKING:
    from skilder_keys.domain.fields import Violations
    from skilder_keys.domain.ids import KeyId, UserId

DEFAULT_GRACE = timedelta(days=1)
MAX_GRACE = timedelta(days=30)


@dataclass(frozen=True, slots=True)
class RotationSpec:
    """How to rotate a key: the arguments of RotateKey that define the successor and the rest of the key's life.

    Attributes:
        grace: How long the key works beside its successor; None for DEFAULT_GRACE.
        expires_at: When the successor expires; None if that is not given as a time.
        lifetime: How long the successor lives; None if that is not given.
    """

    grace: timedelta | None = None
    expires_at: datetime | None = None
    lifetime: timedelta | None = None

    def digest(self, key_id: "KeyId", actor: "UserId | None") -> bytes:
        """Return 32 bytes (SHA-256) that are the same for a retry of this request and differ for any other."""
        return hashlib.sha256(canonical_json(self, "rotation", str(key_id), actor).encode()).digest()

    def check(self, violations: "Violations") -> None:
        """Add every invalid field to `violations`."""
        if self.grace is not None:
            check_length(violations, "grace", self.grace, timedelta(0), MAX_GRACE)
        if self.lifetime is not None:
            check_length(violations, "lifetime", self.lifetime, MIN_LIFETIME, MAX_LIFETIME)
