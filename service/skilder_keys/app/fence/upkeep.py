"""What the fence needs now and then, and what nothing waits for: on connections of the pool, off the lease's own."""

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
    """Removes old changes, and vouches for a server once its unknown readers were waited out."""

    def __init__(self, database: Database, log: FilteringBoundLogger) -> None:
        self._database = database
        self._log = log
        self._server = ""
        self._asked = asyncio.Event()

    def vouch_for(self, server: str) -> None:
        """Have it recorded soon that no reader of this server holds a lease without a row."""
        self._server = server
        self._asked.set()

    async def run(self) -> NoReturn:
        """Do so until it is cancelled. What fails is done the next time."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PRUNE_SECONDS):
                    await self._asked.wait()
            try:
                if self._asked.is_set():
                    self._asked.clear()
                    async with self._database.connection() as connection:
                        await fence.vouch(connection, self._server)
                else:
                    await self._prune()
            except UnavailableError as error:
                self._log.warning("upkeep of the fence failed, and is tried again", error=repr(error.__cause__))
            except Exception as error:  # noqa: BLE001 - an error that ended this loop would end it unseen
                self._log.error("upkeep of the fence", exc_info=error)

    async def _prune(self) -> None:
        more = True
        while more:
            async with self._database.connection() as connection:
                more = await fence.prune(connection)


def compare(log: FilteringBoundLogger, mine: fence.Settings, others: Sequence[fence.Settings]) -> None:
    """Log where the processes of a fleet have leases and call timeouts that do not go together.

    A change waits for a reader that died for as long as that reader's lease, so every call must be allowed to take
    longer than every lease. That is no matter of safety, so each reader holds its lease all the same.
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
