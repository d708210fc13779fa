"""Masks: the fields of a message that a call is about, by their names (AIP-157, but without `*` and nested paths)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.fields import quoted

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from skilder_keys.domain.fields import Violations

MAX_PATHS = 100
"""The most names in a mask."""


def check_mask(violations: Violations, field: str, paths: Sequence[str], allowed: Collection[str]) -> None:
    """Check that a mask names one field at least, and only those that are allowed.

    A mask that is set but names nothing is refused. It may have been computed: to take it for all fields would be more
    than was asked for, and to take it for none would hide a mistake.

    Args:
        violations: Where invalid names are added.
        field: The name of the mask.
        paths: The names.
        allowed: The fields that a mask may name.
    """
    names = ", ".join(allowed)
    if not paths:
        violations.add(field, f"names no field: leave it out for all fields, or name some of {names}")
    for index, path in enumerate(paths):
        if path not in allowed:
            violations.add(
                f"{field}.paths[{index}]", f"is {quoted(path)}, which is not a field to name; allowed are {names}"
            )
