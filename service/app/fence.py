"""The fence: why an answer from memory is never older than a change whose maker was told that it is made.

Every process that answers from memory is a reader: a row in the database with the epoch it has applied. It may answer
while it holds a lease, which it renews by asking for the current epoch and applying what changed since. Whoever changes
something waits, after the commit, until every reader has applied it or can hold no lease any more. So readers wait for
nothing, and the rare writer waits for a few milliseconds, or for one lease after a process died or froze.

A reader knows the state it has applied by its epoch and its tag, and the server that answers by its name. Where the
database does not know that state, or another server answers, it was restored or failed over, and may lack changes that
the reader has applied: then the reader drops everything and registers anew.

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
from service.app.fence_upkeep import Upkeep, compare
from service.app.new_server import NewServer
from service.domain.errors import UnavailableError
from service.domain.revision import Revision
from service.storage import fence

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from structlog.typing import FilteringBoundLogger

    from service.domain.ids import KeyId, WorkspaceId
    from service.storage.database import Connection, Database

    Clock = Callable[[], float]

Mode = Literal["cached", "direct", "unavailable"]

_BEATS = 4  # heartbeats in a lease
_GUARD = 0.05  # of a lease, taken off for clocks that do not run at quite the same rate
_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


class Memory(Protocol):
    """What a reader keeps in step with the database."""

    def drop(self, key_ids: Collection[KeyId], workspace_ids: Collection[WorkspaceId]) -> None:
        """Drop keys, and every key of some workspaces, and let no load that is under way keep one of them."""

    def drop_all(self) -> None:
        """Forgets everything, and lets no load that is under way keep anything."""


class Lease:
    """The time for which this process may answer from memory.

    Attributes:
        revision: The state that memory is in step with.
        server: Names the server that said so; empty before there was any.
        doubted: Whether another server, or an older state, has answered since: then the reader starts anew.
        on_doubt: What to call then.
    """

    __slots__ = ("_clock", "_end", "_start", "doubted", "on_doubt", "revision", "server")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._start = self._end = -math.inf
        self.revision = Revision(0, 0)
        self.server = ""
        self.doubted = False
        self.on_doubt: Callable[[], None] | None = None

    @property
    def epoch(self) -> int:
        """The change up to which memory is in step with the database."""
        return self.revision.epoch

    def valid(self) -> bool:
        """Tells whether it may do so at this moment. Ask again after every await."""
        return self._clock() < self._end

    def age(self) -> float:
        """Answers the seconds since the database was asked for what renewed it last; infinite without a lease."""
        return self._clock() - self._start

    def renew(self, start: float, end: float) -> None:
        """Takes when the database was asked, and when the lease ends. In doubt nothing is renewed."""
        if not self.doubted:
            self._start, self._end = start, end

    def end(self) -> None:
        """Ends it at once."""
        self._start = self._end = -math.inf

    def doubt(self) -> None:
        """End it, and have the reader make a new connection and register anew."""
        self.end()
        self.doubted = True
        if self.on_doubt is not None:
            self.on_doubt()


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
                    await fence.leave(connection, rows)

    async def _keep_lease(self) -> NoReturn:
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
            # The reader was struck off, or is too far behind, or the database has another history than the reader.
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


class Writer:
    """Waits for readers after a change."""

    def __init__(
        self, database: Database, clock: Clock, observe: Callable[[float], object], new_server: NewServer
    ) -> None:
        """Takes what is told how many seconds each wait took."""
        self._database = database
        self._clock = clock
        self._observe = observe
        self._new_server = new_server
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
            state = await fence.state(connection)
            # Not before: it may be the epoch of a later change, which was committed while this waited for a connection.
            committed = self._clock()
            laggards = await fence.laggards(connection, state.revision.epoch)
        unknown_until = committed + self._new_server.seconds_left(state)
        pause = _FIRST_PAUSE
        while laggards or self._clock() < unknown_until:
            ends = [committed + reader.lease_seconds for reader in laggards] or [unknown_until]
            await asyncio.sleep(min(pause, max(0, min(ends) - self._clock())))
            pause = min(2 * pause, _LONGEST_PAUSE)
            # A reader that has not applied the change asked for its lease before the commit: by now it has run out.
            elapsed = self._clock() - committed
            ended = [reader.id for reader in laggards if reader.lease_seconds <= elapsed]
            async with self._database.connection() as connection:
                await self._require_same(connection, state)
                if ended:
                    await fence.strike_off(connection, ended, state.revision.epoch)
                laggards = await fence.laggards(connection, state.revision.epoch)
        if not state.vouched:
            with suppress(UnavailableError):  # the next change waits as well, then
                async with self._database.connection() as connection:
                    await fence.vouch(connection, state.server)
        self._observe(self._clock() - began)
        return {}

    async def _require_same(self, connection: Connection, state: fence.FenceState) -> None:
        """Raise where the database was restored or failed over meanwhile, as it may have lost the change."""
        if (await fence.state(connection)).server != state.server or not await fence.knows(connection, state.revision):
            raise UnavailableError(
                "The database was restarted, restored or failed over: the change may be lost. Try again."
            )
