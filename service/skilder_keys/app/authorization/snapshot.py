"""A workspace in memory: who its members are, and what its keys reach."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING
from weakref import ref

from skilder_keys.app.authorization.missing import only_members
from skilder_keys.app.authorization.tool_sets import Servers, SharedToolSet
from skilder_keys.domain.denial import DenialReason
from skilder_keys.domain.difference import Part
from skilder_keys.domain.ids import UserId
from skilder_keys.domain.permissions import Reach

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from skilder_keys.app.authorization.contents import Contents
    from skilder_keys.app.authorization.known_key import KnownKey
    from skilder_keys.app.authorization.missing import PartKey
    from skilder_keys.domain.ids import HatId, TeamId, WorkspaceId

OPEN = math.inf
"""The end of what no change has touched yet."""
VOID = -1
"""The end of what cannot be used at any epoch: the reader has lost its row, or the database has another history."""

_REACH_BYTES = 300
_MEMBER_BYTES = 200


class Snapshot:
    """A workspace at a state of the database, for all of its keys.

    A part that a change has touched is missing until it is read again. A missing member is missed by the keys of that
    user only; any other missing part by all keys.

    Attributes:
        version: The version of the workspace.
        label: An epoch at which this was its state.
        until: The last epoch at which it was; OPEN while no change has touched it.
        missing: The parts that are missing, each with the epoch of the last change that touched it.
        complete: Whether nothing is missing but single members.
        grown: How many bytes of its weight are tool sets, which can be made again.
    """

    __slots__ = (
        "__weakref__", "_by_hats", "_by_reach", "_on_growth", "_servers", "complete", "contents", "deleted", "grown",
        "label", "members", "missing", "until", "version", "workspace_id",
    )  # fmt: skip

    def __init__(
        self,
        workspace_id: WorkspaceId,
        version: int,
        label: int,
        contents: Contents,
        members: dict[UserId, frozenset[TeamId]],
        *,
        deleted: bool,
        missing: dict[PartKey, int] | None = None,
        on_growth: Callable[[Snapshot, int], None],
    ) -> None:
        """Make a snapshot.

        Args:
            workspace_id: The workspace.
            version: The version of the workspace.
            label: An epoch at which this was its state.
            contents: The contents.
            members: The teams of each member, also of those that are missing. The snapshot changes them.
            deleted: Whether the workspace does not exist any more.
            missing: The parts that are missing.
            on_growth: Called with the snapshot and the bytes by which it grew.
        """
        self.workspace_id = workspace_id
        self.version = version
        self.label = label
        self.until: float = OPEN
        self.contents = contents
        self.members = members
        self.deleted = deleted
        self.missing = missing or {}
        for part, id_ in self.missing:
            if part is Part.MEMBER:
                members.pop(UserId(id_ or ""), None)
        self.complete = only_members(self.missing)
        self.grown = 0
        self._on_growth = on_growth
        self._by_reach: dict[tuple[object, object], SharedToolSet] = {}  # by the fields of a reach
        self._by_hats: dict[tuple[HatId, ...], SharedToolSet] = {}
        self._servers = Servers(contents, partial(_grow, ref(self)))

    def reached(self, key: KnownKey) -> SharedToolSet | DenialReason | None:
        """Return what a key of this workspace reaches, or why it is denied; None if that is missing.

        Call it only if the snapshot is complete.
        """
        if self.deleted:
            return DenialReason.WORKSPACE_GONE
        teams, user_id = key.team_ids, key.user_id
        if user_id is not None:
            teams = self.members.get(user_id)
            if teams is None:
                return None if (Part.MEMBER, user_id) in self.missing else DenialReason.MEMBER_REMOVED
        return self._by_reach.get((teams, key.hat_ids)) or self._reach(Reach(teams, key.hat_ids))

    def lacks(self, user_id: UserId | None) -> bool:
        """Return whether a key needs a part that is missing: a key of this user, or of no user for None."""
        return not self.complete or (user_id is not None and (Part.MEMBER, user_id) in self.missing)

    @property
    def asked(self) -> bool:
        """Whether it is complete, and a call has asked what a key reaches."""
        return self.complete and bool(self._by_reach)

    def close(self, epoch: int) -> None:
        """Note that this was the state up to an epoch, and not later."""
        self.until = min(self.until, epoch)

    def without(self, parts: Iterable[PartKey], epoch: int) -> Snapshot:
        """Return the snapshot at a change that touched some parts, and close this one at the epoch before."""
        self.close(epoch - 1)
        return Snapshot(
            self.workspace_id,
            self.version,
            epoch,
            self.contents,
            self.members.copy(),
            deleted=self.deleted,
            missing={**self.missing, **dict.fromkeys(parts, epoch)},
            on_growth=self._on_growth,
        )

    def lose(self, parts: Iterable[PartKey], epoch: int) -> None:
        """Note that a change has touched some parts: single members, or any of a snapshot that nobody can use now."""
        weight = self.weight
        for part, id_ in parts:
            if part is Part.MEMBER:
                self.members.pop(UserId(id_ or ""), None)
            self.missing[part, id_] = epoch
        self._on_growth(self, self.weight - weight)

    def gain_members(
        self, parts: Iterable[PartKey], members: Mapping[UserId, frozenset[TeamId]], version: int, epoch: int
    ) -> None:
        """Fill in members that were read. What this is now, it is at `epoch`, but perhaps not before."""
        weight = self.weight
        _fill(self.members, parts, members)
        for each in parts:
            del self.missing[each]
        self.version, self.label = max(self.version, version), epoch
        self._on_growth(self, self.weight - weight)

    def filled(
        self,
        parts: Collection[PartKey],
        contents: Contents,
        members: dict[UserId, frozenset[TeamId]],
        version: int,
        epoch: int,
    ) -> Snapshot:
        """Return the snapshot at an epoch at which these parts, which were missing, are those that were read.

        Args:
            parts: The parts.
            contents: The contents with the parts.
            members: The members among the parts.
            version: The version of the workspace.
            epoch: The epoch.
        """
        missing = {each: touched for each, touched in self.missing.items() if each not in parts}
        if (Part.MEMBER, None) not in parts:
            held = self.members.copy()
            _fill(held, parts, members)
            members = held
        return Snapshot(
            self.workspace_id,
            max(self.version, version),
            epoch,
            contents,
            members,
            deleted=self.deleted,
            missing=missing,
            on_growth=self._on_growth,
        )

    @property
    def weight(self) -> int:
        """About how many bytes of memory it takes."""
        return self.contents.weight + _MEMBER_BYTES * self._people + self.grown

    def forget_tool_sets(self) -> None:
        """Free the memory of all tool sets. They are made again when they are needed."""
        self._by_reach.clear()
        self._by_hats.clear()
        self._servers.clear()
        self.grow(-self.grown)

    def grow(self, size: int) -> None:
        """Note that tool sets grew by some bytes."""
        self.grown += size
        self._on_growth(self, size)

    @property
    def _people(self) -> int:
        """How many members are here or missing, with all other parts that are missing."""
        return len(self.members) + len(self.missing)

    def _reach(self, reach: Reach) -> SharedToolSet:
        hats = self.contents.reached(reach)
        hat_ids = tuple(hat.id for hat in hats)
        tools = self._by_hats.get(hat_ids)
        if tools is None:
            tools = self._by_hats[hat_ids] = SharedToolSet(self._servers, hats)
        self._by_reach[reach] = tools
        self.grow(_REACH_BYTES)
        return tools


def _fill(
    held: dict[UserId, frozenset[TeamId]], parts: Iterable[PartKey], members: Mapping[UserId, frozenset[TeamId]]
) -> None:
    for part, id_ in parts:
        user_id = UserId(id_ or "")
        if part is Part.MEMBER and user_id in members:
            held[user_id] = members[user_id]


def _grow(snapshot: ref[Snapshot], size: int) -> None:
    """Note that a tool set of a snapshot grew. With a reference of its own, neither would be freed after the other."""
    if (held := snapshot()) is not None:
        held.grow(size)
