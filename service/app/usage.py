"""When keys were last used, written in batches."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from uuid import UUID

from service.domain.errors import UnavailableError
from service.domain.ids import KeyId
from service.storage import keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from service.storage.database import Database

MAX_PENDING = 100_000
_CLOSE_SECONDS = 5.0


class Usage:
    """Remembers the last use of each key and writes them all every few seconds, in one statement.

    The first use of a key is not left to it: Authorize writes that one at once, see `keys.claim_first_use`.
    """

    def __init__(
        self, database: Database, log: FilteringBoundLogger, now: Callable[[], float], interval: float
    ) -> None:
        """Takes the wall clock, in seconds since 1970, and the seconds between two writes."""
        self._database = database
        self._log = log
        self._now = now
        self._interval = interval
        self._pending: dict[int, float] = {}  # by the number that an id is: a UUID hashes itself in Python

    def note(self, key_id: KeyId) -> None:
        """Notes that a key is used now."""
        # In a long outage the newest keys go unnoted rather than the memory without bound.
        number = key_id.int
        if len(self._pending) < MAX_PENDING or number in self._pending:
            self._pending[number] = self._now()

    async def flush(self) -> None:
        """Writes what is pending; keeps it for the next time where the database does not answer."""
        pending, self._pending = self._pending, {}
        if not pending:
            return
        try:
            uses = {KeyId(UUID(int=number)): datetime.fromtimestamp(at, UTC) for number, at in pending.items()}
            async with self._database.connection() as connection:
                await keys.note_uses(connection, uses)
        except BaseException as error:
            self._pending = pending | self._pending
            if not isinstance(error, UnavailableError):
                raise
            self._log.warning("last uses not written yet", keys=len(self._pending))

    async def close(self) -> None:
        """Writes what is pending for the last time, if the database answers within five seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.flush()

    async def run(self) -> None:
        """Writes every few seconds until it is cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - one that ended this loop would end it unseen
                self._log.error("last uses not written", exc_info=error)
