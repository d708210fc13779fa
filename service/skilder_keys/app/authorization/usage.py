"""The last uses of keys, written in batches.

The recorded time is at most about a minute before the last use, so the database gets at most one write a minute for
each key. Times are seconds of CLOCK_BOOTTIME. The database gets the age of a use, and records it by its own clock.
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
"""How many keys are written in one transaction: these take a few milliseconds of the event loop."""

_PRECISION = 60.0
_CLOSE_SECONDS = 5.0


class Usage:
    """Collects the last use of each key. Every few seconds it writes those whose recorded time is a minute too old.

    Authorize itself writes the first use of a key, at once: see `key_uses.claim_first_uses`.
    """

    def __init__(
        self, database: Database, log: FilteringBoundLogger, clock: Callable[[], float], interval: float
    ) -> None:
        """Make an empty collection.

        Args:
            database: The database.
            log: The log.
            clock: Returns the seconds of CLOCK_BOOTTIME.
            interval: Seconds between two writes.
        """
        self._database = database
        self._log = log
        self._clock = clock
        self._interval = interval
        # The keys are ids as integers, because the hash of a UUID is computed in Python, which is slow.
        self._pending: dict[int, float] = {}
        self._writing: dict[int, float] = {}
        self._turn = asyncio.Lock()
        # The time until which the recorded use of a key is recent enough. There are two generations, so that the older
        # one, which has expired, can be dropped as a whole.
        self._recent: dict[int, float] = {}
        self._recent_before: dict[int, float] = {}
        self._generation_start = clock()

    def note(self, key_id: KeyId, now: float | None = None) -> None:
        """Note that a key is used now. The caller may have read the clock already."""
        number = key_id.int
        if now is None:
            now = self._clock()
        if now < self._recent.get(number, now) or now < self._recent_before.get(number, now):
            return
        # In a long outage, uses of further keys are not recorded, because memory must stay bounded.
        if len(self._pending) + len(self._writing) < MAX_PENDING or number in self._pending or number in self._writing:
            self._pending[number] = now

    def written(self, key_id: KeyId) -> None:
        """Remember that a use of a key was written just now."""
        self._remember(key_id.int, self._clock())

    def read(self, key_id: KeyId, seconds_ago: float) -> None:
        """Remember when the recorded last use of a key was, which was read just now, if that is recent enough."""
        if 0 <= seconds_ago < _PRECISION:
            self._remember(key_id.int, self._clock() - seconds_ago)

    async def flush(self) -> None:
        """Write the pending uses. Those that cannot be written now stay pending."""
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
            # If a key was used again meanwhile, its later use counts.
            self._writing.update(self._pending)
            self._pending, self._writing = self._writing, {}

    async def close(self) -> None:
        """Write the pending uses a last time, if the database responds within five seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self.flush()

    async def run(self) -> None:
        """Write every `interval` seconds, until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.flush()
            except Exception as error:  # noqa: BLE001 - any error would end this loop unnoticed
                self._log.error("last uses not written", exc_info=error)

    async def _write(self, numbers: Iterable[int]) -> None:
        """Write some uses. Those whose row is locked stay pending."""
        key_ids = {number: KeyId(UUID(int=number)) for number in numbers}
        async with self._database.transaction() as transaction:
            now = self._clock()
            ages = {key_id: now - self._writing[number] for number, key_id in key_ids.items()}
            recorded_ages = await key_uses.note_uses(transaction, ages, _PRECISION)
        for number, key_id in key_ids.items():
            age = recorded_ages.get(key_id, 0.0)  # the use of an unknown key is dropped
            if age is not None and age <= ages[key_id] + _PRECISION:
                del self._writing[number]
                self._remember(number, now - max(0.0, age))

    def _remember(self, number: int, recorded_at: float) -> None:
        now = self._clock()
        if now - self._generation_start >= _PRECISION:
            self._recent, self._recent_before, self._generation_start = {}, self._recent, now
        if len(self._recent) < MAX_PENDING:
            self._recent[number] = recorded_at + _PRECISION
