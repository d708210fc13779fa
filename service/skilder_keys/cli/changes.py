"""Describe the changes of a workspace: removals first, with all counts, and with the old and new values of updates."""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1.workspace_pb2 import HAT_AUDIENCE_TEAMS, HAT_AUDIENCE_WORKSPACE, Hat, Workspace
from skilder_keys.cli.durations import shortest
from skilder_keys.cli.enums import short_name
from skilder_keys.cli.table import Column
from skilder_keys.domain.fields import quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from google.protobuf.message import Message

_ACTIONS = (pb.CHANGE_ACTION_REMOVED, pb.CHANGE_ACTION_UPDATED, pb.CHANGE_ACTION_ADDED)
# The field of a workspace that has the parts of each kind.
_LISTS = {
    pb.WorkspacePart.Value(f"WORKSPACE_PART_{field.message_type.name.upper()}"): field.name
    for field in Workspace.DESCRIPTOR.fields
    if field.is_repeated and field.message_type is not None
}
_POLICY = pb.WORKSPACE_PART_KEY_POLICY
# What the zero of an enum means, where it may be left out.
_MEANINGS = {"HatAudience": {0: HAT_AUDIENCE_TEAMS}}
_SHOWN_IDS = 3
_UNCLEAR = re.compile(r"[\s,;'\"]")  # in a list of ids
_SHOWN_CHARACTERS = 40

Row = tuple[str, str, str, str]
COLUMNS = (Column("part", whole=True), Column("id", whole=True), Column("change", whole=True), Column("what"))


def removals(changes: Iterable[pb.WorkspaceChange]) -> int:
    """Return how many parts are removed. A key policy is no part: nothing that is there stops working without it."""
    return sum(change.action == pb.CHANGE_ACTION_REMOVED and change.part != _POLICY for change in changes)


def with_all_removals(
    changes: Iterable[pb.WorkspaceChange], before: Workspace, after: Workspace
) -> list[pb.WorkspaceChange]:
    """Return all removals, and those of `changes` that are none. The service names only the first of many changes."""
    found = []
    for part, name in _LISTS.items():
        kept = _by_id(getattr(after, name))
        found += [
            pb.WorkspaceChange(part=part, id=id_, action=pb.CHANGE_ACTION_REMOVED)
            for id_ in _by_id(getattr(before, name))
            if id_ not in kept
        ]
    return found + [each for each in changes if each.action != pb.CHANGE_ACTION_REMOVED or each.part == _POLICY]


def rows(changes: Sequence[pb.WorkspaceChange], details: Mapping[tuple[int, str], str]) -> Iterator[Row]:
    """Yield each change as a row for COLUMNS: first the removed parts, then the updated ones, then the added ones."""
    for action in _ACTIONS:
        for change in changes:
            if change.action == action:
                yield _part(change.part), change.id, _action(action), details.get((change.part, change.id), "")


def counted(changes: Iterable[pb.WorkspaceChange]) -> str:
    """Return the number of changes of each kind, such as `2 removed (1 hat, 1 tool), 3 added (3 members)`."""
    found = Counter((change.action, change.part) for change in changes)
    counts = []
    for action in _ACTIONS:
        parts = [
            f"{number} {_part(part)}{'s' if number > 1 else ''}"
            for (its_action, part), number in sorted(found.items())
            if its_action == action
        ]
        if parts:
            number = sum(each for (its_action, _), each in found.items() if its_action == action)
            counts.append(f"{number} {_action(action)} ({', '.join(parts)})")
    return ", ".join(counts)


def widened_hats(before: Workspace, after: Workspace) -> list[str]:
    """Return the ids of the hats that will serve the whole workspace, and do not yet."""
    now = {hat.id: hat for hat in after.hats}
    return [hat.id for hat in before.hats if hat.id in now and _widens(hat, now[hat.id])]


def revokes_sooner(before: Workspace, after: Workspace) -> bool:
    """Return whether a key policy will revoke unused keys that it does not revoke yet, or not so soon."""
    if not after.key_policy.HasField("revoke_unused_after"):
        return False
    old, new = before.key_policy.revoke_unused_after, after.key_policy.revoke_unused_after
    return not before.key_policy.HasField("revoke_unused_after") or new.ToTimedelta() < old.ToTimedelta()


def unserving_hats(workspace: Workspace) -> list[str]:
    """Return the ids of the hats that serve nobody."""
    return [hat.id for hat in workspace.hats if _serves_nobody(hat)]


def details(before: Workspace, after: Workspace, changes: Iterable[pb.WorkspaceChange]) -> dict[tuple[int, str], str]:
    """Return the changes of fields for each updated part, and all rules of a changed key policy, by kind and id."""
    found: dict[tuple[int, str], str] = {}
    known = {part: (_by_id(getattr(before, name)), _by_id(getattr(after, name))) for part, name in _LISTS.items()}
    for change in changes:
        if change.part == _POLICY:
            found[change.part, change.id] = "; ".join(_differences(before.key_policy, after.key_policy))
        elif change.action == pb.CHANGE_ACTION_UPDATED:
            old, new = (each.get(change.id) for each in known[change.part]) if change.part in known else (before, after)
            if old is not None and new is not None:
                found[change.part, change.id] = "; ".join(_differences(old, new))
    return found


def _part(number: int) -> str:
    return short_name(pb.WorkspacePart.DESCRIPTOR, number)


def _action(number: int) -> str:
    return short_name(pb.ChangeAction.DESCRIPTOR, number)


def _by_id(parts: Iterable[Any]) -> dict[str, Any]:
    return {getattr(each, "id", None) or each.user_id: each for each in parts}


def _widens(old: Hat, new: Hat) -> bool:
    return new.audience == HAT_AUDIENCE_WORKSPACE != old.audience


def _serves_nobody(hat: Hat) -> bool:
    return hat.audience != HAT_AUDIENCE_WORKSPACE and not hat.team_ids


def _differences(old: Message, new: Message) -> Iterator[str]:
    descriptor: Any = old.DESCRIPTOR  # the C and the Python implementation have different classes
    for field in descriptor.fields:
        if field.message_type is not None and field.message_type.full_name != Duration.DESCRIPTOR.full_name:
            continue  # the parts of a workspace have their own changes
        one, other = _value(old, field), _value(new, field)
        if one == other:
            continue
        if field.is_repeated:
            yield f"{field.name} {_list_difference(one, other)}"
        elif max(len(str(one)), len(str(other))) > _SHOWN_CHARACTERS or "\n" in f"{one}{other}":
            yield f"new {field.name}"
        else:
            yield f"{field.name} {_or_none(one)} -> {_or_none(other)}"
    if isinstance(old, Hat) and isinstance(new, Hat):
        if _widens(old, new):
            yield "SERVES THE WHOLE WORKSPACE"
        elif _serves_nobody(new) and not _serves_nobody(old):
            yield "SERVES NOBODY"


def _or_none(value: object) -> object:
    return "none" if value is None or value == "" else value


def _value(message: Message, field: FieldDescriptor) -> Any:  # noqa: ANN401 - of the field's type
    value = getattr(message, field.name)
    if field.is_repeated:
        return frozenset(value)
    if field.has_presence and not message.HasField(field.name):
        return None
    if isinstance(value, Duration):
        return shortest(value.ToTimedelta())
    if field.enum_type is not None:
        return short_name(field.enum_type, _MEANINGS.get(field.enum_type.name, {}).get(value, value))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return "yes" if value else "no"
    return value


def _list_difference(old: frozenset[str], new: frozenset[str]) -> str:
    shown = []
    for sign, word, ids in (("-", "removed", sorted(old - new)), ("+", "added", sorted(new - old))):
        shown += [f"{sign}{quoted(each) if _UNCLEAR.search(each) else each}" for each in ids[:_SHOWN_IDS]]
        if len(ids) > _SHOWN_IDS:
            shown.append(f"and {len(ids) - _SHOWN_IDS} more {word}")
    return " ".join(shown)
