"""The fence: tables `fence`, `change` and `reader`. Triggers write the first two, in the transaction of each change."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.domain.ids import KeyId, WorkspaceId

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from uuid import UUID

    from service.storage.database import Connection

_MAX_CHANGES = 10_000


@dataclass(frozen=True, slots=True)
class Change:
    """What changed at an epoch: a key or, where that is None, a workspace with all its keys."""

    epoch: int
    key_id: KeyId | None
    workspace_id: WorkspaceId | None


@dataclass(frozen=True, slots=True)
class Laggard:
    """A reader that has not applied an epoch yet, and how long after the change its lease can still run."""

    id: UUID
    lease_seconds: float


async def listen(connection: Connection, hint: Callable[[], None]) -> None:
    """Has `hint` called when something changes, which may fail to arrive, and when the connection is lost."""
    await connection.add_listener("skilder_keys_change", lambda *_: hint())
    connection.add_termination_listener(lambda *_: hint())


async def register(connection: Connection, reader_id: UUID, lease_seconds: float) -> int:
    """Adds a reader and answers the epoch it starts from."""
    epoch = await connection.fetchval(
        "INSERT INTO reader (id, epoch, lease_seconds) SELECT $1, epoch, $2 FROM fence RETURNING epoch",
        reader_id,
        lease_seconds,
    )
    return int(epoch)


async def heartbeat(connection: Connection, reader_id: UUID, applied: int) -> int | None:
    """Acknowledges the epoch a reader has applied and answers the current one.

    Answers None, and acknowledges nothing, where the reader is struck off, or has applied what this database knows
    nothing of.
    """
    current: int | None = await connection.fetchval(
        """
        UPDATE reader SET epoch = $2 FROM fence WHERE reader.id = $1 AND fence.epoch >= $2
        RETURNING fence.epoch
        """,
        reader_id,
        applied,
    )
    return current


async def leave(connection: Connection, reader_id: UUID) -> None:
    """Strikes a reader off, which answers nothing from memory any more."""
    await connection.execute("DELETE FROM reader WHERE id = $1", reader_id)


async def changes_since(connection: Connection, epoch: int) -> list[Change]:
    """Answers the changes after an epoch, in order; at most 10,000 at a time."""
    rows = await connection.fetch(
        "SELECT epoch, key_id, workspace_id FROM change WHERE epoch > $1 ORDER BY epoch LIMIT $2", epoch, _MAX_CHANGES
    )
    return [
        Change(
            row["epoch"],
            None if row["key_id"] is None else KeyId(row["key_id"]),
            None if row["workspace_id"] is None else WorkspaceId(row["workspace_id"]),
        )
        for row in rows
    ]


async def prune(connection: Connection) -> None:
    """Removes the changes that every reader has applied."""
    await connection.execute("DELETE FROM change WHERE epoch <= (SELECT min(epoch) FROM reader)")


async def current_epoch(connection: Connection) -> int:
    """Answers the epoch of the last change."""
    return int(await connection.fetchval("SELECT epoch FROM fence"))


async def laggards(connection: Connection, epoch: int) -> list[Laggard]:
    """Answers the readers that have not applied an epoch yet."""
    rows = await connection.fetch("SELECT id, lease_seconds FROM reader WHERE epoch < $1", epoch)
    return [Laggard(row["id"], row["lease_seconds"]) for row in rows]


async def strike_off(connection: Connection, readers: Iterable[UUID], epoch: int) -> None:
    """Strikes readers off whose lease has run out, unless they have applied an epoch after all."""
    await connection.execute("DELETE FROM reader WHERE id = ANY($1::uuid[]) AND epoch < $2", list(readers), epoch)
