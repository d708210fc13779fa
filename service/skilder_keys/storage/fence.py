"""The fence: tables `fence`, `change` and `reader`. Triggers write the first two, in the transaction of each change.

docs/fence.md explains the protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from skilder_keys.domain.difference import Part
from skilder_keys.domain.ids import KeyId, WorkspaceId
from skilder_keys.domain.revision import Revision
from skilder_keys.storage.plans import prefer_indexes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from uuid import UUID

    import asyncpg

    from skilder_keys.storage.database import Connection

KEPT_CHANGES = 10_000
"""How many changes the database keeps. A reader that lags behind by more drops everything instead of reading them."""

# Few enough for the event loop to process at once. A change has at most 2,000 touches.
_MAX_TOUCHES = 1_000
_MAX_PRUNED = 1_000

# Identifies the server, the database and the table that respond. A server is identified by the time of its start, which
# differs on a standby that takes over, and after every restore.
SERVER = """
    concat_ws(' ', extract(epoch FROM pg_postmaster_start_time()),
              (SELECT oid FROM pg_database WHERE datname = current_database()), fence.tableoid)
"""
_STATE = f"fence.epoch, fence.tag, {SERVER} AS server, fence.server = {SERVER} AS vouched, fence.longest_lease"

# Whether a revision belongs to the history of this database: it is the current one, or the one before a kept change.
_IS_KNOWN = """
    (fence.epoch = {epoch} AND fence.tag = {tag}
     OR EXISTS (SELECT FROM change WHERE change.epoch = {epoch} + 1 AND change.previous_tag = {tag}))
"""


@dataclass(frozen=True, slots=True)
class Touch:
    """What a change touches: a key, keys or parts of a workspace, or everything.

    Attributes:
        key_id: The key; None for all keys of the workspace, and for parts.
        workspace_id: The workspace; None for a key, and for everything.
        part: The kind of the part; WORKSPACE for all parts; None for keys.
        part_id: The part; None for all of its kind.
    """

    key_id: KeyId | None
    workspace_id: WorkspaceId | None
    part: Part | None
    part_id: str | None


EVERYTHING = Touch(None, None, None, None)
"""What a change touches that is too large to say more."""


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction that changed what keys may do.

    Attributes:
        revision: The state after the change.
        previous_tag: The tag of the state before it.
        touches: All that it touches.
    """

    revision: Revision
    previous_tag: int
    touches: tuple[Touch, ...]


@dataclass(frozen=True, slots=True)
class FenceState:
    """The state of the database, as the fence sees it.

    Attributes:
        revision: The current revision.
        server: Identifies the server, the database and the tables. It changes with every restart and failover.
        vouched: Whether every reader that can hold a lease has a row here. It is false after a restart, a restore or a
            failover, until the longest lease has passed.
        longest_lease: The longest lease that a reader without a row may hold, in seconds.
    """

    revision: Revision
    server: str
    vouched: bool
    longest_lease: float


@dataclass(frozen=True, slots=True)
class Laggard:
    """A reader that has not applied the current epoch yet.

    Attributes:
        id: The reader.
        epoch: The epoch that it has applied.
        lease_seconds: For how many seconds after a change its lease can be valid.
    """

    id: UUID
    epoch: int
    lease_seconds: float


@dataclass(frozen=True, slots=True)
class Look:
    """What a writer sees at one moment.

    Attributes:
        state: The state of the database.
        known: Whether all revisions that were asked about belong to the history of this database, and are at most
            10,000 changes old.
        laggards: The readers that have not applied the current epoch.
    """

    state: FenceState
    known: bool
    laggards: tuple[Laggard, ...]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of a reader's process: its lease, and its limit for a call; both in seconds."""

    lease: float
    call_timeout: float | None


async def listen(connection: Connection, hint: Callable[[], None]) -> None:
    """Call `hint` when something changes and when the connection is lost. A notification can get lost."""
    await connection.add_listener("skilder_keys_change", lambda *_: hint())
    connection.add_termination_listener(lambda *_: hint())


async def state(connection: Connection) -> FenceState:
    """Return the state of the database."""
    row = await connection.fetchrow(
        f"SELECT {_STATE} FROM fence"  # noqa: S608 - the parts are constants
    )
    return _state(row)


async def register(
    connection: Connection, reader_id: UUID, settings: Settings, *, instead_of: UUID | None
) -> tuple[FenceState, list[Settings]]:
    """Add a reader, unless an earlier attempt has added it.

    All attempts of one registration use one id. While an earlier attempt waits for a standby, the next one waits for
    it, until its statement timeout ends it. (No timeout ends the wait for a standby.)

    Args:
        connection: The connection.
        reader_id: The reader. No heartbeat may have been sent for it yet.
        settings: The settings of its process.
        instead_of: The reader that this process was before, which is removed.

    Returns:
        The state from which the reader starts, and the settings of all other readers.
    """
    row = await connection.fetchrow(
        f"""
        WITH started AS (
            SELECT {_STATE} FROM fence
        ), left_behind AS (
            DELETE FROM reader WHERE id = $4
        ), longest AS (
            UPDATE fence SET longest_lease = $2 WHERE longest_lease < $2
        ), added AS (
            INSERT INTO reader (id, epoch, lease_seconds, call_timeout) SELECT $1, epoch, $2, $3 FROM started
            ON CONFLICT (id) DO NOTHING
        )
        SELECT * FROM started
        """,  # noqa: S608 - the parts are constants
        reader_id,
        settings.lease,
        settings.call_timeout,
        instead_of,
    )
    others = await connection.fetch(
        "SELECT DISTINCT lease_seconds, call_timeout FROM reader WHERE id <> $1 ORDER BY lease_seconds LIMIT 100",
        reader_id,
    )
    return _state(row), [Settings(other["lease_seconds"], other["call_timeout"]) for other in others]


async def heartbeat(connection: Connection, reader_id: UUID, applied: Revision) -> FenceState | None:
    """Acknowledge the revision that a reader has applied, and return the state of the database.

    Return None and acknowledge nothing if the reader has no row, or if the revision does not belong to the history of
    this database.
    """
    row = await connection.fetchrow(
        f"""
        UPDATE reader SET epoch = $2 FROM fence
        WHERE reader.id = $1 AND {_IS_KNOWN.format(epoch="$2", tag="$3")}
        RETURNING {_STATE}
        """,  # noqa: S608 - the parts are constants
        reader_id,
        *applied,
    )
    return None if row is None else _state(row)


async def deregister(connection: Connection, reader_ids: Iterable[UUID]) -> None:
    """Remove readers that do not use their memory any more."""
    await connection.execute("DELETE FROM reader WHERE id = ANY($1::uuid[])", list(reader_ids))


async def changes_since(connection: Connection, epoch: int) -> list[Change]:
    """Return the next changes after an epoch, in order: about 1,000 touches, and each change whole."""
    rows = await connection.fetch(
        """
        SELECT epoch, previous_tag, next_tag, key_id, workspace_id, part, part_id FROM change
        WHERE epoch > $1 AND epoch <= (
            SELECT max(epoch) FROM (SELECT epoch FROM change WHERE epoch > $1 ORDER BY epoch LIMIT $2) AS next
        )
        ORDER BY epoch, sequence
        """,
        epoch,
        _MAX_TOUCHES,
    )
    return [
        Change(Revision(*revision), previous_tag, tuple(map(_touch, touches)))
        for (*revision, previous_tag), touches in groupby(rows, itemgetter("epoch", "next_tag", "previous_tag"))
    ]


async def prune(connection: Connection) -> bool:
    """Remove about 1,000 rows of the changes before the last 10,000, and return whether there may be more.

    A change is removed as a whole, so that no reader takes a part of it for the whole. Call it in its own transaction.
    """
    await prefer_indexes(connection)
    # Each bound is looked up first. For a bound that it does not know, Postgres expects a third of the table.
    before = await connection.fetchval("SELECT epoch - $1 FROM fence", KEPT_CHANGES)
    last = await connection.fetchval(
        """
        SELECT max(epoch) FROM (SELECT epoch FROM change WHERE epoch <= $1 ORDER BY epoch, sequence LIMIT $2) AS old
        """,
        before,
        _MAX_PRUNED,
    )
    removed = await connection.fetchval(
        "WITH removed AS (DELETE FROM change WHERE epoch <= $1 RETURNING 1) SELECT count(*) FROM removed", last
    )
    return int(removed) >= _MAX_PRUNED


async def vouch(connection: Connection, server: str) -> None:
    """Record that every reader that can hold a lease has a row here, if the server is still the one given."""
    await connection.execute(
        f"""
        UPDATE fence SET server = $1, longest_lease = (SELECT coalesce(max(lease_seconds), 0) FROM reader)
        WHERE fence.server <> $1 AND {SERVER} = $1
        """,  # noqa: S608 - the parts are constants
        server,
    )


async def look(connection: Connection, revisions: Sequence[Revision]) -> Look:
    """Return what a writer has to know whose changes led to some revisions, by one statement."""
    rows = await connection.fetch(
        f"""
        SELECT {_STATE},
               NOT EXISTS (
                   SELECT FROM unnest($1::bigint[], $2::bigint[]) AS asked (epoch, tag)
                   WHERE NOT {_IS_KNOWN.format(epoch="asked.epoch", tag="asked.tag")}
               ) AS known,
               reader.id, reader.epoch AS applied, reader.lease_seconds
        FROM fence LEFT JOIN reader ON reader.epoch < fence.epoch
        """,  # noqa: S608 - the parts are constants
        [revision.epoch for revision in revisions],
        [revision.tag for revision in revisions],
    )
    state = _state(rows[0] if rows else None)
    laggards = (Laggard(row["id"], row["applied"], row["lease_seconds"]) for row in rows if row["id"] is not None)
    return Look(state, rows[0]["known"], tuple(laggards))


async def evict(connection: Connection, readers: Iterable[UUID], epoch: int) -> None:
    """Remove readers whose lease has expired, except those that have applied the epoch meanwhile."""
    await connection.execute("DELETE FROM reader WHERE id = ANY($1::uuid[]) AND epoch < $2", list(readers), epoch)


def _touch(row: asyncpg.Record) -> Touch:
    return Touch(
        None if row["key_id"] is None else KeyId(row["key_id"]),
        None if row["workspace_id"] is None else WorkspaceId(row["workspace_id"]),
        None if row["part"] is None else Part(row["part"]),
        row["part_id"],
    )


def _state(row: asyncpg.Record | None) -> FenceState:
    if row is None:
        raise LookupError("the table `fence` has no row")
    return FenceState(Revision(row["epoch"], row["tag"]), row["server"], row["vouched"], row["longest_lease"])
