"""The fence: why an answer from memory is never older than a change whose maker was told that it is made.

Every process that answers from memory is a reader: a row in the database with the epoch it has applied. It may answer
while it holds a lease, which it renews by asking for the current epoch and applying what changed since. Whoever changes
something waits, after the commit, until every reader has applied it or can hold no lease any more. So readers wait for
nothing, and the rare writer waits for a few milliseconds, or for one lease after a process died or froze.

Times are seconds of CLOCK_BOOTTIME, which goes on while a machine sleeps, and are compared with those of the same
process only. All that must be true of clocks is that they run at about the same rate.
"""

from __future__ import annotations

import asyncio
import math
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, NoReturn, Protocol
from uuid import UUID, uuid4

from service.app.batching import Batches
from service.domain.errors import UnavailableError
from service.storage import fence

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from service.domain.ids import KeyId, WorkspaceId
    from service.storage.database import Connection, Database

    Clock = Callable[[], float]

Mode = Literal["cached", "direct", "unavailable"]

_BEATS = 4  # heartbeats in a lease
_GUARD = 0.05  # of a lease, taken off for clocks that do not run at quite the same rate
_PRUNE_SECONDS = 60.0
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


class Memory(Protocol):
    """What a reader keeps in step with the database."""

    def drop_key(self, key_id: KeyId) -> None:
        """Forgets a key, and lets no load that is under way keep it."""

    def drop_workspace(self, workspace_id: WorkspaceId) -> None:
        """Forgets every key of a workspace, and lets no load that is under way keep one."""

    def drop_all(self) -> None:
        """Forgets everything, and lets no load that is under way keep anything."""


class Lease:
    """The time for which this process may answer from memory.

    Attributes:
        epoch: The change up to which memory is in step with the database.
    """

    __slots__ = ("_clock", "_end", "_start", "epoch")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = self._end = -math.inf
        self.epoch = 0

    def valid(self) -> bool:
        """Tells whether it may do so at this moment. Ask again after every await."""
        return self._clock() < self._end

    def age(self) -> float:
        """Answers the seconds since the database was asked for what renewed it last; infinite without a lease."""
        return self._clock() - self._start

    def renew(self, start: float, end: float) -> None:
        """Takes when the database was asked, and when the lease ends."""
        self._start, self._end = start, end

    def end(self) -> None:
        """Ends it at once."""
        self._start = self._end = -math.inf


class Reader:
    """Keeps the lease of this process, and its memory in step with the database.

    Attributes:
        known: The latest epoch it has heard of.
    """

    def __init__(
        self,
        database: Database,
        memory: Memory,
        lease: Lease,
        log: FilteringBoundLogger,
        clock: Clock,
        lease_seconds: float,
    ) -> None:
        self._database = database
        self._memory = memory
        self._lease = lease
        self._log = log
        self._clock = clock
        self._lease_seconds = lease_seconds
        self._id: UUID | None = None
        self._hinted = asyncio.Event()
        self._reachable = True
        self._pruned = clock()
        self.known = 0

    @property
    def mode(self) -> Mode:
        """How this process answers now: from memory, from the database, or not at all."""
        if self._lease.valid():
            return "cached"
        return "direct" if self._reachable else "unavailable"

    async def run(self) -> NoReturn:
        """Keeps the lease until it is cancelled."""
        while True:
            try:
                await self._follow()
            except UnavailableError as error:
                if self._reachable:
                    self._log.warning("fence lost", error=repr(error.__cause__))
                self._reachable = False
            except Exception as error:  # noqa: BLE001 - one that ended this loop would end answers from memory unseen
                self._log.error("fence", exc_info=error)
            await asyncio.sleep(self._lease_seconds / 10)

    async def close(self) -> None:
        """Gives the lease up, so that no writer waits for a process that has ended."""
        self._lease.end()
        self._memory.drop_all()
        if self._id is not None:
            with suppress(UnavailableError):
                async with self._database.connection() as connection:
                    await fence.leave(connection, self._id)

    async def _follow(self) -> NoReturn:
        # Half a lease for a statement: a connection that hangs is given up while there is time to open another.
        async with self._database.dedicated("skilder-keys fence", self._lease_seconds / 2) as connection:
            await fence.listen(connection, self._hinted.set)
            # On each new connection: the database may be another by now, and a heartbeat that was sent on the one
            # before may still be executed.
            await self._register(connection)
            while True:
                hinted = self._hinted.is_set()
                self._hinted.clear()
                if hinted:
                    await self._apply(connection)  # the heartbeat sees whether that was all
                await self._beat(connection)
                if not self._reachable:
                    self._reachable = True
                    self._log.info("fence regained")
                await self._prune(connection)
                try:
                    async with asyncio.timeout(self._lease_seconds / _BEATS):
                        await self._hinted.wait()
                except TimeoutError:
                    pass

    async def _register(self, connection: Connection) -> None:
        """Starts anew, with an empty memory. No load is kept that began before this is committed."""
        self._lease.end()
        self._memory.drop_all()
        if self._id is not None:
            await fence.leave(connection, self._id)
        reader_id = uuid4()
        sent = self._clock()
        self._lease.epoch = self.known = await fence.register(connection, reader_id, self._lease_seconds)
        self._id = reader_id
        self._renew(sent)

    async def _beat(self, connection: Connection) -> None:
        """Renews the lease from the moment of asking, once memory is in step with the answer."""
        while True:
            if self._id is None:
                raise LookupError("a reader registers before its first heartbeat")
            sent = self._clock()
            current = await fence.heartbeat(connection, self._id, self._lease.epoch)
            if current is None:
                await self._register(connection)
                return
            self.known = current
            if current == self._lease.epoch:
                self._renew(sent)
                return
            if not await self._apply(connection):
                # What it needs to know was removed before its registration could be seen.
                await self._register(connection)
                return

    async def _apply(self, connection: Connection) -> bool:
        """Brings memory in step with the changes there are; answers False where there are none, or some are missing."""
        changes = await fence.changes_since(connection, self._lease.epoch)
        if not changes or changes[-1].epoch - self._lease.epoch != len(changes):
            return False
        for change in changes:
            if change.key_id is not None:
                self._memory.drop_key(change.key_id)
            elif change.workspace_id is not None:
                self._memory.drop_workspace(change.workspace_id)
        self._lease.epoch = changes[-1].epoch
        self.known = max(self.known, self._lease.epoch)
        return True

    def _renew(self, sent: float) -> None:
        self._lease.renew(sent, sent + self._lease_seconds * (1 - _GUARD))

    async def _prune(self, connection: Connection) -> None:
        if self._clock() - self._pruned >= _PRUNE_SECONDS:
            self._pruned = self._clock()
            await fence.prune(connection)


class Writer:
    """Waits for readers after a change."""

    def __init__(self, database: Database, clock: Clock, observe: Callable[[float], object]) -> None:
        """Takes what is told how many seconds each wait took."""
        self._database = database
        self._clock = clock
        self._observe = observe
        self._waits: Batches[None, None] = Batches(self._wait, at_once=4)

    async def settle(self) -> None:
        """Waits until no process can answer by a state that was changed before this call.

        Call it after the commit, also where a retry found nothing to change any more: that the first try was committed
        does not mean that it was waited for. The wait goes on where its caller is cancelled, so that a reader that has
        died is struck off though nobody has the patience for it.

        Raises:
            UnavailableError: The database does not answer. The change is made; who may still answer by the old state is
                not known.
        """
        await self._waits.get(None)

    async def _wait(self, _wishes: object) -> dict[None, None]:
        began = self._clock()
        async with self._database.connection() as connection:
            epoch = await fence.current_epoch(connection)
            # Not before: it may be the epoch of a later change, which was committed while this waited for a connection.
            committed = self._clock()
            laggards = await fence.laggards(connection, epoch)
        pause = _FIRST_PAUSE
        while laggards:
            elapsed = self._clock() - committed
            await asyncio.sleep(min(pause, max(0, min(reader.lease_seconds for reader in laggards) - elapsed)))
            pause = min(2 * pause, _LONGEST_PAUSE)
            # A reader that has not applied the change asked for its lease before the commit: by now it has run out.
            elapsed = self._clock() - committed
            ended = [reader.id for reader in laggards if reader.lease_seconds <= elapsed]
            async with self._database.connection() as connection:
                if ended:
                    await fence.strike_off(connection, ended, epoch)
                laggards = await fence.laggards(connection, epoch)
        self._observe(self._clock() - began)
        return {}
