"""What happened between two metrics pages, and since the first one."""

from __future__ import annotations

import math
from collections import Counter, deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from skilder_keys.cli.top.pages import Name, Page

_COUNTS = ("_total", "_count", "_bucket", "_sum")
_START: Name = ("process_start_time_seconds", ())
_UP: Name = ("skilder_keys_worker_up", ())
_HANDOVER = "-handover"
_HISTORY = 120


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker process.

    Attributes:
        label: Its number; that of a worker that hands over to its successor ends in `-handover`.
        mode: `cached`, `direct` or `unavailable`; empty if it does not respond.
        lease_age: Seconds since its lease was requested; infinite without one.
        calls: Its calls a second; None if that is not known yet.
        cpu: Its CPU time a second; None if that is not known yet.
        memory: The bytes of its memory.
    """

    label: str
    mode: str = ""
    lease_age: float = math.inf
    calls: float | None = None
    cpu: float | None = None
    memory: float = 0.0


@dataclass(frozen=True, slots=True)
class Rates:
    """What happened between the last two pages, and since the first one.

    Attributes:
        seconds: The time between the last two pages; 0 if there is only one.
        recent: How much each sample grew in that time, over all workers.
        total: How much each sample grew since the first page, over all workers.
        workers: The workers of the last page.
        history: The calls a second of the last intervals, the oldest first.
    """

    seconds: float
    recent: Mapping[Name, float]
    total: Mapping[Name, float]
    workers: Sequence[Worker]
    history: Sequence[float]

    def per_second(self, number: float) -> float | None:
        """Return a number of the last interval as one a second; None if there was no interval."""
        return number / self.seconds if self.seconds else None


class Meter:
    """Compares each page with the one before.

    The counters of a process begin with zero. A process is known by its start, as its label may pass to its successor;
    one that did not respond for a while is compared with what it said last.
    """

    def __init__(self) -> None:
        self._last: Page | None = None
        self._known: dict[str, Mapping[Name, float]] = {}
        self._total: Counter[Name] = Counter()
        self._history: deque[float] = deque(maxlen=_HISTORY)

    def add(self, page: Page) -> Rates:
        """Return the rates with one more page."""
        grown = {label: self._growth(label, samples) for label, samples in page.samples.items()}
        recent: Counter[Name] = Counter()
        for each in grown.values():
            recent.update(each)
        self._total.update(recent)
        seconds = page.at - self._last.at if self._last is not None else 0.0
        if seconds:
            self._history.append(_calls(recent) / seconds)
        workers = [
            _worker(label, page.samples[label], grown[label], seconds)
            for label in sorted(page.samples, key=_order)
            if label
        ]
        # A label that is gone is forgotten, and one whose process does not respond is not.
        self._known = {
            label: samples if _START in samples or label not in self._known else self._known[label]
            for label, samples in page.samples.items()
        }
        self._last = page
        return Rates(seconds, recent, self._total.copy(), workers, list(self._history))

    def _growth(self, label: str, samples: Mapping[Name, float]) -> dict[Name, float]:
        before = self._before(label, samples)
        if before is None:
            return {}
        grown = {}
        for name, value in samples.items():
            if name[0].endswith(_COUNTS):
                was = before.get(name, 0.0)
                grown[name] = value - was if value >= was else value
        return grown

    def _before(self, label: str, samples: Mapping[Name, float]) -> Mapping[Name, float] | None:
        """Return what this process said before: nothing if it is new, and None if it ran before the first page."""
        start = samples.get(_START)
        for known in (label, label.removesuffix(_HANDOVER)):
            before = self._known.get(known)
            if before is not None and before.get(_START) == start:
                return before
        if self._last is None:
            return None
        # It may be an old one that responds for the first time.
        was_silent = label in self._known and _START not in self._known[label]
        return None if was_silent and start is not None else {}


def _worker(label: str, samples: Mapping[Name, float], grown: Mapping[Name, float], seconds: float) -> Worker:
    if _START not in samples and not samples.get(_UP):
        return Worker(label)
    modes = [
        labels[0][1] for (name, labels), value in samples.items() if name == "skilder_keys_mode" and value and labels
    ]
    cpu = grown.get(("process_cpu_seconds_total", ()))
    return Worker(
        label,
        modes[0] if modes else "",
        samples.get(("skilder_keys_lease_age_seconds", ()), math.inf),
        _calls(grown) / seconds if seconds and grown else None,
        cpu / seconds if seconds and cpu is not None else None,
        samples.get(("process_resident_memory_bytes", ()), 0.0),
    )


def _calls(grown: Mapping[Name, float]) -> float:
    return sum(value for (name, _), value in grown.items() if name == "skilder_keys_calls_total")


def _order(label: str) -> tuple[int, str]:
    number = label.removesuffix(_HANDOVER)
    return (int(number) if number.isdecimal() and number.isascii() else -1, label)
