"""A change of a single part of a workspace, as the options of a command say it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1 import workspace_pb2
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.domain.fields import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of parts.

    Attributes:
        word: What people call it.
        list: The field of a workspace that has the parts.
        part: The kind in a PartRef.
        id: The field of a part that has its id.
        message: The class of a part.
    """

    word: str
    list: str
    part: pb.WorkspacePart.ValueType
    id: str
    message: type[Any]


MEMBER = Kind("member", "members", pb.WORKSPACE_PART_MEMBER, "user_id", workspace_pb2.Member)
TEAM = Kind("team", "teams", pb.WORKSPACE_PART_TEAM, "id", workspace_pb2.Team)
HAT = Kind("hat", "hats", pb.WORKSPACE_PART_HAT, "id", workspace_pb2.Hat)
SKILL = Kind("skill", "skills", pb.WORKSPACE_PART_SKILL, "id", workspace_pb2.Skill)
TOOL = Kind("tool", "tools", pb.WORKSPACE_PART_TOOL, "id", workspace_pb2.Tool)


@dataclass(frozen=True, slots=True)
class ListChange:
    """How a command changes a list of ids: all of it, or some.

    Attributes:
        word: What an id stands for, as in `--add-team`.
        only: All ids, or None to keep those that are there.
        none: Whether the list is to be empty.
        more: The ids to add.
        less: The ids to take out.
    """

    word: str
    only: Sequence[str] | None = None
    none: bool = False
    more: Sequence[str] | None = None
    less: Sequence[str] | None = None

    @property
    def is_named(self) -> bool:
        """Whether the command has any of the options."""
        return self.none or not (self.only is None and self.more is None and self.less is None)

    def check(self) -> None:
        """End the command if its options contradict each other."""
        whole = [flag for flag, given in ((f"--{self.word}", self.only), (f"--no-{self.word}s", self.none)) if given]
        some = [
            flag for flag, given in ((f"--add-{self.word}", self.more), (f"--remove-{self.word}", self.less)) if given
        ]
        if whole and len(whole + some) > 1:
            raise fail(
                f"{whole[0]} names them all, so it does not go with {' and '.join(whole[1:] + some)}", Exit.USAGE
            )
        for each in self.more or ():
            if each in (self.less or ()):
                raise fail(f"{some[0]} and {some[1]} both name {quoted(each)}", Exit.USAGE)

    def changed(self, ids: Sequence[str]) -> list[str]:
        """Return a list with the changes. What is added comes last, and what is there already is not added again."""
        if self.none:
            return []
        kept = [each for each in (ids if self.only is None else self.only) if each not in (self.less or ())]
        return list(dict.fromkeys([*kept, *(self.more or ())]))


@dataclass(frozen=True, slots=True)
class Change:
    """What a command changes in one part, and how.

    Attributes:
        kind: The kind of the part.
        id: Its id.
        is_new: Whether the part must not exist yet; otherwise it must.
        values: The new values of its fields; None keeps a value.
        lists: How its lists change, by field.
        dry_run: Whether to change nothing.
    """

    kind: Kind
    workspace_id: str
    id: str
    is_new: bool
    values: Mapping[str, Any]
    lists: Mapping[str, ListChange]
    actor: str
    dry_run: bool

    def changed(self, part: Any) -> Any:  # noqa: ANN401 - a message of the kind
        """Return a part with the changes."""
        after = self.kind.message()
        after.CopyFrom(part)
        setattr(after, self.kind.id, self.id)
        for name, value in self.values.items():
            if value is not None:
                setattr(after, name, value)
        for name, each in self.lists.items():
            getattr(after, name)[:] = each.changed(getattr(after, name))
        return after


def added(
    kind: Kind,
    workspace_id: str,
    id_: str,
    actor: str,
    *,
    dry_run: bool,
    lists: Mapping[str, ListChange] | None = None,
    **values: Any,  # noqa: ANN401 - of each field's type
) -> Change:
    """Return the change that adds a part, with the values of its fields."""
    return Change(kind, workspace_id, id_, True, values, lists or {}, actor, dry_run)  # noqa: FBT003 - it is new


def changed(
    kind: Kind,
    workspace_id: str,
    id_: str,
    actor: str,
    *,
    dry_run: bool,
    lists: Mapping[str, ListChange] | None = None,
    **values: Any,  # noqa: ANN401 - of each field's type
) -> Change:
    """Return the change of a part that exists. End the command if it changes nothing, or contradicts itself."""
    lists = lists or {}
    if all(each is None for each in values.values()) and not any(each.is_named for each in lists.values()):
        raise fail("nothing to set: name at least one property, see --help", Exit.USAGE)
    for each in lists.values():
        each.check()
    return Change(kind, workspace_id, id_, False, values, lists, actor, dry_run)  # noqa: FBT003 - it is there
