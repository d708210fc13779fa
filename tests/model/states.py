"""The state of the model of the fence at one moment.

Only what can still grant by the old state is kept. Whatever reads after the revoke's commit refuses, so loads and
entries of the new state are left out. Ages stop where nothing depends on them any more, so the number of states is
finite though time is not.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

NONE = -1
"""Instead of an epoch or a revision: no row, nothing applied, nothing to write, nothing restored."""


def epoch_of(revision: int) -> int:
    """Return the epoch of a revision. A revision is twice its epoch, plus one after a restore."""
    return revision >> 1


class Load(NamedTuple):
    """A query for the key that began under a lease."""

    read: bool
    """Whether it has run, and so has read the old state."""
    invalidated: bool
    awaited: bool
    """Whether a call waits for it that began after the revoke had returned."""


class Statement(NamedTuple):
    """The running statement of a reader: one registration or one heartbeat."""

    stage: Literal[
        "none",
        "insert sent",
        "insert read",
        "insert done",
        "update sent",
        "update read",
        "update done",
        "row gone",
        "state unknown",
    ]
    """Sending, reading the epoch, committing the row and the arrival of the reply are separate steps.

    A statement reads what was committed when it began, and writes once it has the row's lock.
    """
    age: int
    """Ticks since it was sent."""
    written: int
    """The applied revision, which a heartbeat acknowledges."""
    found: int
    """The current revision as it was read."""


NO_STATEMENT = Statement("none", 0, NONE, NONE)


class Reader(NamedTuple):
    """A caching process."""

    row: int
    """The epoch that its row in Postgres acknowledges."""
    applied: int
    """The revision that its memory has applied."""
    lease: int
    """Ticks that are left of its lease."""
    statement: Statement
    given_up: int
    """The revision that a given-up heartbeat may still acknowledge."""
    cached: bool
    loads: tuple[Load, ...]
    wronged: bool
    """Whether it granted a call that began after the revoke had returned."""

    def with_loads(self, *loads: Load) -> Reader:
        """Return the reader with other loads in flight; equal ones count as one."""
        return self._replace(loads=tuple(sorted(set(loads))))

    def invalidated(self) -> Reader:
        """Return the reader with every load in flight invalidated."""
        return self.with_loads(*(each._replace(invalidated=True) for each in self.loads))

    def without_unread_loads(self) -> Reader:
        """Return the reader without the loads that have read nothing yet."""
        return self.with_loads(*(each for each in self.loads if each.read))


FRESH = Reader(NONE, NONE, 0, NO_STATEMENT, NONE, cached=False, loads=(), wronged=False)


class Wait(NamedTuple):
    """A writer that has committed and waits for the readers to reach an epoch."""

    epoch: int
    ticks: int
    revoke: bool


class Database(NamedTuple):
    """The state of the database at one moment."""

    epoch: int
    kept: int
    """The epoch that it was restored to, or NONE before."""
    revoked: int
    """The epoch of the revoke, or NONE before."""

    def revision(self, epoch: int) -> int:
        """Return the revision of an epoch in this history."""
        return 2 * epoch + (self.kept != NONE and epoch > self.kept)

    def knows(self, revision: int) -> bool:
        """Return whether a revision is one of this history."""
        return epoch_of(revision) <= self.epoch and self.revision(epoch_of(revision)) == revision


class State(NamedTuple):
    """The whole state at one moment."""

    database: Database
    commits: int
    """How many changes were committed, including those that a restore has lost."""
    unknown: int
    """Ticks for which a reader may hold a lease that the restored database does not know."""
    waits: tuple[Wait, ...]
    """One for each change that was committed and not lost; that of the revoke until it returns."""
    returned: bool
    left_behind: bool
    """Whether there is a row of a reader that crashed."""
    readers: tuple[int, ...]
    """By their numbers in the fence: states are compared very often, and comparing numbers is fast."""
