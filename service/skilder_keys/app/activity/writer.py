"""Write what this process has counted into the journal, every few seconds and when it ends."""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NoReturn
from uuid import uuid4

from skilder_keys.app.activity.new_objects import NewObjects
from skilder_keys.app.time_slices import TimeSlices
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import activity_journal
from skilder_keys.storage.activity_journal import Appended, JournalRow

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

    from skilder_keys.app.activity.counter import ActivityCounter, Cell, Minute, Place
    from skilder_keys.storage.database import Database

ROW_CELLS = 1000
"""The most cells of a row: to make and to send one takes some milliseconds of the event loop."""

_MINUTE_MS = 60_000
_CLOSE_SECONDS = 5.0
_RETRY_SECONDS = 0.1
_EXACT_SECONDS = 0.25
"""An answer that took longer does not show what the clock of the database shows now."""


class ActivityWriter:
    """Appends the counts to the journal, in rows with a number each.

    A row whose commit was not confirmed is sent again with the same number, so it counts once. While the database is
    away, the counts stay in memory: the decisions wait for nothing.
    """

    def __init__(
        self, database: Database, counter: ActivityCounter, log: FilteringBoundLogger, interval: float
    ) -> None:
        """Make a writer. Call `open` before the first decision is counted.

        Args:
            database: The database.
            counter: What to write.
            log: The log.
            interval: Seconds between two flushes.
        """
        self._database = database
        self._counter = counter
        self._log = log
        self._interval = interval
        self._id = uuid4()
        self._seq = 0
        self._row: JournalRow | None = None  # being sent
        self._minutes: deque[Minute] = deque()  # taken, and in no row yet
        self._began_at = 0.0
        self._until = 0.0
        self._is_resting = True
        self._fails = False
        self._turn = asyncio.Lock()
        self._new_objects = NewObjects()

    @property
    def lag(self) -> float:
        """How many seconds ago the oldest count was begun that is not in the journal; 0 without one."""
        return self._counter.database_time() - self._until if self._counter.cells else 0.0

    async def open(self) -> None:
        """Register this process, and learn the time of the database.

        Raises:
            UnavailableError: The database does not respond.
        """
        asked_at = self._counter.clock()
        async with self._database.connection() as connection:
            now = await activity_journal.database_time(connection)
            self._counter.set_time(now, self._counter.clock())
            self._until = now - (self._counter.clock() - asked_at)
        await self._register()  # with a connection of its own: there may be only one

    async def flush(self) -> None:
        """Write what was counted. What cannot be written now is kept.

        Raises:
            UnavailableError: The database does not respond.
        """
        async with self._turn:
            await self._free()
            if self._row is None and not self._minutes:
                await self._take()
            while (row := self._row or self._next_row()) is not None:
                outcome = await self._append(row)
                if outcome is Appended.YES:
                    self._row = None
                    self._counter.release(len(row.keys))
                elif outcome is Appended.UNKNOWN_WRITER:
                    await self._register()
                else:
                    raise UnavailableError("The journal of activity is full: nobody folds it.")
            self._fails = False

    async def close(self) -> None:
        """Write all that was counted, if the database responds within five seconds."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                while not await self._leave():  # noqa: ASYNC110 - nobody reports that the database is back
                    await asyncio.sleep(_RETRY_SECONDS)
        if self._counter.cells:
            self._log.error("activity is lost", cells=self._counter.cells)

    async def _leave(self) -> bool:
        """Write all that was counted, and end the registration; return False if the database does not respond."""
        try:
            while self._counter.cells:
                await self.flush()
            async with self._database.connection() as connection:
                await activity_journal.leave(connection, self._id)
        except UnavailableError:
            return False
        return True

    async def run(self) -> NoReturn:
        """Flush every `interval` seconds, until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            try:
                await self.flush()
            except UnavailableError as error:
                if not self._fails:
                    self._log.warning("activity not written yet", error=repr(error.__cause__ or error))
                self._fails = True
            except Exception as error:  # noqa: BLE001 - any error would end this loop unnoticed
                self._log.error("activity not written", exc_info=error)

    async def _take(self) -> None:
        """Take what was counted since the last time. If that is nothing, note once that there is nothing."""
        until = self._counter.database_time()
        minutes = self._counter.take()
        if not minutes:
            if not self._is_resting:
                async with self._database.connection() as connection:
                    now = await activity_journal.rest(connection, self._id, until)
                if now is None:
                    await self._register()
                self._is_resting = True
            self._until = until
            return
        self._minutes.extend(minutes)
        self._began_at, self._until = self._until, until
        self._is_resting = False

    def _next_row(self) -> JournalRow | None:
        """Make the next row of what was taken; return None if nothing is left.

        A row is made when the one before is in the journal: a collection of garbage looks at all that is new, and would
        take long if that were the values of all rows.
        """
        if not self._minutes:
            return None
        self._new_objects.collect()
        minute = self._minutes[0]
        # Taken out one by one, so that memory is freed in slices too.
        some = [minute.cells.popitem() for _ in range(min(ROW_CELLS, len(minute.cells)))]
        if not minute.cells:
            self._minutes.popleft()
        self._row = self._made(minute, some, None if self._minutes else self._until)
        return self._row

    async def _free(self) -> None:
        """Free the memory of earlier minutes."""
        slices = TimeSlices(self._counter.clock)
        while self._counter.retired:
            facts = self._counter.retired[-1]
            for _ in range(min(ROW_CELLS, len(facts))):
                facts.pop()
            if not facts:
                self._counter.retired.pop()
            elif slices.over():
                await slices.next()

    def _made(self, minute: Minute, cells: list[tuple[Place, Cell]], counted_until: float | None) -> JournalRow:
        self._seq += 1
        began = minute.began
        return JournalRow(
            seq=self._seq,
            began_at=self._began_at,
            counted_until=counted_until,
            minute=minute.number,
            keys=[cell.key_id for _, cell in cells],
            tools=["" if place[0] is None else place[1] for place, _ in cells],
            callers=[place[2] for place, _ in cells],
            outcomes=[place[3] for place, _ in cells],
            counts=[cell.count for _, cell in cells],
            firsts=[_milliseconds(cell.first - began) for _, cell in cells],
            lasts=[_milliseconds(cell.last - began) for _, cell in cells],
            sources=[cell.source for _, cell in cells],
            hints=[(place[1] or "") if place[0] is None else "" for place, _ in cells],
        )

    async def _append(self, row: JournalRow) -> Appended:
        async with self._database.connection() as connection:
            asked_at = self._counter.clock()
            outcome, now = await activity_journal.append(connection, self._id, row)
        took = self._counter.clock() - asked_at
        if took < _EXACT_SECONDS:
            self._counter.set_time(now, asked_at + took)
        return outcome

    async def _register(self) -> None:
        """Register this process, where it was not, or its row is gone: the database was restored."""
        done = self._seq if self._row is None else self._row.seq - 1
        async with self._database.connection() as connection:
            await activity_journal.register(connection, self._id, done, 2 * self._interval, self._until)


def _milliseconds(seconds: float) -> int:
    """Return whole milliseconds of a minute. The clock may have been set meanwhile, so they may be out of it."""
    return min(max(int(seconds * 1000), 0), _MINUTE_MS - 1)
