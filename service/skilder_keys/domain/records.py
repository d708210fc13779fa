"""Records as JSON that is equal for equal records. It has every field of a record, so a new one cannot be forgotten."""

import json
from dataclasses import MISSING, fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def canonical_json(record: "DataclassInstance", *more: object) -> str:
    """Return a JSON array of the fields of a record, followed by more values.

    Fields that have their default are left out, and other fields with a default follow as an object. So a version that
    adds a field with a default writes the same for a record without it as the version before.

    Enums are written as their values, times in ISO 8601, lengths of time in microseconds, tuples as sorted arrays.
    """
    values = {field: getattr(record, field.name) for field in fields(record)}
    always = [value for field, value in values.items() if field.default is MISSING]
    chosen = {
        field.name: _plain(value)
        for field, value in values.items()
        if field.default is not MISSING and value != field.default
    }
    return json.dumps([*map(_plain, (*always, *more)), *([chosen] if chosen else [])])


def _plain(value: Any) -> Any:  # noqa: ANN401 - of as many types as JSON has
    match value:
        case Enum():
            return value.value
        case datetime():
            return value.isoformat()
        case timedelta():
            return value // timedelta(microseconds=1)
        case tuple():
            return sorted(map(_plain, value), key=json.dumps)
        case _ if is_dataclass(value) and not isinstance(value, type):
            return json.loads(canonical_json(value))
        case _:
            return value
