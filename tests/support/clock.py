"""A clock that goes on when it is told to."""

from __future__ import annotations


class FakeClock:
    """Answers the seconds that `now` says, until a test says otherwise."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now
