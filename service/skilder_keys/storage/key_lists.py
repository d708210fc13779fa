"""Lists and counts of the keys of a workspace, by one filter: tables `key` and `member`."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from skilder_keys.domain.keys import MAX_COUNTED, KeyCount, KeyCounts, KeyFilter, KeyState, state_of
from skilder_keys.domain.token import KeyType
from skilder_keys.storage.keys import KEY_COLUMNS, key_of

if TYPE_CHECKING:
    from skilder_keys.domain.ids import KeyId
    from skilder_keys.domain.keys import Key
    from skilder_keys.storage.database import Connection

# Without these settings, Postgres may plan to read the keys of all workspaces: for a workspace with most of the keys,
# or if there are few workspaces and random reads count as expensive. The memory is for a hash table of all members.
_BY_INDEX = """\
SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL random_page_cost = 1; SET LOCAL enable_seqscan = off;
SET LOCAL work_mem = '16MB'"""

# $1 is the workspace. Its members are read once, into a hash table: to look each user up would take most of the time of
# a count. By the type, since `user_id IS NOT NULL` would let Postgres take the index by user, which has another order.
_MEMBER_REMOVED = """
    (key.type = 'user' AND key.user_id NOT IN (SELECT member.user_id FROM member WHERE member.workspace_id = $1))
"""


_EXPIRED = "coalesce(key.expires_at <= statement_timestamp(), false)"
_SUSPENDED = "(key.suspended_at IS NOT NULL)"
# What a key that is neither revoked nor of a deleted workspace has the first of.
_CONDITIONS = {KeyState.MEMBER_REMOVED: _MEMBER_REMOVED, KeyState.EXPIRED: _EXPIRED, KeyState.SUSPENDED: _SUSPENDED}


class _Search:
    """How the keys that match a filter are found. No value stands in the SQL itself.

    Attributes:
        is_empty: Whether no key can match.
        values: The values of the parameters, from $1 on.
    """

    def __init__(self, key_filter: KeyFilter, *, workspace_deleted: bool) -> None:
        self.values: list[object] = []
        self._conditions: list[str] = []
        self._column, self._choices = _choices(key_filter)
        self.add("key.workspace_id = {}", key_filter.workspace_id)
        if key_filter.unused_since is not None:
            self.add("coalesce(key.last_used_at, key.created_at) < {}", key_filter.unused_since)
        states = key_filter.states
        possible = _possible_states(workspace_deleted=workspace_deleted)
        self.is_empty = self._choices == [] or (states is not None and possible.isdisjoint(states))
        if states is not None and not possible.issubset(states):
            self._conditions.append(_state_condition(possible.intersection(states), chosen=self._choices is not None))

    def add(self, condition: str, value: object) -> None:
        """Add a condition with a value."""
        self._conditions.append(condition.format(self.parameter(value)))

    def parameter(self, value: object) -> str:
        """Add a value and return the name of its parameter."""
        self.values.append(value)
        return f"${len(self.values)}"

    def select(self, columns: str, end: str) -> str:
        """Return a subquery of the keys that match.

        Args:
            columns: What to select from `key`.
            end: How the keys are ordered and limited. Several values of a column are looked up one by one, and each has
                this end.
        """
        where = " AND ".join(self._conditions)
        if self._choices is None:
            return f"SELECT {columns} FROM key WHERE {where} {end}"  # noqa: S608
        if len(self._choices) == 1:
            value = self.parameter(self._choices[0])
            return f"SELECT {columns} FROM key WHERE {where} AND {self._column} = {value} {end}"  # noqa: S608
        # An index has the keys of each value in order, but not those of several values.
        return f"""
            SELECT found.* FROM unnest({self.parameter(self._choices)}::text[]) AS wanted (value) CROSS JOIN LATERAL (
                SELECT {columns} FROM key WHERE {where} AND {self._column} = wanted.value {end}
            ) AS found
        """  # noqa: S608


def _choices(key_filter: KeyFilter) -> tuple[str, list[str] | None]:
    """Return the column by which an index finds the keys, and the values of it that match; None for any value."""
    types, user_ids = key_filter.types, key_filter.user_ids
    if user_ids is not None:
        # Only user keys have a user, so there are no other types to choose from.
        return "key.user_id", list(user_ids) if types is None or KeyType.USER in types else []
    if key_filter.states == (KeyState.MEMBER_REMOVED,):
        types = (KeyType.USER,) if types is None or KeyType.USER in types else ()
    return "key.type", None if types is None else [each.value for each in types]


def _possible_states(*, workspace_deleted: bool) -> frozenset[KeyState]:
    if workspace_deleted:
        return frozenset({KeyState.REVOKED, KeyState.WORKSPACE_GONE})
    return frozenset(KeyState) - {KeyState.WORKSPACE_GONE}


def _state_condition(states: frozenset[KeyState], *, chosen: bool) -> str:
    """Return the rule of `domain.keys.state_of` in SQL, for some of the possible states.

    Args:
        states: The states, at least one, but not all.
        chosen: Whether an index finds the keys by type or user. Then Postgres must not take the one of all keys that
            were not revoked instead, so this condition is written in a way that it does not recognise.
    """
    if states == {KeyState.REVOKED}:
        return "key.revoked_at IS NOT NULL"
    # As a CASE, since Postgres would read all keys of both sides of an OR, and sort them.
    cases = [f"WHEN {condition} THEN {state in states}" for state, condition in _CONDITIONS.items()]
    rest = f"CASE {' '.join(cases)} ELSE {KeyState.ACTIVE in states} END"
    if KeyState.REVOKED in states:
        return f"CASE WHEN key.revoked_at IS NOT NULL THEN true ELSE {rest} END"
    not_revoked = "num_nulls(key.revoked_at) = 1" if chosen else "key.revoked_at IS NULL"
    if states <= {KeyState.WORKSPACE_GONE} or states >= {KeyState.ACTIVE, *_CONDITIONS}:
        return not_revoked
    return f"{not_revoked} AND {rest}"


async def list_page(
    connection: Connection, key_filter: KeyFilter, *, workspace_deleted: bool, before: KeyId | None, limit: int
) -> list[Key]:
    """Return the first `limit` keys that match a filter, newest first, older than `before`. Call it in a snapshot.

    Args:
        connection: The snapshot.
        key_filter: The filter.
        workspace_deleted: Whether the workspace of the filter was deleted.
        before: Where the page before ends; None for the first page.
        limit: The most keys.
    """
    search = _Search(key_filter, workspace_deleted=workspace_deleted)
    if search.is_empty:
        return []
    if before is not None:
        search.add("key.id < {}", before)
    newest = f"ORDER BY id DESC LIMIT {search.parameter(limit)}"
    # First the ids alone, as Postgres chooses an index by the whole cost, and the other columns cost most of it.
    ids = search.select("key.id", newest)
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(
        f"""
        SELECT {KEY_COLUMNS}
        FROM (SELECT id FROM ({ids}) AS found {newest}) AS page
        CROSS JOIN LATERAL (SELECT * FROM key WHERE key.id = page.id LIMIT 1) AS key
        ORDER BY page.id DESC
        """,  # noqa: S608
        *search.values,
    )
    return [key_of(row) for row in rows]


async def count(connection: Connection, key_filter: KeyFilter, *, workspace_deleted: bool) -> KeyCounts:
    """Return how many keys of each type and state match a filter, and stop at MAX_COUNTED. Call it in a snapshot.

    Args:
        connection: The snapshot.
        key_filter: The filter.
        workspace_deleted: Whether the workspace of the filter was deleted.
    """
    search = _Search(key_filter, workspace_deleted=workspace_deleted)
    if search.is_empty:
        return KeyCounts((), partial=False)
    limit = f"LIMIT {MAX_COUNTED}"
    columns = f"""key.type, key.revoked_at IS NOT NULL AS revoked, {_MEMBER_REMOVED} AS member_removed,
                  {_EXPIRED} AS expired, {_SUSPENDED} AS suspended"""
    keys = search.select(columns, limit)
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(
        f"""
        SELECT type, revoked, member_removed, expired, suspended, count(*) AS count
        FROM (SELECT * FROM ({keys}) AS found {limit}) AS counted
        GROUP BY type, revoked, member_removed, expired, suspended
        """,  # noqa: S608
        *search.values,
    )
    counts: Counter[tuple[KeyType, KeyState]] = Counter()
    for row in rows:
        state = state_of(
            revoked=row["revoked"],
            workspace_deleted=workspace_deleted,
            member_removed=row["member_removed"],
            expired=row["expired"],
            suspended=row["suspended"],
        )
        counts[KeyType(row["type"]), state] += row["count"]
    return KeyCounts(
        tuple(KeyCount(type_, state, number) for (type_, state), number in counts.items()),
        partial=counts.total() >= MAX_COUNTED,
    )
