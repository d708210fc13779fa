"""Audit events in the order in which they were committed: tables `audit_event` and `audit_head`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.domain.audit_events import AuditAction
from skilder_keys.domain.event_positions import NumberPosition, Snapshot, SnapshotPosition, shortened
from skilder_keys.storage import audit_events
from skilder_keys.storage.audit_events import BY_INDEX, SCANNED, Conditions

if TYPE_CHECKING:
    from skilder_keys.domain.audit_events import AuditEvent, EventFilter
    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.storage.database import Connection

MOST = 100
"""The most events that one read returns."""

# The events that a position has not seen, of any workspace.
_UNSEEN = """\
NOT pg_visible_in_snapshot(transaction, $1::text::pg_snapshot)
AND (transaction < $2::bigint::text::xid8 OR id > $3::bigint)"""
# What an index reads for it.
_LATE = "transaction IS NOT NULL AND transaction >= pg_snapshot_xmin($1::text::pg_snapshot)"

# No unseen event has a lower id: it came after those that were visible, or its transaction had begun before. There are
# few of these, though very many events may be unseen. Not plain `id`: Postgres would look for the lowest one from the
# beginning of the table.
_FIRST = f"""
    SELECT least((SELECT min(id + 0) FROM audit_event
                  WHERE {_LATE} AND transaction < $2::bigint::text::xid8
                        AND NOT pg_visible_in_snapshot(transaction, $1::text::pg_snapshot)),
                 (SELECT id FROM audit_event WHERE id > $3::bigint ORDER BY id LIMIT 1))
"""  # noqa: S608 - constants
COUNTED = 200_000
"""How many unseen events are counted when a reader goes on. If there are more, they add up when all were read."""


@dataclass(frozen=True, slots=True)
class Head:
    """The last event of a workspace, and the last that was pruned, by their numbers; 0 if there is none."""

    number: int
    hash: str
    pruned: int


async def head_of(connection: Connection, workspace_id: WorkspaceId) -> Head:
    """Return the head of a workspace."""
    row = await connection.fetchrow(
        "SELECT number, hash, pruned_number FROM audit_head WHERE workspace_id = $1", workspace_id
    )
    return Head(0, "", 0) if row is None else Head(row["number"], shortened(row["hash"]), row["pruned_number"])


async def hash_of(connection: Connection, workspace_id: WorkspaceId, number: int) -> str | None:
    """Return the beginning of the hash of an event; None if there is no such event."""
    found = await connection.fetchval(
        "SELECT hash FROM audit_event WHERE workspace_id = $1 AND number = $2 AND number IS NOT NULL",
        workspace_id,
        number,
    )
    return None if found is None else shortened(found)


async def has_after(connection: Connection, workspace_id: WorkspaceId, position: NumberPosition) -> bool:
    """Return whether a workspace has events after a position."""
    found = "SELECT number > $2 FROM audit_head WHERE workspace_id = $1"
    return bool(await connection.fetchval(found, workspace_id, position.number))


async def read_after(
    connection: Connection, workspace_id: WorkspaceId, event_filter: EventFilter, position: NumberPosition
) -> tuple[list[AuditEvent], NumberPosition, bool]:
    """Return the next events of a workspace, in order, the position after them, and whether there may be more now.

    Call it in a snapshot.
    """
    await connection.execute(BY_INDEX)
    wanted = Conditions(workspace_id, position.number)
    wanted.add_filter(event_filter)
    rows = await connection.fetch(
        f"""
        SELECT id, number, hash, ({wanted}) AS matches FROM audit_event
        WHERE workspace_id = $1 AND number > $2 AND number IS NOT NULL
        ORDER BY number LIMIT {SCANNED if wanted else MOST}
        """,  # noqa: S608 - constants
        *wanted.values,
    )
    events, last = await _read(connection, [(row["id"], row["matches"]) for row in rows])
    if last:
        position = NumberPosition(rows[last - 1]["number"], shortened(rows[last - 1]["hash"]))
    return events, position, last < len(rows) or len(rows) == (SCANNED if wanted else MOST)


async def now(connection: Connection) -> SnapshotPosition:
    """Return the position after all events of all workspaces. Call it in a snapshot."""
    return SnapshotPosition(await _snapshot(connection), await count(connection))


async def count(connection: Connection) -> int:
    """Return how many events all workspaces have had."""
    return int(await connection.fetchval("SELECT coalesce(sum(number), 0)::bigint FROM audit_head"))


async def has_unseen(connection: Connection, position: SnapshotPosition) -> bool:
    """Return whether there are events of any workspace after a position, all of whose snapshot was read."""
    # In the order of the index, so that Postgres reads it and nothing else.
    found = f"SELECT id FROM audit_event WHERE {_LATE} AND {_UNSEEN} ORDER BY transaction LIMIT 1"  # noqa: S608
    return await connection.fetchval(found, *_unseen(position)) is not None


async def read_unseen(
    connection: Connection, event_filter: EventFilter, position: SnapshotPosition
) -> tuple[list[AuditEvent], SnapshotPosition, bool]:
    """Return events of all workspaces as `read_after` does: those of each workspace in order."""
    await connection.execute(BY_INDEX)
    current, after = position.now, position.id
    if current is None:
        current = await _snapshot(connection)
        after = (await connection.fetchval(_FIRST, *_unseen(position)) or current.last_id + 1) - 1
    wanted = Conditions(*_unseen(position), after, current.last_id, current.text)
    wanted.add_filter(event_filter)
    most = SCANNED if wanted else MOST
    # An id is given when the transaction commits, so those that were not seen are close together. And the order of ids
    # is that of the numbers of each workspace.
    rows = await connection.fetch(
        f"""
        SELECT id, ({wanted}) AS matches FROM audit_event
        WHERE id > $4::bigint AND id <= $5::bigint AND {_UNSEEN}
              AND pg_visible_in_snapshot(transaction, $6::text::pg_snapshot)
        ORDER BY id LIMIT {most}
        """,  # noqa: S608 - constants
        *wanted.values,
    )
    events, last = await _read(connection, [(row["id"], row["matches"]) for row in rows])
    total = position.count + last
    if last == len(rows) < most:
        return events, SnapshotPosition(current, total), position.now is not None
    expected = await count(connection) if position.now is None else position.expected
    return events, SnapshotPosition(position.seen, total, current, rows[last - 1]["id"], expected), True


async def is_continued(connection: Connection, position: SnapshotPosition) -> bool:
    """Return whether what came after a position adds up with what was read before. Call it in a snapshot.

    If it does not, events were removed, or this is another history, whose transactions have other ids. Of very many
    events, only COUNTED are looked at.
    """
    if not await _has_last(connection, position.now or position.seen):
        return False
    await connection.execute(BY_INDEX)
    left = f"SELECT FROM audit_event WHERE {_LATE} AND {_UNSEEN}"
    values = [*_unseen(position)]
    if position.now is not None:
        left += " AND (id > $4::bigint OR NOT pg_visible_in_snapshot(transaction, $5::text::pg_snapshot))"
        values += [position.id, position.now.text]
    left = f"SELECT count(*) FROM ({left} LIMIT {COUNTED + 1}) AS unseen"  # noqa: S608 - constants
    found, total = int(await connection.fetchval(left, *values)), await count(connection)
    return position.count + found == total or (found > COUNTED and position.count + found < total)


async def _has_last(connection: Connection, snapshot: Snapshot) -> bool:
    """Return whether the last event of a snapshot is there, or was pruned."""
    (row,) = await connection.fetch(
        """
        SELECT (SELECT hash FROM audit_event WHERE id = $1) AS hash,
               EXISTS (SELECT FROM audit_head WHERE pruned_id >= $1) AS pruned
        """,
        snapshot.last_id,
    )
    return bool(row["pruned"] or shortened(row["hash"]) == snapshot.last_hash)


async def pruned_lately(connection: Connection, position: SnapshotPosition) -> bool:
    """Return whether events of a workspace were pruned after a position."""
    found = f"SELECT EXISTS (SELECT FROM audit_event WHERE {_LATE} AND {_UNSEEN} AND action = $4)"  # noqa: S608
    return bool(await connection.fetchval(found, *_unseen(position), AuditAction.AUDIT_PRUNED.value))


async def _snapshot(connection: Connection) -> Snapshot:
    (row,) = await connection.fetch(
        """
        SELECT pg_current_snapshot()::text AS text, pg_current_xact_id()::text::bigint AS next, newest.id, newest.hash
        FROM (VALUES (1)) AS one
        LEFT JOIN LATERAL (SELECT id, hash FROM audit_event ORDER BY id DESC LIMIT 1) AS newest ON true
        """
    )
    return Snapshot(row["text"], row["id"] or 0, row["next"], shortened(row["hash"]))


def _unseen(position: SnapshotPosition) -> tuple[object, ...]:
    """Return the values of the parameters of `_UNSEEN`."""
    return position.seen.text, position.seen.next_transaction, position.seen.last_id


async def _read(connection: Connection, scanned: list[tuple[int, bool]]) -> tuple[list[AuditEvent], int]:
    """Return the first of some events that match, and how many of them were dealt with."""
    ids = [id_ for id_, matches in scanned if matches]
    events = await audit_events.read(connection, ids[:MOST])
    if len(events) == len(ids):
        return events, len(scanned)
    return events, [id_ for id_, _ in scanned].index(events[-1].id) + 1
