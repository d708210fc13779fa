"""Background work of the fence that nothing waits for. It uses the pool, not the connection of the lease."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import fence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from structlog.typing import FilteringBoundLogger

    from skilder_keys.storage.database import Database

_PRUNE_SECONDS = 60.0


class Upkeep:
    """Removes old changes, and vouches for a server when no unknown reader can hold a lease any more."""

    def __init__(self, database: Database, log: FilteringBoundLogger) -> None:
        self._database = database
        self._log = log
        self._server = ""
        self._requested = asyncio.Event()

    def vouch_for(self, server: str) -> None:
        """Request that the database records soon that every reader with a lease has a row on this server."""
        self._server = server
        self._requested.set()

    async def run(self) -> NoReturn:
        """Do the work, until cancelled. Work that fails is repeated the next time."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PRUNE_SECONDS):
                    await self._requested.wait()
            try:
                if self._requested.is_set():
                    self._requested.clear()
                    async with self._database.connection() as connection:
                        await fence.vouch(connection, self._server)
                else:
                    await self._prune()
            except UnavailableError as error:
                self._log.warning("upkeep of the fence failed, and is tried again", error=repr(error.__cause__))
            except Exception as error:  # noqa: BLE001 - any error would end this loop unnoticed
                self._log.error("upkeep of the fence", exc_info=error)

    async def _prune(self) -> None:
        more = True
        while more:
            async with self._database.transaction() as connection:
                more = await fence.prune(connection)


def compare(log: FilteringBoundLogger, mine: fence.Settings, others: Sequence[fence.Settings]) -> None:
    """Log leases and call timeouts of a fleet's processes that do not fit together.

    A change waits for a reader that died until the reader's lease has ended, so each call timeout must be longer than
    every lease. This does not affect safety, so the readers keep their leases anyway.
    """
    leases = [other.lease for other in others]
    timeouts = [other.call_timeout for other in others if other.call_timeout is not None]
    if mine.call_timeout is not None and leases and max(leases) >= mine.call_timeout:
        log.error(
            "another process has a lease that is not shorter than the call timeout here, so changes made here fail "
            "for a while after that process has died: set the same SKILDER_KEYS_LEASE everywhere, or a longer "
            "SKILDER_KEYS_CALL_TIMEOUT here",
            lease=max(leases),
            call_timeout=mine.call_timeout,
        )
    if timeouts and mine.lease >= min(timeouts):
        log.error(
            "the lease here is not shorter than the call timeout of another process, so changes made there fail for "
            "a while after this process has died: set the same SKILDER_KEYS_LEASE everywhere, or a longer "
            "SKILDER_KEYS_CALL_TIMEOUT there",
            lease=mine.lease,
            call_timeout=min(timeouts),
        )
    if any(lease != mine.lease for lease in leases):
        log.warning(
            "processes of the fleet have different leases, and a change can take as long as the longest of them",
            lease=mine.lease,
            others=sorted(set(leases)),
        )
