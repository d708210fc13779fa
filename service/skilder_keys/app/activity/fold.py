"""Fold the journal of activity into facts, roll these up, and remove what is old. One process does so at a time."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, NoReturn

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import activity_fold, activity_lag, activity_partitions, activity_rollup
from skilder_keys.storage.activity_lag import Backlog

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from skilder_keys.storage.activity_partitions import Retention
    from skilder_keys.storage.database import Database

MAX_ROWS = 100
"""The most rows of the journal that are folded in one transaction: at most 100,000 cells."""

_LONG_SECONDS = 1.0
"""A transaction that takes longer is followed by one of half as many rows: Postgres ends long statements."""
_SHORT_SECONDS = 0.5
"""A transaction that takes less is followed by one of twice as many rows: a fact of both is changed once."""
_LOOKS = 5
"""How often each process looks at the journal in an interval."""
_DROP_SECONDS = 600.0
_PART_SECONDS = 120.0
_LATE_ROWS = MAX_ROWS
"""So many rows are folded at once, however young they are: to wait for more would save nothing."""


class ActivityFold:
    """Folds the journal, from time to time.

    Attributes:
        backlog: What was in the journal when this process looked last.
        calls: How many calls this process has folded.
        dropped: How many of these came too late, or were about a key that does not exist any more.
        runs: How often this process looked, by outcome: `done`, `failed`, or `elsewhere` if another one was at it.
    """

    def __init__(
        self,
        database: Database,
        log: FilteringBoundLogger,
        clock: Callable[[], float],
        interval: float,
        retention: Retention,
    ) -> None:
        """Make the job.

        Args:
            database: The database.
            log: The log.
            clock: Returns the seconds of CLOCK_BOOTTIME.
            interval: After how many seconds a row of the journal is folded, at most.
            retention: For how long facts are kept.
        """
        self._database = database
        self._log = log
        self._clock = clock
        self._interval = interval
        self._retention = retention
        self._rows = MAX_ROWS // 4
        self._dropped_at: float | None = None
        self._summed_at = -_PART_SECONDS
        self.backlog = Backlog(0, 0.0)
        self.calls = 0
        self.dropped = 0
        self.runs = {"done": 0, "elsewhere": 0, "failed": 0}

    async def run(self) -> NoReturn:
        """Look a few times in each interval, until cancelled."""
        pause = self._interval / _LOOKS
        # So that the workers of a fleet do not all come at the same time.
        await asyncio.sleep(pause * random.random())  # noqa: S311 - no secret
        while True:
            await asyncio.sleep(pause)
            try:
                outcome = "done" if await self.fold() else "elsewhere"
            except Exception as error:  # noqa: BLE001 - any error would end this loop unnoticed
                outcome = "failed"
                if isinstance(error, UnavailableError):
                    self._log.warning("activity not folded", error=repr(error.__cause__ or error))
                else:
                    self._log.error("activity not folded", exc_info=error)
            self.runs[outcome] += 1

    async def fold(self) -> bool:
        """Fold the journal if its oldest row has waited, roll up what is over, and remove what is old.

        Return False if another process is at it.

        Raises:
            UnavailableError: The database does not respond.
        """
        async with self._database.connection() as connection:
            self.backlog = await activity_lag.backlog(connection)
        # Due before the interval is over: until the next look, it would be exceeded.
        if self.backlog.age >= self._interval * (1 - 1 / _LOOKS) or self.backlog.rows >= _LATE_ROWS:
            is_more = True
            while is_more:
                limit = self._rows
                count = await self._fold_some(limit)
                if count is None:
                    return False
                is_more = count == limit
        return await self._roll_up() and await self._drop_old()

    async def _fold_some(self, limit: int) -> int | None:
        """Fold the oldest rows, and return how many; None if another process is at it."""
        began = self._clock()
        try:
            count = await self._fold_oldest(limit)
        except UnavailableError:
            self._rows = max(1, limit // 2)  # a statement may have taken too long
            raise
        took = self._clock() - began
        if took > _LONG_SECONDS:
            self._rows = max(1, limit // 2)
        elif took < _SHORT_SECONDS:
            self._rows = min(MAX_ROWS, limit * 2)
        return count

    async def _fold_oldest(self, limit: int) -> int | None:
        async with self._database.transaction() as transaction:
            if not await activity_fold.try_lock(transaction):
                return None
            row_ids = await activity_fold.oldest_rows(transaction, limit)
            await activity_fold.note_uses(transaction, row_ids)
        if not row_ids:
            return 0
        async with self._database.transaction() as transaction:
            if not await activity_fold.try_lock(transaction):
                return None
            oldest = await activity_partitions.make(transaction)
            folded = await activity_fold.fold(transaction, row_ids, oldest)
        self.calls += folded.calls
        self.dropped += folded.dropped
        return len(row_ids)

    async def _roll_up(self) -> bool:
        """Roll up hours and days that are over; return False if another process is at it."""
        while await self._is_there_a_closed_one():
            async with self._database.transaction() as transaction:
                if not await activity_fold.try_lock(transaction):
                    return False
                closed = await activity_rollup.oldest_closed(transaction)
                if closed is not None:
                    await activity_partitions.make(transaction)
                    await activity_rollup.roll_up(transaction, *closed)
        return await self._sum_up_parts()

    async def _sum_up_parts(self) -> bool:
        """Sum up what is over of the present hour and day, if that is due; return False if another process is at it.

        At most once in two minutes: late facts make it due again, and may go on coming.
        """
        if self._clock() - self._summed_at < _PART_SECONDS:
            return True
        async with self._database.connection() as connection:
            if not await activity_rollup.parts_to_sum_up(connection):
                return True
        async with self._database.transaction() as transaction:
            if not await activity_fold.try_lock(transaction):
                return False
            await activity_partitions.make(transaction)
            for part in await activity_rollup.parts_to_sum_up(transaction):
                await activity_rollup.sum_up_part(transaction, part)
        self._summed_at = self._clock()
        return True

    async def _is_there_a_closed_one(self) -> bool:
        async with self._database.connection() as connection:
            return await activity_rollup.oldest_closed(connection) is not None

    async def _drop_old(self) -> bool:
        """Remove old partitions, every ten minutes; return False if another process is at it."""
        if self._dropped_at is not None and self._clock() - self._dropped_at < _DROP_SECONDS:
            return True
        async with self._database.transaction() as transaction:
            if not await activity_fold.try_lock(transaction):
                return False
            await activity_rollup.prune_writers(transaction)
            dropped = await activity_partitions.drop_old(transaction, self._retention)
        self._dropped_at = self._clock()
        if dropped:
            self._log.info("old activity removed", **dropped)
        return True
