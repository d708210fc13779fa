"""What changes of a key do, as the API says it; and which states are possible while some changes are under way."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

FIRST = 0
"""The key that all changes are about, by its place in a family. Successors follow, one for each rotation."""


class Change(Enum):
    """A change of the first key, or of its family."""

    SUSPEND = "SuspendKey"
    RESUME = "ResumeKey"
    NARROW = "UpdateKey"
    REVOKE = "RevokeKey"
    REVOKE_FAMILY = "RevokeKey of the family"
    ROTATE = "RotateKey"
    EXPIRE = "expiry"
    """No call: the grace of the rotation is over."""


class Key(NamedTuple):
    """A key of the family.

    Attributes:
        exists: Whether it was issued.
        narrow: Whether it reaches less than at first.
        ends: Whether it expires when the grace is over.
        expired: Whether it has.
    """

    exists: bool = False
    revoked: bool = False
    suspended: bool = False
    narrow: bool = False
    ends: bool = False
    expired: bool = False

    @property
    def answer(self) -> str:
        """What Authorize says of it."""
        if not self.exists:
            return "unknown"
        if self.revoked:
            return "revoked"
        if self.expired:
            return "expired"
        if self.suspended:
            return "suspended"
        return "granted less" if self.narrow else "granted"

    @property
    def is_active(self) -> bool:
        """Whether it can be rotated."""
        return self.answer.startswith("granted")

    @property
    def is_live(self) -> bool:
        """Whether its predecessor cannot be rotated again."""
        return self.exists and not self.revoked and not self.expired


Family: TypeAlias = "tuple[Key, ...]"


def changed(family: Family, change: Change, successor: int) -> Family | None:
    """Return the family after a change, or None if the change is refused.

    Args:
        family: The family.
        change: The change.
        successor: The place of the successor that a rotation makes.
    """
    first = family[FIRST]
    after: Family | None = None
    match change:
        case Change.REVOKE:
            after = with_key(family, FIRST, first._replace(revoked=True))
        case Change.REVOKE_FAMILY:
            after = tuple(key._replace(revoked=key.exists) for key in family)
        case Change.EXPIRE if first.ends:
            after = with_key(family, FIRST, first._replace(expired=True))
        case Change.ROTATE if first.is_active and not any(key.is_live for key in family[1:]):
            after = with_key(family, FIRST, first._replace(ends=True))
            after = with_key(after, successor, Key(exists=True, narrow=first.narrow))
        case Change.NARROW if not first.revoked:
            after = with_key(family, FIRST, first._replace(narrow=True))
        case Change.SUSPEND | Change.RESUME if not first.revoked:
            after = with_key(family, FIRST, first._replace(suspended=change is Change.SUSPEND))
        case _:
            pass
    return after


def with_key(family: Family, place: int, key: Key) -> Family:
    """Return the family with another key in a place."""
    return (*family[:place], key, *family[place + 1 :])


class Possible(NamedTuple):
    """A state that the callers must take for possible.

    Attributes:
        family: The keys.
        taken: The changes that have taken effect and have not returned yet, by their numbers.
        refused: Those that were refused, and have not returned yet.
    """

    family: Family
    taken: frozenset[int] = frozenset()
    refused: frozenset[int] = frozenset()


class Rules:
    """The rules for these changes: each takes effect at one moment between its begin and its return."""

    def __init__(self, changes: Sequence[Change]) -> None:
        """Make rules for changes. Each rotation has a successor of its own."""
        self.changes = (*changes, Change.EXPIRE)
        rotations = [number for number, change in enumerate(changes) if change is Change.ROTATE]
        self.successors = {number: place for place, number in enumerate(rotations, 1)}
        self.family: Family = (Key(exists=True), *[Key()] * len(rotations))

    def after(self, family: Family, number: int) -> Family | None:
        """Return the family after the change with a number, or None if it is refused."""
        return changed(family, self.changes[number], self.successors.get(number, FIRST))

    def begun(self, possible: frozenset[Possible], running: Sequence[int]) -> frozenset[Possible]:
        """Return what is possible while these changes run."""
        found, todo = set(possible), list(possible)
        for each in todo:
            for after in self._next(each, running):
                if after not in found:
                    found.add(after)
                    todo.append(after)
        return frozenset(found)

    def _next(self, state: Possible, running: Sequence[int]) -> Iterator[Possible]:
        for number in running:
            if number not in state.taken | state.refused:
                after = self.after(state.family, number)
                if after is not None:
                    yield Possible(after, state.taken | {number}, state.refused)
                elif self.changes[number] is not Change.EXPIRE:
                    yield state._replace(refused=state.refused | {number})

    def returned(self, possible: frozenset[Possible], number: int, *, refused: bool) -> frozenset[Possible]:
        """Return what is possible after a change has returned; nothing, if it must not have returned so.

        A refusal promises nothing about what Authorize says afterwards.
        """
        if not refused:
            return frozenset(each._replace(taken=each.taken - {number}) for each in possible if number in each.taken)
        if not any(number in each.refused for each in possible):
            return frozenset()
        left = (each for each in possible if number not in each.taken)
        return frozenset(each._replace(refused=each.refused - {number}) for each in left)
