"""The reader: it keeps the lease of this process, and applies changes to its memory."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Literal, NoReturn, Protocol, TypeVar
from uuid import UUID, uuid4

from skilder_keys.app.fence.new_server import NewServer
from skilder_keys.app.fence.upkeep import Upkeep, compare
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import fence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import FilteringBoundLogger

    from skilder_keys.app.fence.lease import Clock, Lease
    from skilder_keys.storage.database import Connection, Database

Mode = Literal["cached", "direct", "unavailable"]

_BEATS = 4  # heartbeats in a lease
_GUARD = 0.05  # the part of a lease that is not used, because clocks run at slightly different rates


_Ahead = TypeVar("_Ahead")


class Memory(Protocol[_Ahead]):
    """The memory to which a reader applies changes."""

    async def read_ahead(self, changes: Sequence[fence.Change]) -> Sequence[_Ahead]:
        """Read what changes touch before they are applied, as far as that takes next to no time."""

    def apply(self, change: fence.Change) -> None:
        """Drop what a change touches, and invalidate the loads that could load any of it."""

    def fill(self, aheads: Sequence[_Ahead]) -> None:
        """Fill in what was read ahead, right after the changes were applied."""

    def drop_all(self) -> None:
        """Drop everything, and invalidate all loads."""


class Reader:
    """Keeps the lease of this process, and applies changes to its memory.

    Attributes:
        known: The latest epoch that it has seen.
        new_server: Measures the time since this process first saw the server; the writer uses it too.
    """

    def __init__(
        self,
        database: Database,
        memory: Memory[Any],
        lease: Lease,
        log: FilteringBoundLogger,
        clock: Clock,
        lease_seconds: float,
        *,
        call_timeout: float | None = None,
    ) -> None:
        """Make a reader, without a lease yet.

        Args:
            database: The database.
            memory: The memory to which it applies changes.
            lease: The lease that it renews.
            log: The log.
            clock: Returns the seconds of CLOCK_BOOTTIME.
            lease_seconds: The length of the lease.
            call_timeout: The most seconds for a call in this process; other readers compare it with their leases.
        """
        self._database = database
        self._memory = memory
        self._lease = lease
        self._log = log
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._settings = fence.Settings(lease_seconds, call_timeout)
        self.new_server = NewServer(clock, lease_seconds)
        self._id: UUID | None = None
        self._former_id: UUID | None = None
        self._registered = False
        self._hinted = asyncio.Event()
        self._upkeep = Upkeep(database, log)
        lease.wake = self._hinted.set
        self._reachable = True
        self._others: list[fence.Settings] = []
        self.known = 0

    @property
    def mode(self) -> Mode:
        """Cached if this process may use its memory, direct if it asks the database for each call, or unavailable."""
        if self._lease.valid():
            return "cached"
        return "direct" if self._reachable else "unavailable"

    async def run(self) -> None:
        """Keep the lease, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_lease())
            group.create_task(self._upkeep.run())

    async def close(self) -> None:
        """Give up the lease, so that no writer waits for a process that has ended."""
        self._lease.end()
        self._memory.drop_all()
        reader_ids = [each for each in (self._id, self._former_id) if each is not None]
        if reader_ids:
            with suppress(UnavailableError):
                async with self._database.connection() as connection:
                    await fence.deregister(connection, reader_ids)

    async def _keep_lease(self) -> NoReturn:
        while True:
            try:
                await self._follow()
            except UnavailableError as error:
                if self._reachable:
                    self._log.warning("fence lost", error=repr(error.__cause__))
                self._reachable = False
            except Exception as error:  # noqa: BLE001 - any error would end the lease unnoticed
                self._log.error("fence", exc_info=error)
            await asyncio.sleep(self._lease_seconds / 10)

    async def _follow(self) -> None:
        """Keep the lease on one connection; return if another one is needed."""
        # A statement may take half a lease, so that there is time to replace a connection that hangs.
        async with self._database.dedicated("skilder-keys fence", self._lease_seconds / 2) as connection:
            await fence.listen(connection, self._hinted.set)
            # Every new connection registers again: it may lead to another database, and a heartbeat that was sent on
            # the previous connection may still be executed.
            await self._register(connection)
            while not self._lease.doubted:
                hinted = self._hinted.is_set()
                self._hinted.clear()
                if hinted:
                    await self._apply(connection)  # the heartbeat applies the rest, if there is more
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
        """Register as a new reader, with an empty memory and without a lease. The first heartbeat brings the lease.

        No load that started before the registration was committed is kept.
        """
        self._lease.end()
        self._memory.drop_all()
        if self._registered:
            self._id, self._former_id, self._registered = None, self._id, False
        self._id = self._id or uuid4()
        # Meanwhile, results of queries are compared with this state, and a restored database may have an older one. So
        # it is set before the registration, which may have to wait for a standby.
        await self._start_from(await fence.state(connection))
        state, others = await fence.register(connection, self._id, self._settings, instead_of=self._former_id)
        self._registered, self._former_id = True, None
        await self._start_from(state)
        if others != self._others:
            self._others = others
            compare(self._log, self._settings, others)

    async def _start_from(self, state: fence.FenceState) -> None:
        lease = self._lease
        if lease.server not in ("", state.server):
            self._log.warning("the database was restarted, restored or failed over: memory is dropped")
            # Connections of the pool may still lead to the former server.
            await self._database.expire()
        lease.revision, lease.server, lease.doubted = state.revision, state.server, False
        self.known = state.revision.epoch
        self.new_server.seconds_left(state)  # starts the time of a new server

    async def _beat(self, connection: Connection) -> None:
        """Send heartbeats and apply changes until there are none; then renew the lease from the time of sending."""
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
            # The reader was evicted, or lags too far behind, or the database has another history than the reader.
            await self._register(connection)

    async def _apply(self, connection: Connection) -> bool:
        """Apply the next changes to memory.

        Return False if there are none, if they are not those after our state, or if they touch everything.
        """
        changes = await fence.changes_since(connection, self._lease.epoch)
        aheads = await self._memory.read_ahead(changes)
        revision = self._lease.revision
        for change in changes:
            follows = (change.revision.epoch, change.previous_tag) == (revision.epoch + 1, revision.tag)
            if not follows or fence.EVERYTHING in change.touches:
                return False
            revision = change.revision
        # Nothing may run between the two, or it would see the memory of one state with the revision of another.
        for change in changes:
            self._memory.apply(change)
            self._lease.advance(change.revision)
        self._memory.fill(aheads)
        self.known = max(self.known, self._lease.epoch)
        return bool(changes)
