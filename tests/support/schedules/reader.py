"""The reader of a process, step by step: it applies changes, keeps the lease, and may lose its row."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skilder_keys.app.authorization.snapshot_load import Ahead
    from tests.support.memory import TestedMemory
    from tests.support.schedules.database import Database

LEASE = 2
"""The seconds of a lease."""


class Reader:
    """What `app.fence.reader` does, and what a writer elsewhere does to it.

    Attributes:
        settled: The last change that has returned because a writer removed the reader's row.
    """

    def __init__(self, database: Database, memory: TestedMemory) -> None:
        self._database = database
        self._memory = memory
        self._lease = memory.lease
        self._acknowledged = 0
        self._has_row = True
        self._sent: float | None = None  # when the heartbeat that is under way was sent
        self._aheads: list[asyncio.Task[Sequence[Ahead]]] = []
        self.settled = 0

    def apply(self) -> None:
        """Apply the next change, if there is one. The answer of a heartbeat comes before that."""
        self.get_answer()
        if self._lease.epoch < self._database.epoch:
            change = self._database.changes[self._lease.epoch]
            self._memory.memory.apply(change)
            self._lease.advance(change.revision)
            for ahead in self._aheads:
                if ahead.done():
                    self._memory.memory.fill(ahead.result())

    def read_ahead(self) -> None:
        """Begin to read what the next changes touch; what has arrived by then is filled in after each change."""
        changes = self._database.changes[self._lease.epoch :]
        self._aheads.append(asyncio.create_task(self._memory.memory.read_ahead(changes)))

    def heartbeat(self) -> None:
        """Send a heartbeat; or get the answer, if one is under way."""
        if self._sent is None:
            self.send()
        else:
            self.get_answer()

    def send(self) -> None:
        """Send a heartbeat that sees the epoch of memory, after all changes are applied."""
        self.get_answer()
        if not self._has_row:
            self.register()
        while self._lease.epoch < self._database.epoch:
            self.apply()
        self._acknowledged, self._sent = self._database.epoch, self._memory.clock.now

    def get_answer(self) -> None:
        """Get the answer of a heartbeat, if one is under way. The lease runs from when it was sent."""
        if self._sent is not None:
            self._lease.renew(self._sent, self._sent + LEASE)
            self._sent = None

    def renew(self) -> None:
        """Send a heartbeat and get its answer."""
        self.send()
        self.get_answer()

    def tick(self) -> None:
        """Let half the time of a lease pass."""
        self._memory.clock.now += LEASE / 2

    def lapse(self) -> None:
        """Let the lease end."""
        self.tick()
        self.tick()

    def lose_row(self) -> None:
        """Let a writer remove the row, if the reader has not acknowledged a change for the time of a lease."""
        epochs = range(self._acknowledged + 1, self._database.epoch + 1)
        late = [each for each in epochs if self._database.committed[each] + LEASE <= self._memory.clock.now]
        if late:
            self._has_row, self.settled = False, late[-1]

    def register(self) -> None:
        """Register anew: with an empty memory, and without a lease."""
        self._lease.end()
        self._memory.memory.drop_all()
        self._sent, self._has_row, self._acknowledged = None, True, self._database.epoch
        self._lease.advance(self._database.revision)
