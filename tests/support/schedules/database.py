"""A database in which changes are committed, and whose answers take time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from skilder_keys.domain.revision import Revision
from skilder_keys.storage import credentials, key_uses, snapshots
from skilder_keys.storage.credentials import Credentials
from skilder_keys.storage.fence import Change
from skilder_keys.storage.snapshots import SnapshotRead
from tests.support.schedules.world import CLIENTS, PARTS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    import pytest

    from skilder_keys.domain.ids import KeyId, WorkspaceId
    from skilder_keys.storage.fence import Touch
    from skilder_keys.storage.snapshots import Wanted

SERVER = "server"


class Database:
    """A database. The last item of `worlds` is its state.

    Attributes:
        worlds: The states, by epoch.
        changes: The changes; that of epoch 1 is the first.
        committed: When each epoch began.
        used: The keys whose first use is recorded.
    """

    def __init__(self, clock: Callable[[], float], pause: Callable[[], Awaitable[None]]) -> None:
        """Make a database before all changes.

        Args:
            clock: Returns seconds.
            pause: Waits while a statement is on its way, and again while its answer is.
        """
        self.worlds = [World.first()]
        self.changes: list[Change] = []
        self.committed = [clock()]
        self.used: set[KeyId] = set()
        self._clock = clock
        self._pause = pause
        self._versions = dict.fromkeys(PARTS, 1)

    @property
    def epoch(self) -> int:
        """The epoch."""
        return len(self.worlds) - 1

    @property
    def revision(self) -> Revision:
        """The revision."""
        return Revision(self.epoch, self.epoch)

    def change(self, *touches: Touch) -> None:
        """Commit a transaction."""
        epoch = self.epoch + 1
        self.worlds.append(self.worlds[-1].after(touches, epoch, self._clock()))
        self.changes.append(Change(self.revision, epoch - 1, touches))
        self.committed.append(self._clock())
        for workspace_id in self._versions:
            if any(touch.workspace_id == workspace_id and touch.part is not None for touch in touches):
                self._versions[workspace_id] += 1

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Database]:
        """Lend a connection."""
        await self._pause()
        yield self

    transaction = connection

    async def expire(self) -> None:
        """Replace the connections."""

    async def find_credentials(self, key_ids: Iterable[KeyId]) -> Credentials:
        """Read keys, as in `storage.credentials`."""
        revision, wanted = self.revision, frozenset(key_ids)
        found = {
            client.key_id: self.worlds[-1].credential(
                client, self._versions[client.workspace_id], self._clock(), used=client.key_id in self.used
            )
            for client in CLIENTS
            if client.key_id in wanted
        }
        await self._pause()
        return Credentials(revision, SERVER, found)

    async def read(self, workspace_id: WorkspaceId, wanted: Wanted) -> SnapshotRead:
        """Read parts of a workspace, as in `storage.snapshots`."""
        world, revision, version = self.worlds[-1], self.revision, self._versions[workspace_id]
        rows: Any = tuple(world.rows(workspace_id, wanted))
        await self._pause()
        return SnapshotRead(revision, SERVER, wanted, version, deleted=world.deleted(workspace_id), rows=rows)

    async def claim_first_uses(self, secret_hashes: Iterable[tuple[KeyId, str]]) -> dict[tuple[KeyId, str], bool]:
        """Record first uses, as in `storage.key_uses`."""
        active = {client.key_id for client in CLIENTS if self.worlds[-1].usable(client, self._clock())}
        claimed = {each: True for each in secret_hashes if each[0] in active}
        self.used |= {key_id for key_id, _ in claimed}
        await self._pause()
        return claimed


def connect(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the statements of storage ask the database that lends the connection."""
    for module, name in ((credentials, "find_credentials"), (snapshots, "read"), (key_uses, "claim_first_uses")):
        monkeypatch.setattr(module, name, getattr(Database, name))
