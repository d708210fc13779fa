"""What an applied workspace changed."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Protocol, TypeVar

from service.domain.workspace import Workspace


class Part(Enum):
    """The kinds of parts a workspace has."""

    WORKSPACE = "workspace"
    MEMBER = "member"
    TEAM = "team"
    HAT = "hat"
    SKILL = "skill"
    TOOL = "tool"


class Action(Enum):
    """What became of a part."""

    ADDED = "added"
    UPDATED = "updated"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """One part of a workspace that changed."""

    part: Part
    id: str
    action: Action


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


_Record = TypeVar("_Record", bound=_Identified)


def difference(current: Workspace | None, desired: Workspace) -> tuple[Change, ...]:
    """Answers what changes when `desired` takes the place of `current`, in order of part and id.

    Both must be in the order `workspace_checks.checked` gives them. None stands for a workspace that is not there.
    """
    return tuple(_changes(current, desired))


def _changes(current: Workspace | None, desired: Workspace) -> Iterator[Change]:
    if current is None:
        yield Change(Part.WORKSPACE, desired.id, Action.ADDED)
    elif current.name != desired.name:
        yield Change(Part.WORKSPACE, desired.id, Action.UPDATED)
    before = current.catalogue if current else None
    after = desired.catalogue
    yield from _part_changes(Part.MEMBER, current.members if current else (), desired.members)
    yield from _part_changes(Part.TEAM, before.teams if before else (), after.teams)
    yield from _part_changes(Part.HAT, before.hats if before else (), after.hats)
    yield from _part_changes(Part.SKILL, before.skills if before else (), after.skills)
    yield from _part_changes(Part.TOOL, before.tools if before else (), after.tools)


def _part_changes(part: Part, before: Iterable[_Record], after: Iterable[_Record]) -> Iterator[Change]:
    old = {each.id: each for each in before}
    new = {each.id: each for each in after}
    for id_ in sorted(old.keys() | new.keys()):
        if id_ not in old:
            yield Change(part, id_, Action.ADDED)
        elif id_ not in new:
            yield Change(part, id_, Action.REMOVED)
        elif old[id_] != new[id_]:
            yield Change(part, id_, Action.UPDATED)
