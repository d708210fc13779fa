"""Lists of audit events: table `audit_event`.

A read looks at a bounded number of events, whatever the filter: it returns those that match, and where it ended. So no
call takes long, however rare the events are that it asks for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.domain.audit_events import AuditEvent, caller_of
from skilder_keys.domain.ids import KeyId, UserId, WorkspaceId
from skilder_keys.domain.principal import PrincipalKind

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    import asyncpg

    from skilder_keys.domain.audit_events import EventFilter
    from skilder_keys.storage.database import Connection

SCANNED = 5_000
"""The most events that a read looks at."""
BY_INDEX = """\
SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL random_page_cost = 1; SET LOCAL enable_seqscan = off;
SET LOCAL enable_bitmapscan = off; SET LOCAL enable_sort = off; SET LOCAL jit = off"""
"""Settings of a transaction that reads events. Postgres must not choose by values, of which it knows little."""

_COLUMNS = """\
id, workspace_id, number, at, action, key_id, caller, actor, peer, details::text AS details, salt, private_digest,
hash"""
# One event has at most 240 KiB of details, so this many are read at once.
_CHUNK = 50
_MAX_DETAILS = 2**20
_LAST_ID = 2**63 - 1
_DAYS = 1
"""By how many days the times of events may be in another order than their ids, because a clock was set."""


class Conditions:
    """The conditions of a filter. No value stands in the SQL itself.

    Attributes:
        values: The values of the parameters, from $1 on.
    """

    def __init__(self, *values: object) -> None:
        """Make no condition yet, for a query that has some parameters already."""
        self.values = list(values)
        self._conditions: list[str] = []

    def __str__(self) -> str:
        """Return the conditions as SQL."""
        return " AND ".join(self._conditions) or "true"

    def __bool__(self) -> bool:
        """Return whether there is any."""
        return bool(self._conditions)

    def add(self, condition: str, value: object) -> None:
        """Add a condition with a value."""
        self._conditions.append(condition.format(self.parameter(value)))

    def parameter(self, value: object) -> str:
        """Add a value and return the name of its parameter."""
        self.values.append(value)
        return f"${len(self.values)}"

    def add_filter(self, event_filter: EventFilter, *, without: str = "") -> None:
        """Add the conditions of a filter, but for that on a column by which an index finds the events."""
        by = event_filter.by
        if event_filter.key_id is not None and without != "key_id":
            self.add("key_id = {}::text::uuid", event_filter.key_id)
        if event_filter.user_id is not None and without != _USER:
            self.add(f"{_USER} = {{}}::text", event_filter.user_id)
        if by is not None and by.kind is PrincipalKind.USER and without != "actor":
            self.add("actor = {}::text", by.id)
        if by is not None and by.kind is not PrincipalKind.USER and without != "caller":
            self.add("caller = {}::text AND actor IS NULL", caller_of(by))
        if event_filter.actions is not None:
            self.add("action = ANY({}::text[])", [each.value for each in event_filter.actions])
        if event_filter.after is not None:
            self.add("at >= {}::timestamptz", event_filter.after)
        if event_filter.before is not None:
            self.add("at < {}::timestamptz", event_filter.before)


_USER = "(details ->> 'user_id')"


@dataclass(frozen=True, slots=True)
class _Lookup:
    """The index that finds events in order of id: its column before the id, its condition, and the value."""

    column: str
    condition: str
    type: str
    value: str


def _lookup_of(workspace_id: WorkspaceId, event_filter: EventFilter) -> _Lookup:
    by = event_filter.by
    if event_filter.key_id is not None:
        return _Lookup("key_id", "workspace_id = $1 AND key_id IS NOT NULL", "text::uuid", event_filter.key_id)
    if event_filter.user_id is not None:
        return _Lookup(_USER, f"workspace_id = $1 AND {_USER} IS NOT NULL", "text", event_filter.user_id)
    if by is not None and by.kind is PrincipalKind.USER:
        return _Lookup("actor", "workspace_id = $1 AND actor IS NOT NULL", "text", by.id)
    if by is not None:
        return _Lookup("caller", "workspace_id = $1 AND actor IS NULL", "text", caller_of(by))
    return _Lookup("workspace_id", "true", "text", workspace_id)


async def list_page(
    connection: Connection, workspace_id: WorkspaceId, event_filter: EventFilter, *, before: int | None, limit: int
) -> tuple[list[AuditEvent], int | None]:
    """Return events of a workspace, newest first, and the id after which there may be more. Call it in a snapshot.

    Args:
        connection: The snapshot.
        workspace_id: The workspace.
        event_filter: Which events.
        before: The id after which to begin; None for the newest event.
        limit: The most events.
    """
    await connection.execute(BY_INDEX)
    least, most = 0, _LAST_ID if before is None else before
    if event_filter.after is not None:
        least = await _first_id(connection, workspace_id, event_filter.after, -_DAYS)
    if event_filter.before is not None:
        most = min(most, await _first_id(connection, workspace_id, event_filter.before, _DAYS))
    lookup = _lookup_of(workspace_id, event_filter)
    wanted = Conditions(workspace_id, lookup.value, least, most)
    wanted.add_filter(event_filter, without=lookup.column)
    looked_at = SCANNED if wanted else limit + 1
    # The order and the comparisons have the column of the lookup. So only the one index fits, and it is read from the
    # first event of the page to the last. For the column `workspace_id`, they alone say which workspace: with
    # `workspace_id = $1` beside them, Postgres would begin with the newest event of the workspace.
    rows = await connection.fetch(
        f"""
        WITH scanned AS MATERIALIZED (
            SELECT id, (workspace_id = $1 AND {wanted}) AS matches FROM audit_event
            WHERE {lookup.condition}
                  AND ({lookup.column}, id) >= ($2::{lookup.type}, $3::bigint)
                  AND ({lookup.column}, id) < ($2::{lookup.type}, $4::bigint)
            ORDER BY {lookup.column} DESC, id DESC LIMIT {looked_at}
        )
        SELECT id, matches, (SELECT count(*) FROM scanned) AS count FROM scanned
        WHERE matches OR id = (SELECT min(id) FROM scanned)
        """,  # noqa: S608 - constants
        *wanted.values,
    )
    found = sorted((row["id"] for row in rows if row["matches"]), reverse=True)
    events = await read(connection, found[:limit])
    if events and (len(events) < len(found)):
        return events, events[-1].id
    more = bool(rows) and rows[0]["count"] == looked_at
    return events, min(row["id"] for row in rows) if more else None


async def read(connection: Connection, ids: Sequence[int]) -> list[AuditEvent]:
    """Return events by their ids, in that order: at least the first, and at most about a mebibyte of details."""
    events: list[AuditEvent] = []
    room = _MAX_DETAILS
    for begin in range(0, len(ids), _CHUNK):
        chunk = ids[begin : begin + _CHUNK]
        rows = await connection.fetch(
            f"SELECT {_COLUMNS} FROM audit_event WHERE id = ANY($1)",  # noqa: S608 - a constant
            chunk,
        )
        by_id = {row["id"]: row for row in rows}
        for each in chunk:
            event = _event(by_id[each])
            room -= len(event.details.encode())
            if events and room < 0:
                return events
            events.append(event)
    return events


async def _first_id(connection: Connection, workspace_id: WorkspaceId, time: datetime, days: int) -> int:
    """Return an id such that the events of a workspace are at or after a time, moved by some days, from this id on.

    It is searched for by halves, so few events are read.
    """
    found: int = await connection.fetchval(
        """
        WITH RECURSIVE search (low, high) AS (
            SELECT 0::bigint, coalesce(max(id), 0) + 1
            FROM (SELECT workspace_id, id FROM audit_event WHERE (workspace_id, id) < ($1, $4::bigint)
                  AND workspace_id >= $1 ORDER BY workspace_id DESC, id DESC LIMIT 1) AS newest
            UNION ALL
            SELECT CASE WHEN is_earlier THEN probe.id + 1 ELSE low END, CASE WHEN is_earlier THEN high ELSE middle END
            FROM search
            CROSS JOIN LATERAL (SELECT (low + high) / 2 AS middle) AS half
            CROSS JOIN LATERAL (
                SELECT id, at < $2::timestamptz + make_interval(days => $3) AS is_earlier FROM audit_event
                WHERE (workspace_id, id) >= ($1, middle) AND workspace_id <= $1
                ORDER BY workspace_id, id LIMIT 1
            ) AS probe
            WHERE low < high
        )
        SELECT max(low) FROM search
        """,
        workspace_id,
        time,
        days,
        _LAST_ID,
    )
    return found


def _event(row: asyncpg.Record) -> AuditEvent:
    return AuditEvent(
        id=row["id"],
        workspace_id=WorkspaceId(row["workspace_id"]),
        number=row["number"],
        at=row["at"],
        action=row["action"],
        key_id=None if row["key_id"] is None else KeyId(row["key_id"]),
        caller=row["caller"],
        actor=None if row["actor"] is None else UserId(row["actor"]),
        peer=row["peer"],
        details=row["details"],
        salt=row["salt"],
        private_digest=row["private_digest"],
        hash=row["hash"],
    )
