"""The difference between a workspace as it is and as it is to be."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from skilder_keys.domain.errors import TooManyChangedError
from skilder_keys.domain.key_policy import NO_POLICY, KeyPolicy
from skilder_keys.domain.workspace import Workspace


class Part(Enum):
    """The kind of a part of a workspace."""

    WORKSPACE = "workspace"
    MEMBER = "member"
    TEAM = "team"
    HAT = "hat"
    SKILL = "skill"
    TOOL = "tool"
    KEY_POLICY = "key_policy"


KINDS: tuple[Part, ...] = tuple(part for part in Part if part not in (Part.WORKSPACE, Part.KEY_POLICY))
"""The kinds of parts that are in lists: all but the workspace itself and its key policy."""


class Action(Enum):
    """What happened to a part."""

    ADDED = "added"
    UPDATED = "updated"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Change:
    """One part of a workspace that changed.

    Attributes:
        before: The part as it was, which is not compared; None if it was not there, or is not known.
        after: The part as it is to be; None if it goes.
    """

    part: Part
    id: str
    action: Action
    before: object = field(default=None, compare=False, repr=False)
    after: object = field(default=None, compare=False, repr=False)


class _Identified(Protocol):
    @property
    def id(self) -> str: ...


def difference(current: Workspace | None, desired: Workspace) -> tuple[Change, ...]:
    """Return what changes when `desired` replaces `current`, in order of part and id.

    Args:
        current: The workspace as it is, in the order of `workspace_checks.checked`; None if it does not exist.
        desired: The workspace as it is to be, in the same order.
    """
    return tuple(_changes(current, desired))


def check_removals(total: int, changes: Iterable[Change], max_removals: int | None) -> None:
    """Reject changes that remove too many parts.

    Each removed member, team, hat, skill and tool counts as one. A link between parts does not count: a hat that loses
    a skill is not a removal. Nor does the key policy.

    Args:
        total: The number of parts before the changes.
        changes: The changes, as `difference` returns them.
        max_removals: How many parts may be removed; None for half of them.

    Raises:
        TooManyChangedError: More would be removed. Its details are `count` and `allowed`.
    """
    allowed = total // 2 if max_removals is None else max_removals
    count = sum(change.action is Action.REMOVED and change.part in KINDS for change in changes)
    if count > allowed:
        raise TooManyChangedError(
            f"This would remove {count} of the {total} parts of the workspace, and at most {allowed} may be removed. "
            f"If that is what you want, set max_removals to {count}.",
            count=str(count),
            allowed=str(allowed),
        )


def _changes(current: Workspace | None, desired: Workspace) -> Iterator[Change]:
    if current is None:
        yield Change(Part.WORKSPACE, desired.id, Action.ADDED, after=desired)
    elif current.name != desired.name:
        yield Change(Part.WORKSPACE, desired.id, Action.UPDATED, current, desired)
    yield from _policy_change((current and current.key_policy) or NO_POLICY, desired)
    before = {} if current is None else parts_of(current)
    for part, after in parts_of(desired).items():
        yield from _part_changes(part, before.get(part, ()), after)


def _policy_change(before: KeyPolicy, desired: Workspace) -> Iterator[Change]:
    after = desired.key_policy
    if after is None or after == before:
        return
    action = Action.ADDED if before == NO_POLICY else Action.REMOVED if after == NO_POLICY else Action.UPDATED
    yield Change(Part.KEY_POLICY, desired.id, action, before, after)


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
            yield Change(part, id_, Action.ADDED, after=new[id_])
        elif id_ not in new:
            yield Change(part, id_, Action.REMOVED, before=old[id_])
        elif old[id_] != new[id_]:
            yield Change(part, id_, Action.UPDATED, old[id_], new[id_])
