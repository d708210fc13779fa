"""Which counts of calls match a filter: the numbers that the tables of facts have for its ids, and conditions in SQL.

A fact has numbers for its workspace, key, tool and caller: tables `activity_workspace`, `activity_key`,
`activity_tool`, `activity_caller`. The primary key of each table of facts is its only index. It begins with the minute,
hour or day, and the workspace. So a query looks up each minute, hour or day by itself, and reads no other workspace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

from skilder_keys.domain.activity import OTHER_TOOLS, Span, Verdict
from skilder_keys.domain.ids import KeyId
from skilder_keys.storage import key_families

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from skilder_keys.domain.activity import ActivityFilter
    from skilder_keys.domain.denial import DenialReason
    from skilder_keys.storage.database import Connection

TABLES = {Span.MINUTE: "activity_minute", Span.HOUR: "activity_hour", Span.DAY: "activity_day"}
STALE = {Span.HOUR: 1, Span.DAY: 2}
"""What `activity_stale.step` has for the hours and days whose sums are missing or old."""
MINUTES = {span: span.value // Span.MINUTE.value for span in Span}
NO_TOOL, OTHER = 0, -1

SETTINGS = """\
SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off; SET LOCAL enable_hashjoin = off;
SET LOCAL enable_mergejoin = off; SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL jit = off"""
"""Each minute, hour or day is looked up by the primary key. Without statistics, Postgres might read a whole table."""


class ActivitySearch:
    """The numbers that a fact must have.

    Attributes:
        values: The values of the parameters, from $1 on.
        lookups: How often a minute, hour or day is looked up: once for each key, or once for all.
    """

    def __init__(self, values: Iterable[object] = (), conditions: Iterable[str] = (), keys: str | None = None) -> None:
        """Make a search.

        Args:
            values: The values of the parameters.
            conditions: The conditions on a fact, in SQL.
            keys: The name of the parameter with the keys; None for any key.
        """
        self.values = list(values)
        self.lookups = 1
        self._conditions = list(conditions)
        self._keys = keys

    def add(self, condition: str, value: object) -> None:
        """Add a condition on a fact, with a value."""
        self._conditions.append(condition.format(self.parameter(value)))

    def add_text(self, condition: str) -> None:
        """Add a condition that has its values as parameters."""
        self._conditions.append(condition)

    def parameter(self, value: object) -> str:
        """Add a value and return the name of its parameter."""
        self.values.append(value)
        return f"${len(self.values)}"

    def limit_to_keys(self, keys: list[int]) -> None:
        """Look for the facts of some keys only."""
        self._keys = self.parameter(keys)
        self.lookups = len(keys)

    def facts(self, span: Span, columns: str, order: str, end: str) -> str:
        """Return a query for the facts of the minute, hour or day `place.at`.

        Each of some keys is looked up by itself: Postgres would rather read the facts of all keys, as it does not know
        how many there are.

        Args:
            span: The table.
            columns: What to select, in SQL.
            order: The columns of `columns` by which to order facts; empty for any order.
            end: What follows at the end, such as a limit; for each key, too.
        """
        by_key = "" if self._keys is None else " AND fact.key = chosen.number"
        ending = f"{f'ORDER BY {order}' if order else ''} {end}"
        one = f"""
            SELECT {columns} FROM {TABLES[span]} AS fact
            WHERE fact.at = place.at AND {" AND ".join(self._conditions)}{by_key} {ending}
        """  # noqa: S608 - no value stands in it
        if self._keys is None:
            return one
        return f"""
            SELECT fact.* FROM unnest({self._keys}::integer[]) AS chosen (number)
            CROSS JOIN LATERAL ({one}) AS fact {ending}
        """  # noqa: S608 - the same

    def unfiltered(self) -> tuple[ActivitySearch, str]:
        """Return a search for facts that the index finds at once, and the conditions that are left, in SQL.

        So a limit of the search is one of the facts that are read. Of single keys, few are read that do not match.
        """
        if self._keys is not None:
            return self.copy(), "true"
        workspace, *others = self._conditions
        return ActivitySearch(self.values, [workspace]), " AND ".join(others) or "true"

    def copy(self) -> ActivitySearch:
        """Return a search with the same conditions, to which other values can be added."""
        made = ActivitySearch(self.values, self._conditions, self._keys)
        made.lookups = self.lookups
        return made


async def search_for(
    connection: Connection, activity_filter: ActivityFilter, outcomes: Mapping[DenialReason, int]
) -> ActivitySearch | None:
    """Return how to find the activity that matches a filter; None if nothing can match.

    Args:
        connection: A snapshot.
        activity_filter: The filter, whose times are left to others.
        outcomes: The number by which a denial is counted, by its reason; 0 is a grant.
    """
    workspace = await connection.fetchval(
        "SELECT number FROM activity_workspace WHERE id = $1", activity_filter.workspace_id
    )
    if workspace is None:
        return None
    search = ActivitySearch()
    search.add("fact.workspace = {}::integer", workspace)
    keys = await _keys(connection, activity_filter)
    if keys is not None:
        search.limit_to_keys(keys)
    if activity_filter.tool_id is not None:
        tool = await _tool(connection, activity_filter.tool_id)
        if tool is None:
            return None
        search.add("fact.tool = {}::integer", tool)
    if activity_filter.caller is not None:
        caller = await connection.fetchval("SELECT number FROM activity_caller WHERE name = $1", activity_filter.caller)
        if caller is None:
            return None
        search.add("fact.caller = {}::integer", caller)
    allowed = _outcomes(activity_filter, outcomes)
    if allowed is not None:
        search.add("fact.outcome = ANY({}::smallint[])", allowed)
    return None if [] in (keys, allowed) else search


def _outcomes(activity_filter: ActivityFilter, outcomes: Mapping[DenialReason, int]) -> list[int] | None:
    if activity_filter.verdict is Verdict.GRANTED:
        return [] if activity_filter.denial_reasons is not None else [0]
    if activity_filter.denial_reasons is not None:
        return [outcomes[reason] for reason in activity_filter.denial_reasons]
    return list(outcomes.values()) if activity_filter.verdict is Verdict.DENIED else None


async def _tool(connection: Connection, tool_id: str) -> int | None:
    if tool_id == OTHER_TOOLS:
        return OTHER
    number: int | None = await connection.fetchval("SELECT number FROM activity_tool WHERE id = $1", tool_id)
    return number


async def _keys(connection: Connection, activity_filter: ActivityFilter) -> list[int] | None:
    """Return the numbers of the keys that a filter names; None if it names none, so that any may match."""
    chosen: list[Sequence[KeyId]] = []
    if activity_filter.key_id is not None:
        chosen.append([KeyId(UUID(activity_filter.key_id))])
    if activity_filter.family_id is not None:
        chosen.append(await key_families.members(connection, [KeyId(UUID(activity_filter.family_id))]))
    if activity_filter.user_id is not None:
        rows = await connection.fetch(
            "SELECT id FROM key WHERE workspace_id = $1 AND user_id = $2",
            activity_filter.workspace_id,
            activity_filter.user_id,
        )
        chosen.append([KeyId(row["id"]) for row in rows])
    if not chosen:
        return None
    rows = await connection.fetch(
        "SELECT number FROM activity_key WHERE key_id = ANY($1::uuid[]) ORDER BY number",
        sorted(set(chosen[0]).intersection(*chosen[1:])),
    )
    return [row["number"] for row in rows]
