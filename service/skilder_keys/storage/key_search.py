"""A filter of keys in SQL: how an index finds them, and what decides about each. Tables `key` and `member`.

Postgres must not choose how keys are found. It does not know the values, since plans are made for any, and it may have
no statistics. So one condition, the *lookup*, names a column that an index begins with. The others are written in ways
that no index fits, so that only the lookup and the order are left to choose an index by.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from uuid import UUID

from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.key_filter import KeyOrder
from skilder_keys.domain.key_policy import PolicyRule
from skilder_keys.domain.keys import KeyLimit, KeyState
from skilder_keys.domain.token import KeyType
from skilder_keys.storage import key_families, key_violations, principals
from skilder_keys.storage.key_lookups import has_expiry, lookup_of, types_of
from skilder_keys.storage.key_orders import EXPIRY, LAST_USE

if TYPE_CHECKING:
    from skilder_keys.domain.key_filter import KeyFilter
    from skilder_keys.storage.database import Connection
    from skilder_keys.storage.key_orders import Order

_BY_INDEX = """\
SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL random_page_cost = 1; SET LOCAL enable_seqscan = off;
SET LOCAL work_mem = '16MB'"""
"""Settings without which Postgres may plan to read the keys of all workspaces: for a workspace with most of the keys,
or if there are few workspaces and random reads count as expensive. The memory is for a hash table of all members."""

# For the orders that only one index has, or the beginning of the order. Without statistics Postgres would take another
# index and sort all keys. It believes that these settings make a plan costly, and would compile it.
_UNSORTED = "SET LOCAL enable_sort = off; SET LOCAL jit = off"

# $1 is the workspace. Its members are read once, into a hash table: to look each user up would take most of the time of
# a count.
_STATE = """
    CASE WHEN key.revoked_at IS NOT NULL THEN 'revoked'
         WHEN key.type = 'user'
              AND key.user_id NOT IN (SELECT member.user_id FROM member WHERE member.workspace_id = $1)
         THEN 'member_removed'
         WHEN key.expires_at <= statement_timestamp() THEN 'expired'
         WHEN key.suspended_at IS NOT NULL THEN 'suspended'
         ELSE 'active' END
"""
_STATE_IF_DELETED = "CASE WHEN key.revoked_at IS NOT NULL THEN 'revoked' ELSE 'workspace_gone' END"

# A runtime key has no hats to be limited to.
_UNLIMITED = {
    KeyLimit.HATS: "NOT key.limited_to_hats AND key.type <> 'runtime'",
    KeyLimit.NETWORKS: "key.networks IS NULL",
    KeyLimit.EXPIRY: "key.expires_at IS NULL",
}
_EPOCH = datetime.fromtimestamp(0, UTC)
_FEW = {"key_hint(key.id)", "key.id", "key.user_id", "key.runtime_id"}
"""The columns of lookups that leave few keys."""


class KeySearch:
    """How the keys that match a filter are found. No value stands in the SQL itself.

    Attributes:
        is_empty: Whether no key can match.
        state: The state of a key, the rule of `domain.keys.state_of` in SQL.
        values: The values of the parameters, from $1 on.
    """

    def __init__(
        self,
        key_filter: KeyFilter,
        *,
        workspace_deleted: bool,
        terms: list[str] | None,
        family: list[KeyId] | None,
        rules: list[PolicyRule] | None,
        order: KeyOrder | None = None,
    ) -> None:
        """Take in a filter. Use `search_for`.

        Args:
            key_filter: The filter.
            workspace_deleted: Whether the workspace of the filter was deleted.
            terms: The terms that a key must have by the text and the labels of the filter; None for any.
            family: The keys of the family of the filter; None for any.
            rules: The rules, all of which the policy has, one of which a key must break; None for any key.
            order: The order; None if it does not matter.
        """
        types = types_of(key_filter)
        possible = _possible_states(workspace_deleted=workspace_deleted)
        states = possible if key_filter.states is None else possible.intersection(key_filter.states)
        if rules is not None:
            states -= {KeyState.REVOKED, KeyState.WORKSPACE_GONE}
        nobody = () in (key_filter.user_ids, key_filter.runtime_ids)
        self.is_empty = not types or not states or [] in (terms, rules) or nobody
        self.state = _STATE_IF_DELETED if workspace_deleted else _STATE
        self.values: list[object] = []
        self._conditions: list[str] = []
        self._order = order
        self._rules = rules
        self._users = key_filter.user_ids
        self._lookup = lookup_of(key_filter, types, order, family, by_terms=terms is not None)
        self._by_terms = self._lookup is None and terms is not None
        by_type = self._lookup is not None and self._lookup.column == "key.type"
        self._in_range = by_type and has_expiry(key_filter) and order is not KeyOrder.EXPIRES_NEXT
        self._by_use = by_type and order is None and key_filter.unused_since is not None and not self._in_range
        self._unsorted = by_type and (self._in_range or self._by_use or order not in {None, KeyOrder.NEWEST})
        self.add("key.workspace_id = {}", key_filter.workspace_id)
        if terms is not None:
            self.add("key_terms(key.workspace_id, key.description, key.labels) @> {}::text[]", terms)
        self._add_states(states, possible, by_index=self._lookup is None and terms is None)
        self._add_owners(key_filter, types)
        self._add_times(key_filter)
        self._add_expiry(key_filter, states)
        if key_filter.unlimited is not None:
            self._conditions.append(f"({' OR '.join(_UNLIMITED[limit] for limit in key_filter.unlimited)})")

    def add(self, condition: str, value: object) -> None:
        """Add a condition with a value."""
        self._conditions.append(condition.format(self.parameter(value)))

    def add_position(self, order: Order, position: str) -> None:
        """Add the condition that a key comes after a position, which is a JSON array of its places in an order."""
        names = [column for column, _ in order.columns]
        parameter = self.parameter(position)
        values = [f"({parameter}::jsonb ->> {index})::{type_}" for index, (_, type_) in enumerate(order.columns)]
        if names == ["key.id"] and (self._lookup is None or self._lookup.column in {"key.type", "key.created_by_id"}):
            # A comparison that fits the index in which the id follows the workspace, but not the one by id alone.
            names, values = ["key.workspace_id", *names], ["$1", *values]
        comparison = "<" if order.direction == "DESC" else ">"
        self._conditions.append(f"({', '.join(names)}) {comparison} ({', '.join(values)})")

    def parameter(self, value: object) -> str:
        """Add a value and return the name of its parameter."""
        self.values.append(value)
        return f"${len(self.values)}"

    @property
    def settings(self) -> str:
        """The settings of the transaction with which to run a query."""
        return f"{_BY_INDEX}; {_UNSORTED}" if self._unsorted else _BY_INDEX

    def end(self, order: Order, limit: str) -> str:
        """Return the end with which to select keys in an order: those at its beginning.

        Of the keys with some terms all are selected, and of those that expire in a range of time: few keys may do, and
        their index has another order. OFFSET keeps Postgres from choosing an index by the order of the list instead.
        """
        if self._by_terms:
            return "OFFSET 0"
        return f"ORDER BY {EXPIRY} OFFSET 0" if self._in_range else order.by(limit)

    def end_of_count(self, limit: int) -> str:
        """Return the end with which to select keys that are counted. An order chooses the index that has it."""
        column = EXPIRY if self._in_range else "key.used_on" if self._by_use else None
        return f"LIMIT {limit}" if column is None else f"ORDER BY {column} LIMIT {limit}"

    def all_conditions(self) -> str:
        """Return the conditions for keys that are found in another way, the lookup among them."""
        conditions = list(self._conditions)
        if self._rules is not None:
            conditions.append(f"key_violations(key) && {self.parameter([each.value for each in self._rules])}::text[]")
        if self._lookup is not None:
            values = f"{self.parameter(self._lookup.values)}::{self._lookup.type}[]"
            conditions.append(f"array_position({values}, {self._lookup.column}) IS NOT NULL")
        return " AND ".join(conditions)

    def select(self, columns: str, end: str) -> str:
        """Return a subquery of the keys that match.

        Args:
            columns: What to select from `key`.
            end: How the keys are ordered and limited. Several values of a column are looked up one by one, and each has
                this end.
        """
        lookup, where = self._lookup, " AND ".join(self._conditions)
        if self._rules is not None:
            counts_users = PolicyRule.MAX_ACTIVE_KEYS_PER_USER in self._rules and self._users is not None
            users = self.parameter(list(self._users or ())) if counts_users else None
            few = lookup is not None and lookup.column in _FEW
            where += f" AND {key_violations.breaks_one_of(self._rules, users=users, few=few)}"
        if lookup is None:
            return f"SELECT {columns} FROM key WHERE {where} {end}"  # noqa: S608
        if len(lookup.values) == 1:
            value = self.parameter(lookup.values[0])
            found = f"{lookup.column} = {value}::{lookup.type}"
            return f"SELECT {columns} FROM key WHERE {where} AND {found} {end}"  # noqa: S608
        # An index has the keys of each value in order, but not those of several values.
        return f"""
            SELECT found.* FROM unnest({self.parameter(lookup.values)}::{lookup.type}[]) AS wanted (value)
            CROSS JOIN LATERAL (
                SELECT {columns} FROM key WHERE {where} AND {lookup.column} = wanted.value {end}
            ) AS found
        """  # noqa: S608

    def _add_states(self, states: frozenset[KeyState], possible: frozenset[KeyState], *, by_index: bool) -> None:
        """Add the condition for some of the possible states.

        Args:
            states: The states.
            possible: All that a key of the workspace can have.
            by_index: Whether Postgres may find the keys by the index of those that were revoked, or were not.
        """
        if states == possible:
            return
        if states == {KeyState.REVOKED}:
            self._conditions.append("key.revoked_at IS NOT NULL" if by_index else "num_nonnulls(key.revoked_at) = 1")
            return
        if KeyState.REVOKED not in states:
            self._conditions.append("key.revoked_at IS NULL" if by_index else "num_nulls(key.revoked_at) = 1")
            if states == possible - {KeyState.REVOKED}:
                return
        self._add_one_of(self.state, [each.value for each in states])

    def _add_owners(self, key_filter: KeyFilter, types: frozenset[KeyType]) -> None:
        """Add the conditions on the type of a key, whom it is for, and who issued it."""
        found_by = None if self._lookup is None else self._lookup.column
        if types != frozenset(KeyType) and found_by not in {"key.type", "key.user_id", "key.runtime_id"}:
            self._add_one_of("key.type", [each.value for each in types])
        for column, values in (("key.user_id", key_filter.user_ids), ("key.runtime_id", key_filter.runtime_ids)):
            if values is not None and found_by != column:
                self._add_one_of(column, list(values))
        if key_filter.created_by is not None:
            kind, id_ = principals.columns(key_filter.created_by)
            if found_by == "key.created_by_id":
                self.add("key.created_by_kind = {}", kind)
            else:
                self._add_one_of("key.created_by_id", [id_])
                self._add_one_of("key.created_by_kind", [kind])

    def _add_times(self, key_filter: KeyFilter) -> None:
        """Add the conditions on issue and use. The id begins with the time of issue, so that it bounds what is read."""
        if key_filter.created_after is not None:
            self.add("key.created_at >= {}", key_filter.created_after)
            self.add("key.id >= {}", _first_id(key_filter.created_after))
        if key_filter.created_before is not None:
            self.add("key.created_at < {}", key_filter.created_before)
            self.add("key.id < {}", _first_id(key_filter.created_before))
        if key_filter.unused_since is not None:
            self.add(f"{LAST_USE} < {{}}", key_filter.unused_since)
            if self._order is not KeyOrder.NEWEST:
                self.add("key.used_on <= {}", key_filter.unused_since.astimezone(UTC).date())

    def _add_expiry(self, key_filter: KeyFilter, states: frozenset[KeyState]) -> None:
        """Add the conditions on the expiry, and bounds for what is read of the index that has it."""
        after, before = key_filter.expires_after, key_filter.expires_before
        if has_expiry(key_filter):
            self._conditions.append(f"{EXPIRY} < 'infinity'")
        if after is not None:
            self.add(f"{EXPIRY} >= {{}}", after)
        if before is not None:
            self.add(f"{EXPIRY} < {{}}", before)
        if self._order is KeyOrder.EXPIRES_NEXT and states <= {KeyState.ACTIVE, KeyState.SUSPENDED}:
            self._conditions.append(f"{EXPIRY} > statement_timestamp()")

    def _add_one_of(self, column: str, values: list[str]) -> None:
        """Add the condition that something has one of some values, which no index fits."""
        self._conditions.append(f"array_position({self.parameter(values)}::text[], {column}) IS NOT NULL")


async def search_for(
    connection: Connection, key_filter: KeyFilter, *, workspace_deleted: bool, order: KeyOrder | None = None
) -> KeySearch:
    """Return how the keys that match a filter are found, after reading what has to be known for it.

    Args:
        connection: Where they are looked for.
        key_filter: The filter.
        workspace_deleted: Whether the workspace of the filter was deleted.
        order: The order; None if it does not matter.
    """
    family = None
    if key_filter.family_id is not None:
        family = await key_families.members(connection, [KeyId(UUID(key_filter.family_id))])
    terms = await _read_terms(connection, key_filter)
    rules = await key_violations.rules_in_force(connection, key_filter)
    return KeySearch(
        key_filter, workspace_deleted=workspace_deleted, terms=terms, family=family, rules=rules, order=order
    )


async def _read_terms(connection: Connection, key_filter: KeyFilter) -> list[str] | None:
    """Return the terms that a key must have by the text and the labels of a filter; None for any.

    It is an empty list if Postgres finds no word in the text, so that no key matches.
    """
    terms: list[str] = []
    if key_filter.text is not None:
        words = await connection.fetchval("SELECT key_terms($1, $2, '{}')", key_filter.workspace_id, key_filter.text)
        if not words:
            return []
        terms += words
    terms += [f"{key_filter.workspace_id} ={label}" for label in key_filter.labels or ()]
    return terms or None


def _possible_states(*, workspace_deleted: bool) -> frozenset[KeyState]:
    if workspace_deleted:
        return frozenset({KeyState.REVOKED, KeyState.WORKSPACE_GONE})
    return frozenset(KeyState) - {KeyState.WORKSPACE_GONE}


def _first_id(moment: datetime) -> UUID:
    """Return the lowest id that a key which is issued at a time can have: see `storage.keys`."""
    microseconds = max(0, (moment - _EPOCH) // timedelta(microseconds=1))
    milliseconds, rest = divmod(microseconds, 1000)
    return UUID(int=milliseconds << 80 | 7 << 76 | rest * 4096 // 1000 << 64)
