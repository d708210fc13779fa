"""When to rotate a key, and when to try again. Lengths of time are in seconds."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from random import Random
    from uuid import UUID

_LOOK = 60.0
_LOOKS = 20
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 60.0
_TRIES_LEFT = 8
_SHORTEST_PAUSE = 0.05
_LATEST = 2 / 3
_SPREAD = 0.1


@dataclass(frozen=True, slots=True)
class Life:
    """The rest of a key's life, on the agent's own clock, which no change of the wall clock touches.

    Attributes:
        length: How long the whole life is.
        end: When it ends.
        due: When to rotate the key.
    """

    length: float
    end: float
    due: float

    @classmethod
    def new(cls, length: float, begin: float, dice: Random) -> Life:
        """Return the life of a key that was made after `begin`.

        The key is to be rotated after about two thirds of its life, so a third is left for an outage. Chance spreads
        the rotations of runtimes that were started together.
        """
        return cls(length, begin + length, begin + length * (_LATEST - _SPREAD * dice.random()))

    @classmethod
    def found(cls, key_id: UUID, expires_at: datetime | None, now: float, wall: float, dice: Random) -> Life:
        """Return the life of a key whose begin the agent has not seen.

        The id of a key has the time of its issue (RFC 9562, version 7). How much has passed since then, only the wall
        clock can tell. If that cannot be right, the key is due, as it is without an expiry.

        Args:
            key_id: The id of the key.
            expires_at: When it expires; None for a key that does not.
            now: The time on the agent's own clock.
            wall: The time on the wall clock, in seconds since 1970.
            dice: Chance.
        """
        if expires_at is None:
            return cls(_LOOK, math.inf, now)
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        issued = (key_id.int >> 80) / 1000
        expires = (expires_at - epoch) / timedelta(seconds=1)
        length = max(expires - issued, 0.0)
        if not issued - _LONGEST_PAUSE <= wall <= expires:
            return cls(length, now + length, now)
        return cls.new(length, now - max(wall - issued, 0.0), dice)

    def moved(self, seconds: float) -> Life:
        """Return the life of the same key after somebody moved its end: due sooner if too little would be left."""
        length, end = self.length + seconds, self.end + seconds
        return Life(length, end, min(self.due, end - length * (1 - _LATEST)))

    @property
    def look(self) -> float:
        """How long to wait between two looks at the key."""
        return min(_LOOK, self.length / _LOOKS)


def pause(failures: int, left: float, dice: Random) -> float:
    """Return how long to wait after this many failures in a row: twice as long each time, up to a minute.

    Half of it is chance, so that a service that comes back is not called by all at once. The nearer the end of the key
    comes, the shorter the pauses are.

    Args:
        failures: At least 1.
        left: How long the key lives; may be infinite, or over.
        dice: Chance.
    """
    longest = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(failures - 1, 10))
    if left > 0:
        longest = min(longest, left / _TRIES_LEFT)
    return max(_SHORTEST_PAUSE, longest * (0.5 + dice.random() / 2))
