"""The API's enums by their short names, which people write and read: KEY_TYPE_USER is `user`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from google.protobuf.descriptor import EnumDescriptor


def short_names(enum: EnumDescriptor) -> dict[str, int]:
    """Return the number of each short name, without UNSPECIFIED."""
    return {_short(each.name, enum): each.number for each in enum.values if each.number}


def short_name(enum: EnumDescriptor, number: int) -> str:
    """Return the short name of a number. Raises KeyError for a number that this version does not know."""
    return _short(enum.values_by_number[number].name, enum)


def _short(name: str, enum: EnumDescriptor) -> str:
    return name.removeprefix(enum.values_by_number[0].name.removesuffix("UNSPECIFIED")).lower()
