"""The writer: it makes each change wait until no process can answer by the state before it."""

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
        """Takes what is told how many seconds each wait took."""
        self._database = database
        self._clock = clock
        self._observe = observe
        self._new_server = new_server
        self._waits: Batcher[None, None] = Batcher(self._wait, concurrency=4)

    async def settle(self) -> None:
        """Waits until no process can answer by a state that was changed before this call.

        Call it after the commit, also where a retry found nothing to change any more: that the first try was committed
        does not mean that it was waited for. The wait goes on where its caller is cancelled, so that a reader that has
        died is evicted though nobody has the patience for it.

        Raises:
            UnavailableError: The database does not answer. The change is made; who may still answer by the old state is
                not known.
        """
        await self._waits.get(None)

    async def _wait(self, _items: object) -> dict[None, None]:
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
                    await fence.evict(connection, ended, state.revision.epoch)
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
