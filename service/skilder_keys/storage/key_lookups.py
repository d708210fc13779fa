"""The lookups of `storage.key_search`: by which column of the table `key` an index finds the keys of a filter."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.domain.key_filter import KeyOrder
from skilder_keys.domain.keys import KeyLimit, KeyState
from skilder_keys.domain.token import KeyType, parse_hint
from skilder_keys.storage import principals

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skilder_keys.domain.ids import KeyId
    from skilder_keys.domain.key_filter import KeyFilter


@dataclass(frozen=True, slots=True)
class Lookup:
    """The column by which an index finds keys, its type, and the values to look up."""

    column: str
    type: str
    values: list[str] | list[int] | list[KeyId]


def types_of(key_filter: KeyFilter) -> frozenset[KeyType]:
    """Return the types that a key may have to match a filter."""
    types = frozenset(KeyType if key_filter.types is None else key_filter.types)
    if key_filter.user_ids is not None or key_filter.states == (KeyState.MEMBER_REMOVED,):
        types &= {KeyType.USER}
    if key_filter.runtime_ids is not None:
        types &= {KeyType.RUNTIME}
    if key_filter.hint is not None:
        types &= {parse_hint(key_filter.hint)[0]}
    if key_filter.unlimited == (KeyLimit.HATS,):
        types -= {KeyType.RUNTIME}
    return types


def has_expiry(key_filter: KeyFilter) -> bool:
    """Return whether a filter names a range of expiry."""
    return key_filter.expires_after is not None or key_filter.expires_before is not None


def lookup_of(
    key_filter: KeyFilter,
    types: frozenset[KeyType],
    order: KeyOrder | None,
    family: list[KeyId] | None,
    *,
    by_terms: bool,
) -> Lookup | None:
    """Return the lookup that leaves the fewest keys, as far as that is known; None to find them by terms or order."""
    if key_filter.hint is not None:
        return Lookup("key_hint(key.id)", "bigint", [parse_hint(key_filter.hint)[1]])
    if family is not None:
        return Lookup("key.id", "uuid", family)
    if by_terms:
        return None
    # The indexes by last use and by expiry begin with the type.
    by_use = order is None and key_filter.unused_since is not None
    by_type = types != frozenset(KeyType) or by_use or order not in {None, KeyOrder.NEWEST} or has_expiry(key_filter)
    columns: dict[str, Sequence[str] | None] = {
        "key.runtime_id": key_filter.runtime_ids,
        "key.user_id": key_filter.user_ids,
        "key.created_by_id": None if key_filter.created_by is None else principals.columns(key_filter.created_by)[1:],
        "key.type": [each.value for each in KeyType if each in types] if by_type else None,
    }
    return next(
        (Lookup(column, "text", list(values)) for column, values in columns.items() if values is not None), None
    )
