"""Collect garbage among new objects, a few at a time."""

from __future__ import annotations

import gc


class NewObjects:
    """Has the garbage collector look at new objects, and only at them.

    Where as many objects are freed as are made, the collector sees no growth and does not run. Later it would look at
    all new objects at once.
    """

    def __init__(self) -> None:
        """Make it."""
        self._seen = 0
        self._own = 0

    def collect(self) -> None:
        """Search the objects that are new, and make those that are left count as old.

        Python searches all objects, which takes long, after some number of such collections. These do not count.
        """
        young, middle, old = gc.get_threshold()
        if gc.get_count()[2] < self._seen:  # all objects were searched, and it counts anew
            old -= self._own
            self._own = 0
        gc.collect(1)
        self._seen = gc.get_count()[2]
        self._own += 1
        gc.set_threshold(young, middle, old + 1)
