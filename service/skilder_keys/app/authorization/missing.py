"""The parts of a workspace in memory that are missing: what a change adds to them, and what to read again."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from skilder_keys.domain.difference import Part

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

    from skilder_keys.app.authorization.snapshot import Snapshot
    from skilder_keys.storage.snapshots import Wanted

    PartKey = tuple[Part, str | None]
    """A part of a workspace; or all parts of a kind, without an id."""

_MAX_SINGLE = 100
"""The most single parts of a kind that may be missing. If there are more, all of the kind are read again."""


def only_members(parts: Iterable[PartKey]) -> bool:
    """Return whether these are single members and nothing else: the keys of all other users do not need them."""
    return all(part is Part.MEMBER and id_ is not None for part, id_ in parts)


def to_miss(missing: Iterable[PartKey], touched: Collection[PartKey]) -> set[PartKey]:
    """Return the parts that will be missing because a change has touched some, while others are missing already."""
    counts = Counter(part for part, _ in {*missing, *touched})
    return {(part, None if part is Part.TEAM or counts[part] > _MAX_SINGLE else id_) for part, id_ in touched}


def to_read(missing: Iterable[PartKey]) -> Wanted:
    """Return which parts to read, so that nothing is missing."""
    wanted: dict[Part, set[str] | None] = {}
    for part, id_ in missing:
        ids = wanted.setdefault(part, set())
        if id_ is None:
            wanted[part] = None
        elif ids is not None:
            ids.add(id_)
    return wanted


def covers(wanted: Wanted, key: PartKey) -> bool:
    """Return whether a part, or all parts of a kind, are among what was read."""
    part, id_ = key
    if part not in wanted:
        return False
    ids = wanted[part]
    return ids is None or id_ in ids


def note_change(snapshot: Snapshot, parts: Collection[PartKey], epoch: int) -> Snapshot | None:
    """Return a snapshot after a change that touched some parts; None if the change touched all of it."""
    if any(part is Part.WORKSPACE for part, _ in parts):
        snapshot.close(epoch - 1)
        return None
    touched = to_miss(snapshot.missing, parts)
    if not snapshot.complete or only_members(touched):
        snapshot.lose(touched, epoch)
        return snapshot
    return snapshot.without(touched, epoch)
