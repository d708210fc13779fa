"""The workspaces in memory: each is read once, and after a change only the parts that it touched."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from contextlib import nullcontext
from typing import TYPE_CHECKING

from skilder_keys.app.authorization import missing
from skilder_keys.app.authorization.release import release
from skilder_keys.app.authorization.snapshot import VOID, Snapshot
from skilder_keys.app.authorization.snapshot_load import Ahead, Arrived, Load
from skilder_keys.app.batching import SingleFlight, retrieve
from skilder_keys.domain.difference import Part
from skilder_keys.storage import snapshots

if TYPE_CHECKING:
    from collections.abc import Collection
    from contextlib import AbstractAsyncContextManager

    from skilder_keys.app.authorization.missing import PartKey
    from skilder_keys.app.authorization.snapshot_load import Turn
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.app.fence.reads import FencedReads
    from skilder_keys.domain.ids import UserId, WorkspaceId
    from skilder_keys.offload import Offload
    from skilder_keys.storage.snapshots import Wanted

_UNFENCED = 4
_SHARES = 4
"""Tool sets of one workspace that take more than this part of the memory go before another workspace does."""


class Snapshots:
    """A bounded store of snapshots, the loads that fill it, and the changes that make parts of them missing.

    Attributes:
        weight: About how many bytes of memory the snapshots take, also those that were read without a lease.
        evicted: How many workspaces were dropped to make room for others.
    """

    def __init__(self, reads: FencedReads, lease: Lease, offload: Offload, capacity: int) -> None:
        """Make an empty store.

        Args:
            reads: Reads the database.
            lease: The lease, which has the state of memory.
            offload: Where contents are put together.
            capacity: The most bytes of memory.
        """
        self._reads = reads
        self._lease = lease
        self._offload = offload
        self._capacity = capacity
        self.weight = 0
        self.evicted = 0
        self._snapshots: OrderedDict[WorkspaceId, Snapshot] = OrderedDict()  # the least recently used one first
        self._joinable: dict[tuple[WorkspaceId, bool], Load] = {}
        self._running: set[Load] = set()
        self._unfenced: OrderedDict[WorkspaceId, Snapshot] = OrderedDict()
        self._large: set[Snapshot] = set()  # those with more than their share of tool sets
        self._at: SingleFlight[tuple[WorkspaceId, int], Snapshot] = SingleFlight()

    def __len__(self) -> int:
        """Return the number of snapshots."""
        return len(self._snapshots)

    def current(self, workspace_id: WorkspaceId) -> Snapshot | None:
        """Return a workspace as it is at the epoch of memory; None if it is not here, or parts are missing."""
        snapshot = self._snapshots.get(workspace_id)
        if snapshot is None or not snapshot.complete:
            return None
        self._snapshots.move_to_end(workspace_id)
        return snapshot

    async def load(self, workspace_id: WorkspaceId, *, whole: bool, turn: Turn = nullcontext) -> Snapshot:
        """Read what is missing of a workspace, or all of it, and keep it if the fence allows it.

        All calls share a load until a change touches the workspace. Call it only under a lease.

        Args:
            workspace_id: The workspace.
            whole: Whether to read all of it.
            turn: Returns the context in which a workspace is read that is not in memory at all, if there is no load
                to share. While the load waits to enter, and all of its calls give up, it is dropped.

        Returns:
            The workspace. It may be closed, and parts may be missing again, if a change touched it meanwhile.

        Raises:
            UnavailableError: The database does not respond.
        """
        held = self._snapshots.get(workspace_id)
        base = None if whole else held
        load = self._joinable.get((workspace_id, base is None))
        if load is None:
            context = turn() if held is None else nullcontext()
            load = self._joinable[workspace_id, base is None] = Load(workspace_id, base)
            self._running.add(load)
            load.task = asyncio.create_task(self._run(load, context))
            load.task.add_done_callback(retrieve)
        load.wanted_by += 1
        try:
            return await asyncio.shield(load.task)
        finally:
            load.wanted_by -= 1
            if not load.wanted_by and not load.begun:
                self._leave(load)
                self._running.discard(load)  # the task does not do it if it has not started yet
                load.task.cancel()

    async def at(
        self, workspace_id: WorkspaceId, version: int, user_id: UserId | None, turn: Turn = nullcontext
    ) -> Snapshot | None:
        """Return a workspace at a version, for a key of a user, without a lease; None if it is at another version now.

        It is read in the context that `turn` returns.

        Raises:
            UnavailableError: The database does not respond.
        """
        for held in (self._snapshots.get(workspace_id), self._unfenced.get(workspace_id)):
            if held is not None and held.version == version and not held.lacks(user_id):
                return held
        read = await self._at.get((workspace_id, version), lambda: self._read_unfenced(workspace_id, turn()))
        return read if read.version == version else None

    async def read_ahead(self, workspace_id: WorkspaceId, parts: Collection[PartKey]) -> Ahead | None:
        """Read what a change has touched before it is applied, so that no call finds it missing; None if no call would.

        Raises:
            UnavailableError: The database does not respond.
        """
        held = self._snapshots.get(workspace_id)
        if held is None or not held.asked or any(part is Part.WORKSPACE for part, _ in parts):
            return None
        touched = missing.to_miss(held.missing, parts)
        if missing.only_members(touched):
            return None
        return Ahead(held, await self._read(workspace_id, held, missing.to_read(touched)))

    def fill(self, ahead: Ahead) -> None:
        """Fill in what was read ahead, right after the changes were applied; unless there are more changes by now."""
        if ahead.arrived.read.revision.epoch <= self._lease.epoch:
            self._fill(ahead.base, ahead.arrived)

    def apply(self, workspace_id: WorkspaceId, parts: Collection[PartKey], epoch: int) -> None:
        """Make the parts that a change has touched missing, and let no call join a load that it has overtaken."""
        for load in self._overtaken(workspace_id):
            load.touches.append((epoch, parts))
            self._leave(load)
        held = self._snapshots.get(workspace_id)
        if held is not None:
            self._replace(held, missing.note_change(held, parts, epoch))

    def drop_all(self) -> None:
        """Drop everything: the database may have lost versions, and may reuse their numbers."""
        for snapshot in self._snapshots.values():
            snapshot.until = VOID
        for load in self._running:
            load.void = True
        for unused in (self._snapshots, self._unfenced):
            release(unused, 1)
        self._snapshots, self._unfenced, self._large = OrderedDict(), OrderedDict(), set()
        self._joinable, self.weight = {}, 0
        self._at = SingleFlight()  # running reads return their results to those who wait, but nothing of them is kept

    def _overtaken(self, workspace_id: WorkspaceId) -> list[Load]:
        """Return the loads of a workspace that a change may have overtaken."""
        return [load for load in self._running if load.workspace_id == workspace_id]

    async def _run(self, load: Load, turn: AbstractAsyncContextManager[object]) -> Snapshot:
        try:
            async with turn:
                load.begun = True
                arrived = await self._read(load.workspace_id, load.base, load.wanted)
            caught_up = await self._lease.reach(arrived.read.revision.epoch)
        finally:
            self._leave(load)
            self._running.discard(load)
        if load.base is None:
            return self._keep(load, self._snapshot(load.workspace_id, arrived), caught_up=caught_up)
        return self._fill(load.base, arrived) if caught_up else load.base

    async def _read(self, workspace_id: WorkspaceId, base: Snapshot | None, wanted: Wanted) -> Arrived:
        read = await self._reads.read(lambda each: snapshots.read(each, workspace_id, wanted))
        return await self._offload.run(Arrived.of, read, *(() if base is None else (base.contents,)))

    def _keep(self, load: Load, loaded: Snapshot, *, caught_up: bool) -> Snapshot:
        """Keep a workspace that was read as a whole, as it is after the changes that came meanwhile."""
        if load.void:
            loaded.until = VOID
        elif not caught_up:
            loaded.close(loaded.label)
        else:
            held: Snapshot | None = loaded
            for epoch, parts in load.touches:
                if held is not None and epoch > loaded.label:
                    held = missing.note_change(held, parts, epoch)
            former = self._snapshots.get(load.workspace_id)
            later_was_faster = former is not None and former.complete and held is not None and not held.complete
            if not later_was_faster:
                self._replace(former, held)
        return loaded

    def _fill(self, base: Snapshot, arrived: Arrived) -> Snapshot:
        """Fill what was read into the workspace, except what a later change has touched. Return the workspace.

        Memory must have applied the epoch at which it was read.
        """
        read, held = arrived.read, self._snapshots.get(base.workspace_id)
        if held is None or held.contents is not base.contents:
            return base
        label = read.revision.epoch
        filled = [each for each, epoch in held.missing.items() if epoch <= label and missing.covers(read.wanted, each)]
        if not filled:
            return held
        if missing.only_members(filled):
            held.gain_members(filled, arrived.members, read.version, self._lease.epoch)
            return held
        snapshot = held.filled(filled, arrived.contents, arrived.members, read.version, self._lease.epoch)
        self._replace(held, snapshot)
        return snapshot

    def _snapshot(self, workspace_id: WorkspaceId, arrived: Arrived) -> Snapshot:
        read = arrived.read
        return Snapshot(
            workspace_id,
            read.version,
            read.revision.epoch,
            arrived.contents,
            arrived.members,
            deleted=read.deleted,
            on_growth=self._grown,
        )

    async def _read_unfenced(self, workspace_id: WorkspaceId, turn: AbstractAsyncContextManager[object]) -> Snapshot:
        """Read a workspace without a lease. The last few are kept, to be used at exactly their version."""
        at = self._at
        async with turn:
            snapshot = self._snapshot(workspace_id, await self._read(workspace_id, None, snapshots.EVERYTHING))
        if at is self._at:
            former = self._unfenced.get(workspace_id)
            if former is not None:
                self._remove(self._unfenced, former)
            self._put(self._unfenced, snapshot)
            if len(self._unfenced) > _UNFENCED:
                self._remove(self._unfenced, _first(self._unfenced))
        return snapshot

    def _leave(self, load: Load) -> None:
        """Let no further call join a load."""
        at = load.workspace_id, load.base is None
        if self._joinable.get(at) is load:
            del self._joinable[at]

    def _replace(self, former: Snapshot | None, snapshot: Snapshot | None) -> None:
        """Keep a snapshot in place of another of the same workspace; either may be None."""
        if former is snapshot:
            return
        if former is not None:
            former.close(self._lease.epoch)  # from now on, no change is noted there
            self._remove(self._snapshots, former)
        if snapshot is not None:
            self._put(self._snapshots, snapshot)

    def _put(self, store: OrderedDict[WorkspaceId, Snapshot], snapshot: Snapshot) -> None:
        store[snapshot.workspace_id] = snapshot
        self.weight += snapshot.weight
        self._trim()

    def _remove(self, store: OrderedDict[WorkspaceId, Snapshot], snapshot: Snapshot) -> None:
        del store[snapshot.workspace_id]
        self.weight -= snapshot.weight
        self._large.discard(snapshot)

    def _grown(self, snapshot: Snapshot, size: int) -> None:
        """Note that a snapshot grew by some bytes."""
        is_large = snapshot.grown > self._capacity // _SHARES
        if any(store.get(snapshot.workspace_id) is snapshot for store in (self._snapshots, self._unfenced)):
            self.weight += size
            if is_large:
                self._large.add(snapshot)
            self._trim()
        elif is_large:
            snapshot.forget_tool_sets()  # only calls that hold it use it

    def _trim(self) -> None:
        """Drop tool sets of workspaces that have many, then the workspaces that were not used for longest.

        Without a lease, those that were read without one are used; with a lease, the others.
        """
        while self.weight > self._capacity and self._large:
            self._large.pop().forget_tool_sets()
        while self.weight > self._capacity and len(self._snapshots) + len(self._unfenced) > 1:
            if self._unfenced and (self._lease.valid() or not self._snapshots):
                self._remove(self._unfenced, _first(self._unfenced))
            else:
                self._replace(_first(self._snapshots), None)
                self.evicted += 1


def _first(store: OrderedDict[WorkspaceId, Snapshot]) -> Snapshot:
    return next(iter(store.values()))
