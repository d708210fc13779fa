"""Memory: keys on one level, workspaces on the other. The fence keeps both in step with the database.

docs/fence.md explains why two levels never mix two states.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import TYPE_CHECKING

from skilder_keys.app.authorization.tool_sets import SharedToolSet
from skilder_keys.app.batching import retrieve
from skilder_keys.domain.denial import DenialReason

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skilder_keys.app.authorization.key_cache import KeyCache
    from skilder_keys.app.authorization.known_key import KnownKey
    from skilder_keys.app.authorization.missing import PartKey
    from skilder_keys.app.authorization.snapshot_load import Ahead
    from skilder_keys.app.authorization.snapshots import Snapshots
    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.storage.fence import Change, Touch

    Access = tuple[KnownKey, SharedToolSet | DenialReason]
    """A key whose token was verified, and what it reaches or why it is denied."""

_AHEAD_SECONDS = 0.02
"""How long a change may wait for what is read ahead of it. Whoever made the change waits as long, at most."""
_MOST_AHEAD = 8
"""The most workspaces that are read ahead of changes that come together."""


class Memory:
    """What this process remembers.

    Attributes:
        granted: The number of queries that `Authorizer.grant` granted from here.
        found: The number of other queries whose key was here.
        misses: The number of queries that were not.
    """

    def __init__(self, keys: KeyCache, snapshots: Snapshots) -> None:
        self._keys = keys
        self._snapshots = snapshots
        self.granted = 0
        self.found = 0
        self.misses = 0

    @property
    def hits(self) -> int:
        """How many queries were decided from here."""
        return self.granted + self.found

    @property
    def key_count(self) -> int:
        """How many keys are here."""
        return len(self._keys)

    @property
    def epoch(self) -> int:
        """The change that memory is in step with."""
        return self._keys.epoch

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

    async def read_ahead(self, changes: Sequence[Change]) -> Sequence[Ahead]:
        """Read what changes touch of the workspaces in use, before they are applied.

        While a part is missing, all calls of the workspace wait for it. They wait less if it is read before. What
        cannot be read soon is left to them.
        """
        touched = _parts(touch for change in changes for touch in change.touches)
        if not touched or len(touched) > _MOST_AHEAD:
            return ()
        reads = {asyncio.create_task(self._snapshots.read_ahead(*each)) for each in touched.items()}
        for read in reads:
            read.add_done_callback(retrieve)
        done, _ = await asyncio.wait(reads, timeout=_AHEAD_SECONDS)
        return [ahead for read in done if not read.exception() and (ahead := read.result()) is not None]

    def fill(self, aheads: Sequence[Ahead]) -> None:
        """Fill in what was read ahead. Call it right after the changes were applied."""
        for ahead in aheads:
            self._snapshots.fill(ahead)

    def apply(self, change: Change) -> None:
        """Make both levels forget what a change has touched. No other change may be applied meanwhile."""
        epoch = change.revision.epoch
        for touch in change.touches:
            if touch.part is None:
                self._keys.apply(touch.key_id, touch.workspace_id, epoch)
        for workspace_id, touched in _parts(change.touches).items():
            self._snapshots.apply(workspace_id, touched, epoch)

    def drop_all(self) -> None:
        """Forget everything, and make the results of all loads unusable."""
        self._keys.drop_all()
        self._snapshots.drop_all()


def _parts(touches: Iterable[Touch]) -> dict[WorkspaceId, set[PartKey]]:
    """Return the parts that are touched, by workspace."""
    found: dict[WorkspaceId, set[PartKey]] = defaultdict(set)
    for touch in touches:
        if touch.workspace_id is not None and touch.part is not None:
            found[touch.workspace_id].add((touch.part, touch.part_id))
    return found
