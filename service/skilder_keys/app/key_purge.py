"""Purge the keys that ended long ago, if the operator wants that."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import TYPE_CHECKING

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import purged_keys

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from skilder_keys.app.fence.writer import Writer
    from skilder_keys.storage.database import Database

CHUNK = 200
"""About the most keys that are purged in one transaction."""


class KeyPurge:
    """Purges keys from time to time. Of all processes one does so at a time.

    Attributes:
        purged: The number of keys that this process has purged.
        runs: How often this process looked, by outcome: `done`, `failed`, or `elsewhere` if another one was at it.
    """

    def __init__(
        self, database: Database, writer: Writer, log: FilteringBoundLogger, days: int | None, interval: float
    ) -> None:
        """Make the job.

        Args:
            database: The database.
            writer: The writer of the fence.
            log: The log.
            days: How long ago a key must have been revoked or have expired; None for no purge.
            interval: About how many seconds are between two runs of this process.
        """
        self._database = database
        self._writer = writer
        self._log = log
        self._age = None if days is None else timedelta(days=days)
        self._interval = interval
        self.purged = 0
        self.runs = {"done": 0, "elsewhere": 0, "failed": 0}

    async def run(self) -> None:
        """Run again and again, until cancelled; if there is no purge, return."""
        while self._age is not None:
            # So that the workers of a fleet do not all come at the same time.
            await asyncio.sleep(self._interval * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            outcome = "failed"
            try:
                outcome = "done" if await self.purge(self._age) else "elsewhere"
            except UnavailableError as error:
                self._log.warning("keys not purged", error=repr(error.__cause__ or error))
            except Exception as error:  # noqa: BLE001 - any error would end this loop unnoticed
                self._log.error("keys not purged", exc_info=error)
            self.runs[outcome] += 1

    async def purge(self, age: timedelta) -> bool:
        """Purge all keys that were revoked or have expired longer ago than an age.

        Return False if another process is at it.

        Raises:
            UnavailableError: The database does not respond.
        """
        while True:
            heads: list[str] = []
            async with self._database.change(heads) as transaction:
                if not await purged_keys.try_lock(transaction):
                    return False
                purged = await purged_keys.purge(transaction, age, CHUNK)
            if not purged:
                return True
            self.purged += len(purged)
            for head in heads:
                self._log.info("keys purged", keys=len(purged), audit_head=head)
            await self._writer.settle()
