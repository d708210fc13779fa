"""Latency around a change: the seconds before it and after it, at a constant rate, with very many keys in use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

import grpc

from bench.catalog import KINDS
from bench.load import percentile
from bench.server import Sql

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from contextlib import AbstractContextManager

    from bench.catalog import Catalog, Kind
    from bench.keys_in_use import KeysInUse
    from bench.openloop import Load, Timeline

LoadOf: TypeAlias = "Callable[[float], AbstractContextManager[Load]]"
"""Starts a load of so many seconds."""

SETTLE = 3.0
"""The seconds before the first change."""
RECOVERY = 10.5
"""The seconds after the first change, for a picture."""
_PAUSE = 3.0
_LATE = 1.0
_QUIET, _COUNTS = 1.0, 2
_WITHOUT = 6.0
_WARM_UP = 0.5
_BEFORE, _AFTER = 2.0, 1.0


@dataclass(frozen=True)
class Around:
    """What calls took around changes, in ms.

    Attributes:
        timeline: All calls.
        changes: When each change was sent, in seconds after the beginning, and of which kind it was.
        failed: How many changes failed.
    """

    timeline: Timeline
    changes: Sequence[tuple[float, Kind]]
    failed: int

    @property
    def refused(self) -> int:
        """How many calls were not granted, and changes not made."""
        return self.timeline.refused + self.failed

    def before(self, percent: float) -> float:
        """Return a percentile of the time before the first change."""
        return self.timeline.percent(percent, self.changes[0][0] - _BEFORE, self.changes[0][0])

    def outcomes(self) -> str:
        """Return in words what became of the calls and changes."""
        calls = ", ".join(f"{count:,} {outcome}" for outcome, count in self.timeline.outcomes().most_common())
        return f"{calls}, {self.failed} changes failed"

    def slower(self, seconds: float) -> float:
        """Return the p50 of so many seconds from the first change on, to that of the time before it."""
        at = self.changes[0][0]
        return self.timeline.percent(50, at, at + seconds) / self.timeline.percent(50, _WARM_UP, at)

    def ratios(self, kind: Kind) -> list[float]:
        """Return the p99 of the second after each change of a kind, to that of the two seconds before it."""
        return [
            self.timeline.percent(99, at, at + _AFTER) / self.timeline.percent(99, at - _BEFORE, at)
            for at, each in self.changes
            if each == kind
        ]

    def after(self, percent: float) -> float:
        """Return the largest percentile of the seconds after the changes."""
        return max(self.timeline.percent(percent, at, at + _AFTER) for at, _ in self.changes)

    def probes_after(self) -> float:
        """Return the longest that a probe took in the seconds after the changes."""
        return max(self.timeline.took(at, at + _AFTER, probes=True)[-1] for at, _ in self.changes)

    def probes_before(self) -> float:
        """Return the longest that a probe took before the first change."""
        return self.timeline.took(self.changes[0][0] - _BEFORE, self.changes[0][0], probes=True)[-1]


def around(
    load: LoadOf,
    change: Callable[[Kind], None],
    *,
    rounds: int,
    kinds: Sequence[Kind] = KINDS,
    recovery: float = 0.0,
) -> Around:
    """Make each change so many times under load, the second one after so many seconds at least."""
    second = SETTLE + max(_PAUSE, recovery)
    due = [SETTLE, *(second + _PAUSE * number for number in range(len(kinds) * rounds - 1))]
    changes: list[tuple[float, Kind]] = []
    failed = 0
    with load(max(due[-1] + _PAUSE, second)) as running:
        for number, at in enumerate(due):
            kind = kinds[number % len(kinds)]
            sent = running.sleep_until(at)
            if sent - at < _LATE:  # a slow version does not make all of them in time
                changes.append((sent, kind))
                failed += not _made(change, kind)
    return Around(running.timeline, changes, failed)


def every_second(load: LoadOf, change: Callable[[Kind], None], seconds: int) -> Around:
    """Make a change every second, after some seconds without one."""
    quiet = _WITHOUT
    changes: list[tuple[float, Kind]] = []
    failed = 0
    with load(quiet + seconds) as running:
        for number in range(seconds):
            kind = KINDS[number % len(KINDS)]
            if running.now() < quiet + seconds:
                changes.append((running.sleep_until(quiet + number), kind))
                failed += not _made(change, kind)
    return Around(running.timeline, changes, failed)


def _made(change: Callable[[Kind], None], kind: Kind) -> bool:
    """Make a change; return whether it was made."""
    try:
        change(kind)
    except grpc.RpcError:
        return False
    return True


def statements(service: KeysInUse, catalog: Catalog, load: LoadOf) -> Mapping[Kind, float]:
    """Return how many statements each process sends because of a change, those of the change itself excluded.

    The second after a change is compared with the second before it, as heartbeats go on all the time. The change is
    made by hand, in a session whose statements are not counted, nor those of the triggers that run in it.
    """
    found: dict[Kind, list[float]] = {kind: [] for kind in KINDS}
    workers = len(service.server.workers())
    with Sql(service.server.url) as sql, load(_QUIET + 2 * len(KINDS) * _COUNTS) as running:
        sql.execute("CREATE EXTENSION IF NOT EXISTS pg_stat_statements")
        sql.execute("SET pg_stat_statements.track = 'none'")
        for number in range(len(KINDS) * _COUNTS):
            kind = KINDS[number % len(KINDS)]
            at = _QUIET + 2 * number
            running.sleep_until(at)
            counts = [_count(sql)]
            running.sleep_until(at + 1)
            counts.append(_count(sql))
            catalog.change_by_hand(kind, sql)
            running.sleep_until(at + 2)
            counts.append(_count(sql))
            found[kind].append(max(0, counts[2] - 2 * counts[1] + counts[0]) / workers)
    return {kind: median(values) for kind, values in found.items()}


def _count(sql: Sql) -> int:
    query = """
        SELECT coalesce(sum(calls), 0)::bigint FROM pg_stat_statements AS statement
        WHERE dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
          -- Last uses of keys and counts of calls are written every few seconds, in transactions, whatever changes.
          AND query !~* 'activity|due AS MATERIALIZED|clock_timestamp.. - last_used_at|^(BEGIN|COMMIT|SET LOCAL)'
    """
    return int(str(sql.value(query)))


def one_by_one(change: Callable[[Kind], None], times: int) -> list[float]:
    """Add a member so many times, after one to warm up; return how many ms each took, sorted."""
    found = []
    for _ in range(times + 1):
        began = time.perf_counter()
        change("a member added")
        found.append((time.perf_counter() - began) * 1000)
    return sorted(found[1:])


def steps(found: Around, step: float, before: float, after: float) -> list[tuple[float, float, float]]:
    """Return the p50 and the p99 of each step of time around the first change, for a picture."""
    (at, _), *_ = found.changes
    result = []
    for number in range(round((before + after) / step)):
        begin = at - before + number * step
        took = found.timeline.took(begin, begin + step)
        if took:
            result.append((round(begin + step / 2 - at, 3), percentile(took, 50), percentile(took, 99)))
    return result
