"""What keys and the parts of a workspace were and what they became, field by field, for the audit trail."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Enum
from hashlib import sha256
from typing import TYPE_CHECKING

from skilder_keys.domain.difference import Action, Part
from skilder_keys.domain.key_policy import KeyPolicy

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from skilder_keys.domain.difference import Change
    from skilder_keys.domain.keys import Key

MAX_VALUE = 1024
"""The most bytes of a value as JSON. A longer one is replaced by its SHA-256."""
MAX_BYTES = 96 * 1024
"""About the most bytes of all entries of an event."""


SECRET_REPLACED: dict[str, list[object]] = {"secret": [None, "replaced"]}
"""The changes of a key that has another secret. Neither secret is there."""

# What nobody changes, what is so because of something else, and what depends on who reads it.
_NO_FIELDS_OF_KEYS = {
    *("id", "type", "workspace_id", "user_id", "runtime_id", "created_at", "created_by", "family_id", "predecessor_id"),
    *("last_used_at", "last_source_ip", "workspace_deleted", "user_is_member", "expired", "version", "updated_at"),
    *("successor_id", "has_live_successor", "violations", "actions"),
}
# By its attributes, but for who did it, which the event says.
_STEPS = {"revocation": ("revoked_at", "revoke_reason"), "suspension": ("suspended_at", "suspend_reason")}


def key_changes(before: Key, after: Key) -> dict[str, list[object]]:
    """Return what each field of a key that changed was and what it became, as JSON values."""
    was, became = _key_fields(before), _key_fields(after)
    return {name: [was[name], became[name]] for name in was if was[name] != became[name]}


def revocation_changes(at: datetime, reason: str) -> dict[str, list[object]]:
    """Return what `key_changes` does for a key that is revoked at a time, for a reason."""
    return dict(zip(_STEPS["revocation"], ([None, at.isoformat()], [None, reason]), strict=True))


def key_fields(key: Key) -> dict[str, object]:
    """Return what a new key is, as JSON values."""
    fields_of_key = _key_fields(key)
    return {name: value for name, value in fields_of_key.items() if name not in sum(_STEPS.values(), ())}


def _key_fields(key: Key) -> dict[str, object]:
    found: dict[str, object] = {}
    for name in (each.name for each in fields(key) if each.name not in _NO_FIELDS_OF_KEYS):
        value = getattr(key, name)
        if name in _STEPS:
            at, reason = _STEPS[name]
            found |= {
                at: None if value is None else value.at.isoformat(),
                reason: None if value is None else value.reason,
            }
        elif name == "labels":
            found[name] = {label.name: label.value for label in value}
        else:
            found[name] = value.isoformat() if isinstance(value, datetime) else _json_value(value)
    return found


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
