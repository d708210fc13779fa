"""When keys were last used, written in batches.

The record of a key's last use is within a minute of it, which spares the database all writes but one a minute for each
key in use. Times are seconds of CLOCK_BOOTTIME; the database is told how long ago a use was, and puts that on record by
its own clock.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import islice
from typing import TYPE_CHECKING
from uuid import UUID

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.domain.ids import KeyId
from skilder_keys.storage import key_uses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from structlog.typing import FilteringBoundLogger

    from skilder_keys.storage.database import Database

MAX_PENDING = 100_000
CHUNK = 500
"""Keys written in one transaction: as many as take the event loop a few milliseconds."""

_PRECISION = 60.0
_CLOSE_SECONDS = 5.0


class Usage:
    """Remembers the last use of each key and writes those every few seconds that the record is a minute behind of.

    The first use of a key is not left to it: Authorize writes that one at once, see `key_uses.claim_first_uses`.
    """

    def __init__(
        self, database: Database, log: FilteringBoundLogger, clock: Callable[[], float], interval: float
    ) -> None:
        """Take CLOCK_BOOTTIME, and the seconds between two writes."""
        self._database = database
        self._log = log
        self._clock = clock
        self._interval = interval
        # By the number that an id is: a UUID hashes itself in Python.
        self._pending: dict[int, float] = {}
        self._writing: dict[int, float] = {}
        self._turn = asyncio.Lock()
        # Until when the record of a key is recent enough; in two parts, so that what is over is forgotten at no cost.
        self._recent: dict[int, float] = {}
        self._recent_before: dict[int, float] = {}
        self._parted = clock()

    def note(self, key_id: KeyId) -> None:
        """Note that a key is used now."""
        number = key_id.int
        now = self._clock()
        if now < self._recent.get(number, now) or now < self._recent_before.get(number, now):
            return
        # In a long outage the newest keys go unnoted rather than the memory without bound.
        if len(self._pending) + len(self._writing) < MAX_PENDING or number in self._pending or number in self._writing:
            self._pending[number] = now

    def written(self, key_id: KeyId) -> None:
        """Take notice that a use of a key was written just now."""
        self._remember(key_id.int, self._clock())

    async def flush(self) -> None:
        """Write what is pending; keep for the next time what the database does not take now."""
        async with self._turn:
            await self._flush()

    async def _flush(self) -> None:
        self._writing, self._pending = self._pending, {}
        waiting = iter(list(self._writing))
        try:
            while chunk := list(islice(waiting, CHUNK)):
                await self._write(chunk)
        except UnavailableError:
            self._log.warning("last uses not written yet", keys=len(self._writing))
        finally:
            # Of a key that was used again since, the later use counts.
            self._writing.update(self._pending)
            self._pending, self._writing = self._writing, {}

    async def close(self) -> None:
        """Write what is pending for the last time, if the database answers within five seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.flush()

    async def run(self) -> None:
        """Write every few seconds until it is cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - an error that ended this loop would end it unseen
                self._log.error("last uses not written", exc_info=error)

    async def _write(self, numbers: Iterable[int]) -> None:
        """Write some uses; those stay whose row somebody else has locked."""
        key_ids = {number: KeyId(UUID(int=number)) for number in numbers}
        async with self._database.transaction() as transaction:
            now = self._clock()
            ages = {key_id: now - self._writing[number] for number, key_id in key_ids.items()}
            found = await key_uses.note_uses(transaction, ages, _PRECISION)
        for number, key_id in key_ids.items():
            age = found.get(key_id, 0.0)  # an unknown key has nothing to be written to
            if age is not None and age <= ages[key_id] + _PRECISION:
                del self._writing[number]
                self._remember(number, now - max(0.0, age))

    def _remember(self, number: int, recorded_at: float) -> None:
        now = self._clock()
        if now - self._parted >= _PRECISION:
            self._recent, self._recent_before, self._parted = {}, self._recent, now
        if len(self._recent) < MAX_PENDING:
            self._recent[number] = recorded_at + _PRECISION
