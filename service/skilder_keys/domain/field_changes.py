"""What the parts of a workspace were and what they became, field by field, for the audit trail."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING

from skilder_keys.domain.difference import Action, Part
from skilder_keys.domain.key_policy import KeyPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from skilder_keys.domain.difference import Change

MAX_VALUE = 1024
"""The most bytes of a value as JSON. A longer one is replaced by its SHA-256."""
MAX_BYTES = 96 * 1024
"""About the most bytes of all entries of an event."""


def field_changes(changes: Iterable[Change]) -> tuple[list[list[object]], int]:
    """Return `[path, before, after]` for each field that changed, as JSON values, and how many were left out.

    The path of a part is `hat.support-desk`: one that was added or removed has one entry, an object, with null in the
    place where it was not. The path of a field is `hat.support-desk.name`. Those of the workspace itself and of its key
    policy have no id: `workspace.name`, `key_policy.max_lifetime`.
    """
    found: list[list[object]] = []
    left_out = size = 0
    for change in changes:
        if size > MAX_BYTES:
            left_out += 1
            continue
        for entry in _entries(change):
            found.append(entry)
            size += len(json.dumps(entry))
    return found, left_out


def _entries(change: Change) -> Iterator[list[object]]:
    whole = change.part in (Part.WORKSPACE, Part.KEY_POLICY)
    path = change.part.value if whole else f"{change.part.value}.{change.id}"
    before, after = _plain(change.part, change.before), _plain(change.part, change.after)
    if change.action is Action.UPDATED or whole:
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                yield [f"{path}.{name}", _bounded(before.get(name)), _bounded(after.get(name))]
    else:
        was, became = ({name: _bounded(value) for name, value in each.items()} for each in (before, after))
        yield [path, was or None, became or None]


def _plain(part: Part, record: object) -> dict[str, object]:
    """Return the fields of a part as JSON values, without its id."""
    if isinstance(record, KeyPolicy):
        return record.plain()
    if not is_dataclass(record):
        return {}
    names = ["name"] if part is Part.WORKSPACE else [each.name for each in fields(record) if each.name != "id"]
    return {name: _json_value(getattr(record, name)) for name in names}


def _json_value(value: object) -> object:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def _bounded(value: object) -> object:
    text = json.dumps(value, ensure_ascii=False).encode()
    if len(text) <= MAX_VALUE:
        return value
    return {"sha256": sha256(text).hexdigest(), "bytes": len(text)}
