"""How many calls of each caller ended with which status code, and how long they took."""

from __future__ import annotations

from bisect import bisect_left
from time import perf_counter
from typing import TYPE_CHECKING

from skilder_keys.domain.access import RUNTIME_PREFIX, CallerRole

if TYPE_CHECKING:
    from collections.abc import Iterator

    from skilder_keys.domain.access import Caller

BOUNDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0)
"""The upper bounds of the buckets, in seconds. One more bucket has the calls that took longer."""

RUNTIMES = f"{RUNTIME_PREFIX}*"
"""Stands for all runtime instances, since there may be very many. No caller has this name."""

_0, _1, _2, _3, _4 = BOUNDS[:5]


class Latency:
    """The durations of calls, as a histogram.

    Attributes:
        seconds: The sum of the durations.
    """

    # To find a bucket by comparisons costs a warm call half as much as by `bisect`. So the buckets into which nearly
    # all calls fall are attributes.
    __slots__ = ("_0", "_1", "_2", "_3", "_4", "_others", "seconds")

    def __init__(self) -> None:
        self._0 = self._1 = self._2 = self._3 = self._4 = 0
        self._others = [0] * (len(BOUNDS) + 1)
        self.seconds = 0.0

    def note_since(self, began: float) -> None:
        """Count a call that began at this time of `perf_counter` and ends now."""
        seconds = perf_counter() - began
        self.seconds += seconds
        if seconds <= _0:
            self._0 += 1
        elif seconds <= _1:
            self._1 += 1
        elif seconds <= _2:
            self._2 += 1
        elif seconds <= _3:
            self._3 += 1
        elif seconds <= _4:
            self._4 += 1
        else:
            self._others[bisect_left(BOUNDS, seconds)] += 1

    @property
    def counts(self) -> list[int]:
        """The number of calls in each bucket."""
        return [self._0, self._1, self._2, self._3, self._4, *self._others[5:]]


class CallMetrics:
    """The calls by method and status code.

    Attributes:
        refused: The number of calls that were refused because too many were running.
    """

    def __init__(self) -> None:
        self.refused = 0
        self._latencies: dict[tuple[str, str, str], Latency] = {}

    def latency(self, method: str, code: str, caller: str = "") -> Latency:
        """Return the histogram of the calls of a method by a caller that ended with a status code.

        Args:
            method: The service and the method, e.g. `KeyService/IssueKey`.
            code: The name of the status code.
            caller: The caller's `caller_label`; empty for calls of nobody who is known.
        """
        place = (method, code, caller)
        found = self._latencies.get(place)
        if found is None:
            found = self._latencies[place] = Latency()
        return found

    def refuse(self, path: str) -> None:
        """Count a call that is refused because too many are running."""
        self.refused += 1
        self.latency(label_of(path), "RESOURCE_EXHAUSTED").note_since(perf_counter())

    def __iter__(self) -> Iterator[tuple[str, str, list[int], float]]:
        """Return method and status code of all calls, with their number in each bucket and the sum of the durations."""
        found: dict[tuple[str, str], tuple[list[int], float]] = {}
        for (method, code, _), latency in self._latencies.items():
            counts, seconds = found.get((method, code), ([0] * (len(BOUNDS) + 1), 0.0))
            both = [sum(each) for each in zip(counts, latency.counts, strict=True)]
            found[method, code] = (both, seconds + latency.seconds)
        for (method, code), (counts, seconds) in found.items():
            yield method, code, counts, seconds

    def by_caller(self) -> dict[str, tuple[int, float]]:
        """Return the number of the calls of each caller, and the sum of their durations."""
        found: dict[str, tuple[int, float]] = {}
        for (_, _, caller), latency in self._latencies.items():
            if caller:
                count, seconds = found.get(caller, (0, 0.0))
                found[caller] = (count + sum(latency.counts), seconds + latency.seconds)
        return found


def caller_label(caller: Caller) -> str:
    """Return the name of a caller as metrics have it. It is one for all runtime instances, so there are few."""
    return RUNTIMES if caller.role is CallerRole.RUNTIME else caller.name


def label_of(path: str) -> str:
    """Return the service and the method as metrics and logs have them, e.g. `Health/Check`, by a method's path."""
    service, _, name = path.removeprefix("/").partition("/")
    return f"{service.rpartition('.')[2]}/{name}"
