"""Records as JSON that is equal for equal records. It has every field of a record, so a new one cannot be forgotten."""

import json
from dataclasses import fields
from datetime import datetime
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def canonical_json(record: "DataclassInstance", *more: object) -> str:
    """Return a JSON array of the fields of a record, followed by more values.

    Enums are written as their values, times in ISO 8601, tuples as sorted arrays.
    """
    return json.dumps([*(_plain(getattr(record, field.name)) for field in fields(record)), *map(_plain, more)])


def _plain(value: object) -> Any:  # noqa: ANN401 - of as many types as JSON has
    match value:
        case Enum():
            return value.value
        case datetime():
            return value.isoformat()
        case tuple():
            return sorted(map(_plain, value), key=json.dumps)
        case _:
            return value
