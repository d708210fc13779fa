"""Memory: keys on one level, workspaces on the other. The fence keeps both in step with the database.

docs/fence.md explains why two levels never mix two states.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from skilder_keys.app.authorization.tool_sets import SharedToolSet
from skilder_keys.domain.denial import DenialReason

if TYPE_CHECKING:
    from skilder_keys.app.authorization.key_cache import KeyCache
    from skilder_keys.app.authorization.known_key import KnownKey
    from skilder_keys.app.authorization.missing import PartKey
    from skilder_keys.app.authorization.snapshots import Snapshots
    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.storage.fence import Change

    Access = tuple[KnownKey, SharedToolSet | DenialReason]
    """A key whose token was verified, and what it reaches or why it is denied."""


class Memory:
    """What this process remembers.

    Attributes:
        hits: The number of queries that were decided from here.
        misses: The number of queries that were not.
    """

    def __init__(self, keys: KeyCache, snapshots: Snapshots) -> None:
        self._keys = keys
        self._snapshots = snapshots
        self.hits = 0
        self.misses = 0

    @property
    def key_count(self) -> int:
        """How many keys are here."""
        return len(self._keys)

    @property
    def workspace_count(self) -> int:
        """How many workspaces are here."""
        return len(self._snapshots)

    @property
    def workspace_bytes(self) -> int:
        """About how many bytes of memory the workspaces take."""
        return self._snapshots.weight

    @property
    def evicted_workspaces(self) -> int:
        """How many workspaces were dropped to make room for others."""
        return self._snapshots.evicted

    def find(self, text: str) -> Access | None:
        """Return what memory knows of a token; None if something is not here, or without a valid lease.

        A key whose first use is not recorded yet is not found, unless it is denied.
        """
        known = self._keys.find(text)
        if known is None:
            return None
        if known.denial is not None:
            return self._denied(known)
        snapshot = self._snapshots.current(known.scope.workspace_id)
        reached = None if snapshot is None else snapshot.reached(known)
        if reached is None or (known.claim is not None and isinstance(reached, SharedToolSet)):
            return None
        return known, reached

    def _denied(self, known: KnownKey) -> Access | None:
        if known.denial is DenialReason.REVOKED:
            return known, DenialReason.REVOKED
        snapshot = self._snapshots.current(known.scope.workspace_id)
        reached = None if snapshot is None else snapshot.reached(known)
        return None if reached is None else (known, known.outcome(reached))

    def apply(self, change: Change) -> None:
        """Make both levels forget what a change has touched. No other change may be applied meanwhile."""
        epoch = change.revision.epoch
        parts: dict[WorkspaceId, set[PartKey]] = defaultdict(set)
        for touch in change.touches:
            if touch.workspace_id is not None and touch.part is not None:
                parts[touch.workspace_id].add((touch.part, touch.part_id))
            else:
                self._keys.apply(touch.key_id, touch.workspace_id, epoch)
        for workspace_id, touched in parts.items():
            self._snapshots.apply(workspace_id, touched, epoch)

    def drop_all(self) -> None:
        """Forget everything, and make the results of all loads unusable."""
        self._keys.drop_all()
        self._snapshots.drop_all()
