"""A key in memory, and what the keys of a workspace share there."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from skilder_keys.app.authorization.snapshot import OPEN
from skilder_keys.domain.denial import DenialReason

if TYPE_CHECKING:
    from skilder_keys.app.authorization.tool_sets import SharedToolSet
    from skilder_keys.domain.access import Caller
    from skilder_keys.domain.ids import HatId, KeyId, TeamId, UserId, WorkspaceId
    from skilder_keys.domain.networks import Networks

_EXACT_SECONDS = 60.0


def fresh_until(asked_at: float, seconds_left: float | None) -> float:
    """Return until when a key can be used without reading it again.

    Of a long time a twentieth comes off, as of a lease, since two clocks never run at the same rate. When the key is
    read again then, what is left is shorter, so the last minute is counted exactly.

    Args:
        asked_at: A time before the query was sent.
        seconds_left: How long the key was still valid, by the database's clock; None if it does not expire.
    """
    if seconds_left is None or seconds_left <= 0:
        return math.inf
    return asked_at + (seconds_left if seconds_left <= _EXACT_SECONDS else seconds_left * 19 / 20)


class Scope:
    """The keys of a workspace in memory, for a change of all of them at once.

    Attributes:
        until: The last epoch at which they were what memory has; OPEN while no change has touched all of them.
    """

    __slots__ = ("__weakref__", "until", "workspace_id")

    def __init__(self, workspace_id: WorkspaceId) -> None:
        self.workspace_id = workspace_id
        self.until: float = OPEN


class KnownKey:
    """A key whose token was verified. Nothing here depends on its workspace.

    Attributes:
        digest: The `hashing.TokenFingerprint` digest of its only token.
        user_id: The user of a user key.
        hat_ids: The hats that a limited key may reach; None without a limit.
        team_ids: The teams whose hats it reaches, as in `permissions.Reach`; of a user key, the workspace knows them.
        networks: The networks from which it may be used; None for any.
        denial: Why it is denied, unless its workspace denies it first: see `outcome`; None if its workspace decides.
        fresh_until: When it has to be read again, on the clock of the lease: it may have expired by then, or its
            recorded last use may be so long ago that the next use must be recorded before it is granted.
        head: The first part of every grant: the key, serialised.
        runtime: The runtime instance of a runtime key, as a caller; None for other keys.
        claim: The hash of its secret while the next grant must record a use: no use is on record, or none for long
            and the key would be revoked for that. Then None.
        version: The version of its workspace at the label.
        label: An epoch at which this was its state.
    """

    __slots__ = (
        "_until", "claim", "denial", "digest", "fresh_until", "hat_ids", "head", "id", "label", "networks", "runtime",
        "scope", "team_ids", "user_id", "version",
    )  # fmt: skip

    def __init__(
        self,
        id_: KeyId,
        digest: bytes,
        scope: Scope,
        user_id: UserId | None,
        hat_ids: frozenset[HatId] | None,
        team_ids: frozenset[TeamId] | None,
        *,
        networks: Networks | None,
        denial: DenialReason | None,
        fresh_until: float,
        head: bytes,
        runtime: Caller | None,
        claim: str | None,
        version: int,
        label: int,
    ) -> None:
        self.id = id_
        self.digest = digest
        self.scope = scope
        self.user_id = user_id
        self.hat_ids = hat_ids
        self.team_ids = team_ids
        self.networks = networks
        self.denial = denial
        self.fresh_until = fresh_until
        self.head = head
        self.runtime = runtime
        self.claim = claim
        self.version = version
        self.label = label
        self._until: float = OPEN

    @property
    def workspace_id(self) -> WorkspaceId:
        """Its workspace."""
        return self.scope.workspace_id

    @property
    def until(self) -> float:
        """The last epoch at which this was its state; OPEN while no change has touched it."""
        return min(self._until, self.scope.until)

    def outcome(self, reached: SharedToolSet | DenialReason) -> SharedToolSet | DenialReason:
        """Return what the key reaches or why it is denied, by that of its workspace, which denies it first."""
        return reached if self.denial is None or isinstance(reached, DenialReason) else self.denial

    def close(self, epoch: float) -> None:
        """Note that this was its state up to an epoch, and not later."""
        self._until = min(self._until, epoch)
