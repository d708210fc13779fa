"""Where a reader of events is, as text for a cursor.

In one workspace, numbers are in the order of commits, so a number says what was read. In all workspaces together
nothing has that order: a transaction with a lower id may commit later. So there a position is a *snapshot* of Postgres,
which says of each transaction whether its changes were visible. The events of those that were not come next.

A position also says what a reader knew of the history. So if a database was restored to an earlier state, or copied to
another server, that is noticed, instead of events being left out.
"""

import json
from dataclasses import dataclass
from typing import NamedTuple

_SHORT = 16
"""How many hexadecimal digits of a hash tell one history from another."""


@dataclass(frozen=True, slots=True)
class NumberPosition:
    """A place in the events of one workspace.

    Attributes:
        number: The number of the last event that was read; 0 if there was none.
        hash: The beginning of its hash; empty if it is not known.
    """

    number: int
    hash: str = ""

    def encode(self) -> str:
        """Return the position as text."""
        return f"{self.number} {self.hash}"

    @classmethod
    def decode(cls, text: str) -> "NumberPosition":
        """Return the position that `encode` made a text of."""
        number, hash_ = text.split(" ")
        return cls(int(number), hash_)


class Snapshot(NamedTuple):
    """What was visible at a moment.

    Attributes:
        text: The snapshot, as Postgres writes it.
        last_id: The highest id of an event in it.
        next_transaction: An id that is higher than those of all transactions that had begun. An event of a higher one,
            but with no higher id than `last_id`, was copied from another server, where transactions have other ids.
        last_hash: The beginning of the hash of the event with that id.
    """

    text: str
    last_id: int
    next_transaction: int
    last_hash: str


@dataclass(frozen=True, slots=True)
class SnapshotPosition:
    """A place in the events of all workspaces.

    Attributes:
        seen: All events in it were read.
        count: How many events there were in it, of all workspaces, and how many were read since.
        now: A later one, whose events are being read in order of id; None if none is.
        id: The id of the last one that was read of these.
        expected: How many events there were in `now`, of all workspaces.
    """

    seen: Snapshot
    count: int
    now: Snapshot | None = None
    id: int = 0
    expected: int = 0

    def encode(self) -> str:
        """Return the position as text."""
        return json.dumps([self.seen, self.count, self.now, self.id, self.expected], separators=(",", ":"))

    @classmethod
    def decode(cls, text: str) -> "SnapshotPosition":
        """Return the position that `encode` made a text of."""
        seen, count, now, id_, expected = json.loads(text)
        return cls(Snapshot(*seen), count, None if now is None else Snapshot(*now), id_, expected)


def shortened(hash_: bytes | None) -> str:
    """Return the beginning of an event's hash, as a position has it."""
    return "" if hash_ is None else hash_.hex()[:_SHORT]
