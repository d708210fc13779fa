"""The reader: it keeps the lease of this process, and its memory in step with the database."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NoReturn, Protocol
from uuid import UUID, uuid4

from skilder_keys.app.fence.new_server import NewServer
from skilder_keys.app.fence.upkeep import Upkeep, compare
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import fence

if TYPE_CHECKING:
    from collections.abc import Collection

    from structlog.typing import FilteringBoundLogger

    from skilder_keys.app.fence.lease import Clock, Lease
    from skilder_keys.domain.ids import KeyId, WorkspaceId
    from skilder_keys.storage.database import Connection, Database

Mode = Literal["cached", "direct", "unavailable"]

_BEATS = 4  # heartbeats in a lease
_GUARD = 0.05  # of a lease, taken off for clocks that do not run at quite the same rate


class Memory(Protocol):
    """What a reader keeps in step with the database."""

    def drop(self, key_ids: Collection[KeyId], workspace_ids: Collection[WorkspaceId]) -> None:
        """Drop keys, and every key of some workspaces, and let no load that is under way keep one of them."""

    def drop_all(self) -> None:
        """Forgets everything, and lets no load that is under way keep anything."""


class Reader:
    """Keeps the lease of this process, and its memory in step with the database.

    Attributes:
        known: The latest epoch it has heard of.
        new_server: Counts from when this process first saw the server; the writer's, too.
    """

    def __init__(
        self,
        database: Database,
        memory: Memory,
        lease: Lease,
        log: FilteringBoundLogger,
        clock: Clock,
        lease_seconds: float,
        *,
        call_timeout: float | None = None,
    ) -> None:
        """Take what it keeps in step, its lease, and the seconds that a call of this process may take."""
        self._database = database
        self._memory = memory
        self._lease = lease
        self._log = log
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._settings = fence.Settings(lease_seconds, call_timeout)
        self.new_server = NewServer(clock, lease_seconds)
        self._id: UUID | None = None
        self._left_behind: UUID | None = None
        self._registered = False
        self._hinted = asyncio.Event()
        self._upkeep = Upkeep(database, log)
        lease.on_doubt = self._hinted.set
        self._reachable = True
        self._others: list[fence.Settings] = []
        self.known = 0

    @property
    def mode(self) -> Mode:
        """How this process answers now: from memory, from the database, or not at all."""
        if self._lease.valid():
            return "cached"
        return "direct" if self._reachable else "unavailable"

    async def run(self) -> None:
        """Keeps the lease until it is cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_lease())
            group.create_task(self._upkeep.run())

    async def close(self) -> None:
        """Gives the lease up, so that no writer waits for a process that has ended."""
        self._lease.end()
        self._memory.drop_all()
        rows = [each for each in (self._id, self._left_behind) if each is not None]
        if rows:
            with suppress(UnavailableError):
                async with self._database.connection() as connection:
                    await fence.deregister(connection, rows)

    async def _keep_lease(self) -> NoReturn:
        while True:
            try:
                await self._follow()
            except UnavailableError as error:
                if self._reachable:
                    self._log.warning("fence lost", error=repr(error.__cause__))
                self._reachable = False
            except Exception as error:  # noqa: BLE001 - an error that ended this loop would end answers from memory unseen
                self._log.error("fence", exc_info=error)
            await asyncio.sleep(self._lease_seconds / 10)

    async def _follow(self) -> None:
        """Keep the lease on one connection; return where another one is needed."""
        # Half a lease for a statement: a connection that hangs is given up while there is time to open another.
        async with self._database.dedicated("skilder-keys fence", self._lease_seconds / 2) as connection:
            await fence.listen(connection, self._hinted.set)
            # On each new connection: the database may be another by now, and a heartbeat that was sent on the one
            # before may still be executed.
            await self._register(connection)
            while not self._lease.doubted:
                hinted = self._hinted.is_set()
                self._hinted.clear()
                if hinted:
                    await self._apply(connection)  # the heartbeat sees whether that was all
                await self._beat(connection)
                if not self._reachable:
                    self._reachable = True
                    self._log.info("fence regained")
                try:
                    async with asyncio.timeout(self._lease_seconds / _BEATS):
                        await self._hinted.wait()
                except TimeoutError:
                    pass

    async def _register(self, connection: Connection) -> None:
        """Start anew, with an empty memory and without a lease, which the first heartbeat brings.

        No load is kept that began before this is committed.
        """
        self._lease.end()
        self._memory.drop_all()
        if self._registered:
            self._id, self._left_behind, self._registered = None, self._id, False
        self._id = self._id or uuid4()
        # Before the registration, which waits where a standby is away: calls that are answered by Postgres alone are
        # compared with this state, and a database that was restored has gone back.
        await self._start_from(await fence.state(connection))
        state, others = await fence.register(connection, self._id, self._settings, instead_of=self._left_behind)
        self._registered, self._left_behind = True, None
        await self._start_from(state)
        if others != self._others:
            self._others = others
            compare(self._log, self._settings, others)

    async def _start_from(self, state: fence.FenceState) -> None:
        lease = self._lease
        if lease.server not in ("", state.server):
            self._log.warning("the database was restarted, restored or failed over: memory is dropped")
            # Connections of the pool may still lead to the server of before.
            await self._database.expire()
        lease.revision, lease.server, lease.doubted = state.revision, state.server, False
        self.known = state.revision.epoch
        self.new_server.seconds_left(state)  # counted from now on

    async def _beat(self, connection: Connection) -> None:
        """Renews the lease from the moment of asking, once memory is in step with the answer."""
        while True:
            if self._id is None:
                raise LookupError("a reader registers before its first heartbeat")
            sent = self._clock()
            state = await fence.heartbeat(connection, self._id, self._lease.revision)
            if state is not None and state.server == self._lease.server:
                self.known = state.revision.epoch
                if state.revision == self._lease.revision:
                    self._lease.renew(sent, sent + self._lease_seconds * (1 - _GUARD))
                    if not state.vouched and not self.new_server.seconds_left(state):
                        self._upkeep.vouch_for(state.server)
                    return
                if self.known - self._lease.epoch <= fence.KEPT_CHANGES and await self._apply(connection):
                    continue
            # The reader was evicted, or is too far behind, or the database has another history than the reader.
            await self._register(connection)

    async def _apply(self, connection: Connection) -> bool:
        """Bring memory in step with the next changes; return False where there are none, or other ones."""
        revision = self._lease.revision
        changes = await fence.changes_since(connection, revision.epoch)
        if (
            not changes
            or changes[0].previous_tag != revision.tag
            or changes[-1].revision.epoch - revision.epoch != len(changes)
        ):
            return False
        self._memory.drop(
            {change.key_id for change in changes if change.key_id is not None},
            {change.workspace_id for change in changes if change.workspace_id is not None},
        )
        self._lease.revision = changes[-1].revision
        self.known = max(self.known, self._lease.epoch)
        return True
