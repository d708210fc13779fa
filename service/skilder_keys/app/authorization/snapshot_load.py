"""A load of a workspace that is under way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.app.authorization import missing
from skilder_keys.app.authorization.contents import EMPTY, updated
from skilder_keys.storage import snapshots

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Collection
    from contextlib import AbstractAsyncContextManager

    from skilder_keys.app.authorization.contents import Contents
    from skilder_keys.app.authorization.missing import PartKey
    from skilder_keys.app.authorization.snapshot import Snapshot
    from skilder_keys.domain.ids import TeamId, UserId, WorkspaceId
    from skilder_keys.storage.snapshots import SnapshotRead, Wanted

    Turn = Callable[[], AbstractAsyncContextManager[object]]
    """Returns the context in which a workspace is read, or raises BusyError."""


class Load:
    """A load of a workspace, for all calls that need it meanwhile.

    Attributes:
        base: The snapshot whose missing parts are read; None if the whole workspace is read.
        wanted: What is read.
        touches: The changes of the workspace since the load began: their epochs and what they touched.
        void: Whether memory was dropped meanwhile.
        begun: Whether it has had its turn.
        wanted_by: How many calls wait for it.
    """

    __slots__ = ("base", "begun", "task", "touches", "void", "wanted", "wanted_by", "workspace_id")

    def __init__(self, workspace_id: WorkspaceId, base: Snapshot | None) -> None:
        self.workspace_id = workspace_id
        self.base = base
        self.wanted: Wanted = snapshots.EVERYTHING if base is None else missing.to_read(base.missing)
        self.touches: list[tuple[int, Collection[PartKey]]] = []
        self.void = False
        self.begun = False
        self.wanted_by = 0
        self.task: asyncio.Task[Snapshot]


@dataclass(frozen=True, slots=True)
class Arrived:
    """What was read of a workspace.

    Attributes:
        read: The rows.
        contents: The contents with them.
        members: The members among them.
    """

    read: SnapshotRead
    contents: Contents
    members: dict[UserId, frozenset[TeamId]]

    @classmethod
    def of(cls, read: SnapshotRead, base: Contents = EMPTY) -> Arrived:
        """Decode what was read, on top of what was there before."""
        return cls(read, updated(base, read), read.members())


@dataclass(frozen=True, slots=True)
class Ahead:
    """What a change touches of a workspace, which was read before memory applies the change.

    Attributes:
        base: The workspace before the change.
        arrived: What was read.
    """

    base: Snapshot
    arrived: Arrived
