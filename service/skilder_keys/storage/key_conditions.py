"""The conditions of a filter of keys in SQL, in two groups: those by which an index is read, and the others.

The others are written in ways that no index fits: see `storage.key_search`.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from skilder_keys.domain.key_filter import KeyOrder
from skilder_keys.domain.keys import KeyLimit, KeyState
from skilder_keys.domain.token import KeyType
from skilder_keys.storage import principals
from skilder_keys.storage.key_lookups import has_expiry
from skilder_keys.storage.key_orders import EXPIRY, LAST_USE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skilder_keys.domain.key_filter import KeyFilter

# $1 is the workspace. Its members are read once, into a hash table: to look each user up would take most of the time of
# a count.
STATE = """
    CASE WHEN key.revoked_at IS NOT NULL THEN 'revoked'
         WHEN key.type = 'user'
              AND key.user_id NOT IN (SELECT member.user_id FROM member WHERE member.workspace_id = $1)
         THEN 'member_removed'
         WHEN key.expires_at <= statement_timestamp() THEN 'expired'
         WHEN key.suspended_at IS NOT NULL THEN 'suspended'
         ELSE 'active' END
"""
STATE_IF_DELETED = "CASE WHEN key.revoked_at IS NOT NULL THEN 'revoked' ELSE 'workspace_gone' END"

# A runtime key has no hats to be limited to.
_UNLIMITED = {
    KeyLimit.HATS: "NOT key.limited_to_hats AND key.type <> 'runtime'",
    KeyLimit.NETWORKS: "key.networks IS NULL",
    KeyLimit.EXPIRY: "key.expires_at IS NULL",
}
_EPOCH = datetime.fromtimestamp(0, UTC)


class KeyConditions:
    """Conditions on the columns of `key`, and the values of their parameters. No value stands in the SQL itself.

    Attributes:
        values: The values of the parameters, from $1 on.
        ranges: The conditions by which an index is read.
        others: The conditions that decide about each key that was read.
    """

    def __init__(self) -> None:
        self.values: list[object] = []
        self.ranges: list[str] = []
        self.others: list[str] = []

    def parameter(self, value: object) -> str:
        """Add a value and return the name of its parameter."""
        self.values.append(value)
        return f"${len(self.values)}"

    def add(self, condition: str, value: object, *, by_index: bool) -> None:
        """Add a condition with a value."""
        (self.ranges if by_index else self.others).append(condition.format(self.parameter(value)))

    def add_one_of(self, column: str, values: Sequence[str]) -> None:
        """Add the condition that something has one of some values, which no index fits."""
        self.others.append(f"array_position({self.parameter(list(values))}::text[], {column}) IS NOT NULL")

    def add_states(
        self, state: str, states: frozenset[KeyState], possible: frozenset[KeyState], *, by_index: bool
    ) -> None:
        """Add the condition for some of the possible states.

        Args:
            state: The state of a key, in SQL.
            states: The states.
            possible: All that a key of the workspace can have.
            by_index: Whether Postgres may find the keys by the index of those that were revoked, or were not.
        """
        if states == possible:
            return
        if states == {KeyState.REVOKED}:
            self._add_revoked("key.revoked_at IS NOT NULL", "num_nonnulls(key.revoked_at) = 1", by_index=by_index)
            return
        if KeyState.REVOKED not in states:
            self._add_revoked("key.revoked_at IS NULL", "num_nulls(key.revoked_at) = 1", by_index=by_index)
            if states == possible - {KeyState.REVOKED}:
                return
        self.add_one_of(state, [each.value for each in states])

    def _add_revoked(self, by_an_index: str, by_none: str, *, by_index: bool) -> None:
        if by_index:
            self.ranges.append(by_an_index)
        else:
            self.others.append(by_none)

    def add_owners(self, key_filter: KeyFilter, types: frozenset[KeyType], found_by: str | None) -> None:
        """Add the conditions on the type of a key, whom it is for, and who issued it.

        Args:
            key_filter: The filter.
            types: The types that a key may have.
            found_by: The column by which the keys are looked up, so that it needs no condition here.
        """
        if types != frozenset(KeyType) and found_by not in {"key.type", "key.user_id", "key.runtime_id"}:
            self.add_one_of("key.type", [each.value for each in types])
        for column, values in (("key.user_id", key_filter.user_ids), ("key.runtime_id", key_filter.runtime_ids)):
            if values is not None and found_by != column:
                self.add_one_of(column, values)
        if key_filter.created_by is not None:
            kind, id_ = principals.columns(key_filter.created_by)
            if found_by == "key.created_by_id":
                self.add("key.created_by_kind = {}", kind, by_index=True)
            else:
                self.add_one_of("key.created_by_id", [id_])
                self.add_one_of("key.created_by_kind", [kind])

    def add_times(self, key_filter: KeyFilter, order: KeyOrder | None) -> None:
        """Add the conditions on issue and use. The id begins with the time of issue, so that it bounds what is read."""
        by_id, by_use = order in {None, KeyOrder.NEWEST}, order in {None, KeyOrder.LEAST_RECENTLY_USED}
        if key_filter.created_after is not None:
            self.add("key.created_at >= {}", key_filter.created_after, by_index=False)
            self.add("key.id >= {}", _first_id(key_filter.created_after), by_index=by_id)
        if key_filter.created_before is not None:
            self.add("key.created_at < {}", key_filter.created_before, by_index=False)
            self.add("key.id < {}", _first_id(key_filter.created_before), by_index=by_id)
        if key_filter.unused_since is not None:
            self.add(f"{LAST_USE} < {{}}", key_filter.unused_since, by_index=False)
            if order is not KeyOrder.NEWEST:
                self.add("key.used_on <= {}", key_filter.unused_since.astimezone(UTC).date(), by_index=by_use)

    def add_expiry(
        self, key_filter: KeyFilter, order: KeyOrder | None, states: frozenset[KeyState], *, by_index: bool
    ) -> None:
        """Add the conditions on the expiry, and bounds for what is read of the index that has it."""
        conditions = self.ranges if by_index else self.others
        after, before = key_filter.expires_after, key_filter.expires_before
        if has_expiry(key_filter):
            conditions.append(f"{EXPIRY} < 'infinity'")
        if after is not None:
            self.add(f"{EXPIRY} >= {{}}", after, by_index=by_index)
        if before is not None:
            self.add(f"{EXPIRY} < {{}}", before, by_index=by_index)
        if order is KeyOrder.EXPIRES_NEXT and states <= {KeyState.ACTIVE, KeyState.SUSPENDED}:
            conditions.append(f"{EXPIRY} > statement_timestamp()")

    def add_unlimited(self, limits: Sequence[KeyLimit]) -> None:
        """Add the condition that a key lacks one of some limits."""
        self.others.append(f"({' OR '.join(_UNLIMITED[limit] for limit in limits)})")


def _first_id(moment: datetime) -> UUID:
    """Return the lowest id that a key which is issued at a time can have: see `storage.keys`."""
    microseconds = max(0, (moment - _EPOCH) // timedelta(microseconds=1))
    milliseconds, rest = divmod(microseconds, 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | rest * 4096 // 1000 << 64)
