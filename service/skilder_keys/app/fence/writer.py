"""The writer: it makes each change wait until no process can use the state before it."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from skilder_keys.app.batching import Batcher
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import fence

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder_keys.app.fence.lease import Clock
    from skilder_keys.app.fence.new_server import NewServer
    from skilder_keys.storage.database import Connection, Database

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.05


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
        self._waits: Batcher[None, None] = Batcher(self._wait, concurrency=4)

    async def settle(self) -> None:
        """Wait until no process can use a state from before a change that was committed before this call.

        Call it after the commit, even if a retry had nothing to change: the first attempt may have committed the change
        without waiting for the readers. The wait goes on if the caller is cancelled, so that a reader that has died is
        evicted even if no caller waits long enough.

        Raises:
            UnavailableError: The database does not respond. The change is committed, but processes may still use the
                old state.
        """
        await self._waits.get(None)

    async def _wait(self, _items: object) -> dict[None, None]:
        started = self._clock()
        async with self._database.connection() as connection:
            state = await fence.state(connection)
            # The time is taken after the query, because the epoch may belong to a later change that was committed while
            # this waited for a connection.
            committed = self._clock()
            laggards = await fence.laggards(connection, state.revision.epoch)
        unknown_until = committed + self._new_server.seconds_left(state)
        pause = _FIRST_PAUSE
        while laggards or self._clock() < unknown_until:
            ends = [committed + reader.lease_seconds for reader in laggards] or [unknown_until]
            await asyncio.sleep(min(pause, max(0, min(ends) - self._clock())))
            pause = min(2 * pause, _LONGEST_PAUSE)
            # A reader that has not applied the change renewed its lease before the commit, so the lease has ended when
            # its length has passed since then.
            elapsed = self._clock() - committed
            ended = [reader.id for reader in laggards if reader.lease_seconds <= elapsed]
            async with self._database.connection() as connection:
                await self._require_same(connection, state)
                if ended:
                    await fence.evict(connection, ended, state.revision.epoch)
                laggards = await fence.laggards(connection, state.revision.epoch)
        if not state.vouched:
            with suppress(UnavailableError):  # then the next change waits again
                async with self._database.connection() as connection:
                    await fence.vouch(connection, state.server)
        self._observe(self._clock() - started)
        return {}

    async def _require_same(self, connection: Connection, state: fence.FenceState) -> None:
        """Raise UnavailableError if the database was restored or failed over meanwhile: it may have lost the change."""
        if (await fence.state(connection)).server != state.server or not await fence.knows(connection, state.revision):
            raise UnavailableError(
                "The database was restarted, restored or failed over, and the change may be lost: try again."
            )
