"""Which rate the bench takes: the wanted one, as long as no queue grows under it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import psutil

from bench.openloop import BUSY, GRANTED, Call, Load, Timeline, bearable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager


class _Loads:
    """Loads of a server that uses some CPU time in each call."""

    def __init__(self, cpu: float, took: Callable[[float], float], outcome: str = GRANTED) -> None:
        self.rates: list[float] = []
        self._cpu = cpu * (psutil.cpu_count() or 1)
        self._took = took
        self._outcome = outcome

    def at(self, rate: float) -> Callable[[float], AbstractContextManager[Load]]:
        """Return what starts a load at a rate."""

        @contextmanager
        def run(seconds: float) -> Iterator[Load]:
            self.rates.append(rate)
            dues = [number / rate for number in range(int(seconds * rate))]
            calls = [Call(due, self._took(due), 0, self._outcome) for due in dues]
            load = Load(0.0)
            load.timeline = Timeline(calls, 1, self._cpu * len(calls), 0)
            yield load

        return run


def test_the_wanted_rate_is_taken_where_latency_stays() -> None:
    """However busy the machine is."""
    loads = _Loads(cpu=0.9 / 1000, took=lambda _: 8.0)
    assert bearable(loads.at, 1000) == 1000
    assert loads.rates == [1000]


def test_a_lower_rate_is_taken_where_a_queue_grows() -> None:
    """The one that takes 60 % of the machine."""
    loads = _Loads(cpu=0.9 / 1000, took=lambda due: 100 * due)
    assert bearable(loads.at, 1000) == 700
    assert loads.rates == [1000, 700]


def test_a_lower_rate_is_taken_where_calls_are_refused() -> None:
    """Even where they are refused at once."""
    assert bearable(_Loads(cpu=0.9 / 1000, took=lambda _: 1.0, outcome=BUSY).at, 1000) == 700


def test_the_wanted_rate_is_taken_where_the_machine_is_idle() -> None:
    """A call that takes longer at the end is chance, then."""
    assert bearable(_Loads(cpu=0.5 / 1000, took=lambda due: 100 * due).at, 1000) == 1000
