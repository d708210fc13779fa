"""Read a source again and again in a thread, so that a source that does not respond never stops the view."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from skilder_keys.cli.exits import reason

if TYPE_CHECKING:
    from collections.abc import Callable

Value = TypeVar("Value")


class SourceError(Exception):
    """A source could not be read. The text says why, in one line."""


@dataclass(frozen=True, slots=True)
class Reading(Generic[Value]):
    """What is known of a source.

    Attributes:
        value: What was read last; None before the first time.
        at: When that was, as `time.monotonic` counts.
        problem: Why the last attempt failed; empty if it did not.
    """

    value: Value | None = None
    at: float = 0.0
    problem: str = ""


class Reader(Generic[Value]):
    """Reads a source in a thread of its own.

    Attributes:
        latest: What is known of the source.
    """

    def __init__(self, read: Callable[[], Value], every: float, changed: Callable[[], object]) -> None:
        """Make a reader.

        Args:
            read: Reads the source. Raises SourceError if it cannot be read.
            every: Seconds from the end of an attempt to the next.
            changed: Called in the thread after each attempt.
        """
        self.latest: Reading[Value] = Reading()
        self._read = read
        self._every = every
        self._changed = changed
        self._stopped = threading.Event()
        # A daemon, since an attempt may take longer than a person likes to wait after `q`.
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._stopped.set()

    def pause(self) -> None:
        """Wait as long as between two attempts."""
        self._stopped.wait(self._every)

    def attempt(self) -> None:
        """Read the source once."""
        try:
            value = self._read()
        except SourceError as error:
            self.latest = replace(self.latest, problem=str(error))
        except Exception as error:  # noqa: BLE001 - the view goes on with its other parts
            self.latest = replace(self.latest, problem=f"unexpected: {reason(error)}")
        else:
            self.latest = Reading(value, time.monotonic())

    def _run(self) -> None:
        while not self._stopped.is_set():
            self.attempt()
            self._changed()
            self.pause()
