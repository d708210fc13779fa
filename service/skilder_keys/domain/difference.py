"""What an applied workspace changed."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from skilder_keys.domain.errors import TooManyChangedError
from skilder_keys.domain.workspace import Workspace


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


def difference(current: Workspace | None, desired: Workspace) -> tuple[Change, ...]:
    """Answers what changes when `desired` takes the place of `current`, in order of part and id.

    Both must be in the order `workspace_checks.checked` gives them. None stands for a workspace that is not there.
    """
    return tuple(_changes(current, desired))


def check_removals(current: Workspace | None, changes: Iterable[Change], max_removals: int | None) -> None:
    """Refuse changes that remove more parts than may be removed.

    Members, teams, hats, skills and tools count, each once; what a part loses of its own, as a hat a skill, does not.

    Args:
        current: The workspace before the changes.
        changes: As `difference` returns them.
        max_removals: How many parts may be removed; None for half of those there are.

    Raises:
        TooManyChangedError: With `count` and `allowed`.
    """
    total = 0 if current is None else sum(map(len, parts_of(current).values()))
    allowed = total // 2 if max_removals is None else max_removals
    count = sum(change.action is Action.REMOVED for change in changes)
    if count > allowed:
        raise TooManyChangedError(
            f"This would remove {count} of the {total} parts of the workspace, and at most {allowed} may be removed: "
            f"check that this is meant, then set max_removals to {count}.",
            count=str(count),
            allowed=str(allowed),
        )


def _changes(current: Workspace | None, desired: Workspace) -> Iterator[Change]:
    if current is None:
        yield Change(Part.WORKSPACE, desired.id, Action.ADDED)
    elif current.name != desired.name:
        yield Change(Part.WORKSPACE, desired.id, Action.UPDATED)
    before = {} if current is None else parts_of(current)
    for part, after in parts_of(desired).items():
        yield from _part_changes(part, before.get(part, ()), after)


def parts_of(workspace: Workspace) -> dict[Part, Sequence[Any]]:
    """Return the parts of a workspace by their kind."""
    catalog = workspace.catalog
    return {
        Part.MEMBER: workspace.members,
        Part.TEAM: catalog.teams,
        Part.HAT: catalog.hats,
        Part.SKILL: catalog.skills,
        Part.TOOL: catalog.tools,
    }


def _part_changes(part: Part, before: Iterable[_Identified], after: Iterable[_Identified]) -> Iterator[Change]:
    old = {each.id: each for each in before}
    new = {each.id: each for each in after}
    for id_ in sorted(old.keys() | new.keys()):
        if id_ not in old:
            yield Change(part, id_, Action.ADDED)
        elif id_ not in new:
            yield Change(part, id_, Action.REMOVED)
        elif old[id_] != new[id_]:
            yield Change(part, id_, Action.UPDATED)
