"""The changes of a workspace in words: removals first, every one counted, and what an update takes away."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder_keys.cli import output
from skilder_keys.cli.table import Column

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from google.protobuf.message import Message

    from skilder.keys.v1.workspace_pb2 import Hat, Workspace

_ACTIONS = (pb.CHANGE_ACTION_REMOVED, pb.CHANGE_ACTION_UPDATED, pb.CHANGE_ACTION_ADDED)
_LISTS = {
    pb.WORKSPACE_PART_MEMBER: "members",
    pb.WORKSPACE_PART_TEAM: "teams",
    pb.WORKSPACE_PART_HAT: "hats",
    pb.WORKSPACE_PART_SKILL: "skills",
    pb.WORKSPACE_PART_TOOL: "tools",
}
_SHOWN_IDS = 3
_SHOWN_CHARACTERS = 40

Row = tuple[str, str, str, str]
COLUMNS = (Column("part", whole=True), Column("id", whole=True), Column("change", whole=True), Column("what"))


def removals(changes: Iterable[pb.WorkspaceChange]) -> int:
    """Return how many parts go."""
    return sum(change.action == pb.CHANGE_ACTION_REMOVED for change in changes)


def rows(changes: Sequence[pb.WorkspaceChange], details: dict[tuple[int, str], str]) -> Iterator[Row]:
    """Yield each change as a row below COLUMNS: what is removed, then what is updated, then what is added."""
    for action in _ACTIONS:
        for change in changes:
            if change.action == action:
                kind = output.short(output.WORKSPACE_PART, change.part)
                detail = details.get((change.part, change.id), "")
                yield kind, change.id, output.short(output.CHANGE_ACTION, action), detail


def counted(changes: Iterable[pb.WorkspaceChange]) -> str:
    """Return how many changes there are of each kind: `2 removed (1 hat, 1 tool), 3 added (3 members)`."""
    found = Counter((change.action, change.part) for change in changes)
    told = []
    for action in _ACTIONS:
        parts = [
            f"{number} {output.short(output.WORKSPACE_PART, part)}{'s' if number > 1 else ''}"
            for (its_action, part), number in sorted(found.items())
            if its_action == action
        ]
        if parts:
            number = sum(each for (its_action, _), each in found.items() if its_action == action)
            told.append(f"{number} {output.short(output.CHANGE_ACTION, action)} ({', '.join(parts)})")
    return ", ".join(told)


def widened_hats(before: Workspace, after: Workspace) -> list[str]:
    """Return the ids of the hats that lose their last team, and so serve the whole workspace."""
    now = {hat.id: hat for hat in after.hats}
    return [hat.id for hat in before.hats if hat.id in now and _widens(hat, now[hat.id])]


def details(before: Workspace, after: Workspace, changes: Iterable[pb.WorkspaceChange]) -> dict[tuple[int, str], str]:
    """Return for each updated part, by its kind and id, what becomes of its fields."""
    found: dict[tuple[int, str], str] = {}
    known = {part: (_by_id(getattr(before, name)), _by_id(getattr(after, name))) for part, name in _LISTS.items()}
    for change in changes:
        if change.action == pb.CHANGE_ACTION_UPDATED:
            old, new = (each.get(change.id) for each in known[change.part]) if change.part in known else (before, after)
            if old is not None and new is not None:
                found[change.part, change.id] = "; ".join(_differences(old, new))
    return found


def _by_id(parts: Iterable[Any]) -> dict[str, Any]:
    return {getattr(each, "id", None) or each.user_id: each for each in parts}


def _widens(old: Hat, new: Hat) -> bool:
    return bool(old.team_ids) and not new.team_ids


def _differences(old: Message, new: Message) -> Iterator[str]:
    descriptor: Any = old.DESCRIPTOR  # one of two classes
    for field in descriptor.fields:
        if field.message_type is not None:
            continue  # the parts of a workspace have changes of their own
        one, other = _value(old, field), _value(new, field)
        if one == other:
            continue
        if field.is_repeated:
            yield f"{field.name} {_moved(one, other)}"
        elif max(len(str(one)), len(str(other))) > _SHOWN_CHARACTERS or "\n" in f"{one}{other}":
            yield f"another {field.name}"
        else:
            yield f"{field.name} {one or 'none'} -> {other or 'none'}"
    if descriptor.name == "Hat" and _widens(old, new):  # type: ignore[arg-type]  # its name says what it is
        yield "SERVES THE WHOLE WORKSPACE, as it has no team any more"


def _value(message: Message, field: FieldDescriptor) -> Any:  # noqa: ANN401 - of the field's type
    value = getattr(message, field.name)
    if field.is_repeated:
        return frozenset(value)
    if field.enum_type is not None:
        return output.short(output.MEMBER_ROLE, value)
    if field.type == FieldDescriptor.TYPE_BOOL:
        # The one flag there is, `active`, is true where it is not set.
        return "yes" if value or not message.HasField(field.name) else "no"
    return value


def _moved(old: frozenset[str], new: frozenset[str]) -> str:
    gone = [f"-{each}" for each in sorted(old - new)]
    come = [f"+{each}" for each in sorted(new - old)]
    told = []
    for ids in (gone, come):
        told += ids[:_SHOWN_IDS]
        if len(ids) > _SHOWN_IDS:
            told.append(f"and {ids[0][0]}{len(ids) - _SHOWN_IDS} more")
    return " ".join(told)
