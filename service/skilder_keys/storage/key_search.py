"""A filter of keys in SQL: how an index finds them. Tables `key` and `member`.

Postgres must not choose how keys are found. It does not know the values, since plans are made for any, and it may have
no statistics. So one condition, the *lookup*, names a column that an index begins with. The others are written in ways
that no index fits, so that only the lookup and the order are left to choose an index by: see `storage.key_conditions`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.key_filter import KeyOrder
from skilder_keys.domain.key_policy import PolicyRule
from skilder_keys.domain.keys import KeyState
from skilder_keys.storage import key_families, key_violations
from skilder_keys.storage.key_conditions import STATE, STATE_IF_DELETED, KeyConditions
from skilder_keys.storage.key_lookups import has_expiry, lookup_of, types_of
from skilder_keys.storage.key_orders import EXPIRY
from skilder_keys.storage.key_terms import TERMS, have_more, terms_of

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

_IDS = {"key_hint(key.id)", "key.id"}
_FEW = {*_IDS, "key.user_id", "key.runtime_id"}
"""The columns of lookups that leave few keys."""


class KeySearch:
    """How the keys that match a filter are found. No value stands in the SQL itself.

    Attributes:
        is_empty: Whether no key can match.
        state: The state of a key, the rule of `domain.keys.state_of` in SQL.
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
        by_terms: bool = True,
    ) -> None:
        """Take in a filter. Use `search_for`.

        Args:
            key_filter: The filter.
            workspace_deleted: Whether the workspace of the filter was deleted.
            terms: The terms that a key must have by the text and the labels of the filter; None for any.
            family: The keys of the family of the filter; None for any.
            rules: The rules, all of which the policy has, one of which a key must break; None for any key.
            order: The order; None if it does not matter.
            by_terms: Whether all keys with the terms may be read.
        """
        types = types_of(key_filter)
        possible = _possible_states(workspace_deleted=workspace_deleted)
        states = possible if key_filter.states is None else possible.intersection(key_filter.states)
        if rules is not None:
            states -= {KeyState.REVOKED, KeyState.WORKSPACE_GONE}
        nobody = () in (key_filter.user_ids, key_filter.runtime_ids)
        self.is_empty = not types or not states or [] in (terms, rules) or nobody
        self.state = STATE_IF_DELETED if workspace_deleted else STATE
        self._rules = rules
        self._users = key_filter.user_ids
        self._lookup = lookup_of(key_filter, types, order, family, by_terms=by_terms and terms is not None)
        found_by = None if self._lookup is None else self._lookup.column
        self._by_terms = found_by is None and by_terms and terms is not None
        self._reads_terms = terms is not None and not self._by_terms
        by_type = found_by == "key.type"
        self._in_range = by_type and has_expiry(key_filter) and order is not KeyOrder.EXPIRES_NEXT
        self._by_use = by_type and order is None and key_filter.unused_since is not None and not self._in_range
        self._unsorted = by_type and (self._in_range or self._by_use or order not in {None, KeyOrder.NEWEST})
        self._few = found_by in _FEW
        self._conditions = found = KeyConditions()
        found.add("key.workspace_id = {}", key_filter.workspace_id, by_index=True)
        if terms is not None:
            found.add(f"{TERMS} @> {{}}::text[]", terms, by_index=self._by_terms)
        found.add_states(self.state, states, possible, by_index=found_by is None and not self._by_terms)
        found.add_owners(key_filter, types, found_by)
        found.add_times(key_filter, order)
        found.add_expiry(key_filter, order, states, by_index=by_type)
        if key_filter.unlimited is not None:
            found.add_unlimited(key_filter.unlimited)

    @property
    def values(self) -> list[object]:
        """The values of the parameters, from $1 on."""
        return self._conditions.values

    @property
    def branches(self) -> int:
        """How many values are looked up, each by itself."""
        return 1 if self._lookup is None else len(self._lookup.values)

    @property
    def weight(self) -> int:
        """About how many times as long as usual it takes to look at a key of a page.

        Its words are found by parsing its description, or the other keys of its user are counted.
        """
        if PolicyRule.MAX_ACTIVE_KEYS_PER_USER in (self._rules or ()) and self._users is None:
            return 10
        return 4 if self._reads_terms else 1

    @property
    def reads_more(self) -> bool:
        """Whether many keys may be read, in order, for each one that matches."""
        is_id = self._lookup is not None and self._lookup.column in _IDS
        return bool(self._conditions.others or self._rules) and not (self._by_terms or self._in_range or is_id)

    def add_position(self, order: Order, position: str) -> None:
        """Add the condition that a key comes after a position, which is a JSON array of its places in an order."""
        parameter = self.parameter(position)
        names = [column for column, _ in order.columns]
        values = [f"({parameter}::jsonb ->> {index})::{type_}" for index, (_, type_) in enumerate(order.columns)]
        if names == ["key.id"] and (self._lookup is None or self._lookup.column in {"key.type", "key.created_by_id"}):
            # A comparison that fits the index in which the id follows the workspace, but not the one by id alone.
            names, values = ["key.workspace_id", *names], ["$1", *values]
        after = "<" if order.direction == "DESC" else ">"
        self._conditions.ranges.append(f"({', '.join(names)}) {after} ({', '.join(values)})")

    def parameter(self, value: object) -> str:
        """Add a value and return the name of its parameter."""
        return self._conditions.parameter(value)

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
        conditions = [*self._conditions.ranges, *self._conditions.others]
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
        where = self._where(few=self._few)
        return self._each(f"SELECT {columns} FROM key WHERE {{0}} {where} {end}")  # noqa: S608

    def page(self, order: Order, limit: str, most: int) -> str:
        """Return CTEs of a page for which at most `most` keys of each value of the lookup are read.

        `page` has the ids and places of the keys that match. `last` has, in one row, the places of the last key that
        was read, if there may be others after it: then the page ends there.
        """
        first = f"FROM key WHERE {{0}} {order.by(str(most))}"
        users = f"SELECT DISTINCT user_id FROM (SELECT key.user_id {first}) AS key WHERE user_id IS NOT NULL"  # noqa: S608
        where = self._where(few=True, users=users).removeprefix(" AND ") or "true"
        read = f"SELECT key.*, {order.places} {first}"
        value = ", 1 AS value" if self.branches == 1 else ""
        end = order.by(limit, places=True)
        found = self._each(f"SELECT key.id, {order.names}{value} FROM ({read}) AS key WHERE {where} {end}")  # noqa: S608
        last = self._each(f"SELECT {order.places} FROM key WHERE {{0}} {order.by('1')} OFFSET {most - 1}")  # noqa: S608
        until = ">=" if order.direction == "DESC" else "<="
        # Each value of which enough keys were found leaves no gap. If all do, the last ones are not looked for.
        return f"""
            found AS MATERIALIZED ({found}),
            filled AS MATERIALIZED (
                SELECT count(*) AS number FROM (SELECT FROM found GROUP BY value HAVING count(*) >= {limit}) AS value
            ), last AS MATERIALIZED (
                SELECT {order.names} FROM ({last}) AS last WHERE (SELECT number FROM filled) < {self.branches}
                {order.by("1", places=True)}
            ), page AS MATERIALIZED (
                SELECT id, {order.names} FROM found
                WHERE NOT EXISTS (SELECT FROM last) OR ({order.names}) {until} (SELECT {order.names} FROM last) {end}
            )
        """  # noqa: S608

    def some(self, columns: str, most: int) -> str:
        """Return a subquery of the keys that match, of at most `most` of each value of the lookup, in any order."""
        where = self._where(few=True).removeprefix(" AND ") or "true"
        read = f"SELECT key.* FROM key WHERE {{0}} {self.end_of_count(most)}"  # noqa: S608
        return self._each(f"SELECT {columns} FROM ({read}) AS key WHERE {where}")  # noqa: S608

    def _where(self, *, few: bool, users: str | None = None) -> str:
        """Return the conditions by which no index is read, each with AND before it.

        Args:
            few: Whether few keys are read, so that each is better compared with others by itself.
            users: A query of the users whose keys are read, if they are few.
        """
        conditions = list(self._conditions.others)
        if self._rules is not None:
            if self._users is not None and PolicyRule.MAX_ACTIVE_KEYS_PER_USER in self._rules:
                users = f"SELECT unnest({self.parameter(list(self._users))}::text[])"
            conditions.append(key_violations.breaks_one_of(self._rules, users=users, few=few))
        return "".join(f" AND {each}" for each in conditions)

    def _each(self, query: str) -> str:
        """Return a query for each value of the lookup; `{0}` in it stands for the conditions by which an index is read.

        An index has the keys of each value in order, but not those of several values.
        """
        lookup, where = self._lookup, " AND ".join(self._conditions.ranges)
        if lookup is None:
            return query.replace("{0}", where)
        if len(lookup.values) == 1:
            found = f"{lookup.column} = {self.parameter(lookup.values[0])}::{lookup.type}"
            return query.replace("{0}", f"{where} AND {found}")
        found = query.replace("{0}", f"{where} AND {lookup.column} = wanted.value")
        return f"""
            SELECT found.*, wanted.value FROM unnest({self.parameter(lookup.values)}::{lookup.type}[]) AS wanted (value)
            CROSS JOIN LATERAL ({found}) AS found
        """  # noqa: S608


async def search_for(
    connection: Connection,
    key_filter: KeyFilter,
    *,
    workspace_deleted: bool,
    order: KeyOrder | None = None,
    most: int | None = None,
) -> KeySearch:
    """Return how the keys that match a filter are found, after reading what has to be known for it.

    Args:
        connection: Where they are looked for.
        key_filter: The filter.
        workspace_deleted: Whether the workspace of the filter was deleted.
        order: The order; None if it does not matter.
        most: How many keys may be read to sort them. If more have the terms, keys are read in the order instead. None
            for any number.
    """
    family = None
    if key_filter.family_id is not None:
        family = await key_families.members(connection, [KeyId(UUID(key_filter.family_id))])
    terms = await terms_of(connection, key_filter)
    rules = await key_violations.rules_in_force(connection, key_filter)
    in_order = False
    if terms and most is not None and family is None and key_filter.hint is None:
        await connection.execute(_BY_INDEX)
        in_order = await have_more(connection, terms, most)
    return KeySearch(
        key_filter,
        workspace_deleted=workspace_deleted,
        terms=terms,
        family=family,
        rules=rules,
        order=order,
        by_terms=not in_order,
    )


def _possible_states(*, workspace_deleted: bool) -> frozenset[KeyState]:
    if workspace_deleted:
        return frozenset({KeyState.REVOKED, KeyState.WORKSPACE_GONE})
    return frozenset(KeyState) - {KeyState.WORKSPACE_GONE}
