"""The writer: it makes each change wait until no process can use the state before it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import fence

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder_keys.app.fence.lease import Clock
    from skilder_keys.app.fence.new_server import NewServer
    from skilder_keys.storage.database import Connection, Database

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.005
_MOST_WAITS = 8
"""How many waits go on at once. Changes that come later join one that begins when another has ended."""


class _Wait:
    """The wait that changes share which are committed before the same look.

    Attributes:
        started: When the first of them began to wait.
        done: Done when no process can use a state from before them.
        state: The state of the database after them; None before the look.
        committed: A time after their commits.
        unknown_until: When no reader without a row can hold a lease any more.
    """

    __slots__ = ("committed", "done", "started", "state", "unknown_until")

    def __init__(self, started: float) -> None:
        self.started = self.committed = self.unknown_until = started
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.state: fence.FenceState | None = None


class Writer:
    """Waits for readers after a change."""

    def __init__(
        self, database: Database, clock: Clock, observe: Callable[[float], object], new_server: NewServer
    ) -> None:
        """Make a writer.

        Args:
            database: The database.
            clock: Returns the seconds of CLOCK_BOOTTIME.
            observe: Called with the seconds of each wait.
            new_server: That of the reader.
        """
        self._database = database
        self._clock = clock
        self._observe = observe
        self._new_server = new_server
        self._waits: list[_Wait] = []
        self._next: _Wait | None = None  # begins with the next look
        self._looking: asyncio.Task[None] | None = None

    async def settle(self) -> None:
        """Wait until no process can use a state from before a change that was committed before this call.

        Call it after the commit, even if a retry had nothing to change: the first attempt may have committed the change
        without waiting for the readers. The wait goes on if the caller is cancelled, so that a reader that has died is
        evicted even if no caller waits long enough.

        Raises:
            UnavailableError: The database does not respond. The change is committed, but processes may still use the
                old state.
        """
        self._next = wait = self._next or _Wait(self._clock())
        self._looking = self._looking or asyncio.create_task(self._run())
        await asyncio.shield(wait.done)

    async def _run(self) -> None:
        """Look again and again, for all changes at once, until none waits."""
        pause = _FIRST_PAUSE
        try:
            while True:
                await self._look()
                if not self._waits and self._next is None:
                    break
                await asyncio.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
        except Exception as error:  # noqa: BLE001 - `settle` raises it
            self._fail(error)
        except asyncio.CancelledError:
            self._fail(UnavailableError("The server stops."))
            raise
        finally:
            self._looking = None

    async def _look(self) -> None:
        """Look once which readers lag, evict those whose lease has ended, and end the waits that nobody holds up."""
        async with self._database.connection() as connection:
            if self._next is not None and len(self._waits) < _MOST_WAITS:
                self._waits.append(self._next)
                self._next = None
            look = await fence.look(connection, [wait.state.revision for wait in self._waits if wait.state is not None])
            # The time is taken after the query, because the state may belong to a later change that was committed
            # while this waited for a connection.
            now = self._clock()
            ended = [wait for wait in self._waits if await self._has_ended(wait, look, now, connection)]
        if ended and not look.state.vouched:
            with suppress(UnavailableError):  # then the next change waits again
                async with self._database.connection() as connection:
                    await fence.vouch(connection, look.state.server)
        self._waits = [wait for wait in self._waits if wait not in ended]
        for wait in ended:
            if not wait.done.done():
                self._observe(now - wait.started)
                wait.done.set_result(None)

    async def _has_ended(self, wait: _Wait, look: fence.Look, now: float, connection: Connection) -> bool:
        """Return whether a wait has ended: well, or because the database may have lost the change."""
        if wait.state is None:
            wait.state, wait.committed = look.state, now
            wait.unknown_until = now + self._new_server.seconds_left(look.state)
        elif wait.state.server != look.state.server or not look.known:
            _set_error(
                wait,
                UnavailableError(
                    "The database was restarted, restored or failed over, and the change may be lost: try again."
                ),
            )
            return True
        epoch = wait.state.revision.epoch
        laggards = [reader for reader in look.laggards if reader.epoch < epoch]
        # A reader that has not applied the change renewed its lease before the commit, so the lease has ended when its
        # length has passed since then.
        expired = [reader.id for reader in laggards if reader.lease_seconds <= now - wait.committed]
        if expired:
            await fence.evict(connection, expired, epoch)
        return len(expired) == len(laggards) and now >= wait.unknown_until

    def _fail(self, error: Exception) -> None:
        waits, self._waits = self._waits, []
        if self._next is not None:
            waits.append(self._next)
            self._next = None
        for wait in waits:
            _set_error(wait, error)


def _set_error(wait: _Wait, error: Exception) -> None:
    if not wait.done.done():
        wait.done.set_exception(error)
        wait.done.exception()  # marks it as retrieved, in case no caller waits for it any more
