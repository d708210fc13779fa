"""A clock that a test sets."""

from __future__ import annotations


class FakeClock:
    """A clock that shows the seconds in `now` until the test changes them."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        """Return the time."""
        return self.now
