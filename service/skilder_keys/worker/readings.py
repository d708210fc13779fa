"""Metrics that are read where they are counted, at the moment of a scrape, so that they cost a call almost nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client import CollectorRegistry
    from prometheus_client.metrics_core import Metric


class Readings(Collector):
    """The metrics of a worker. Their names begin with `skilder_keys_`, which is not part of `name` below.

    The values of a label must be few, and known beforehand: no key, no user, nothing that a caller sends. Times are in
    seconds, sizes in bytes. Prometheus adds `_total` to the name of a counter. docs/operations.md lists all metrics.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        """Add these metrics to a registry."""
        self._reads: list[Callable[[], Metric]] = []
        registry.register(self)

    def gauge(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Add a gauge, e.g. `readings.gauge("activity_lag_seconds", "Age of the oldest …", activity.lag)`."""
        self.gauges(name, documentation, lambda: {"": read()})

    def gauges(self, name: str, documentation: str, read: Callable[[], Mapping[str, float]], label: str = "") -> None:
        """Add a gauge with a label. `read` returns the values by the values of the label."""

        def family() -> Metric:
            found = GaugeMetricFamily(f"skilder_keys_{name}", documentation, labels=_named(label))
            for value, number in read().items():
                found.add_metric(_named(value), number)
            return found

        self.family(family)

    def counter(self, name: str, documentation: str, read: Callable[[], float]) -> None:
        """Add a counter."""
        self.counters(name, documentation, lambda: {"": read()})

    def counters(self, name: str, documentation: str, read: Callable[[], Mapping[str, float]], label: str = "") -> None:
        """Add a counter with a label. `read` returns the values by the values of the label."""

        def family() -> Metric:
            found = CounterMetricFamily(f"skilder_keys_{name}", documentation, labels=_named(label))
            for value, number in read().items():
                found.add_metric(_named(value), number)
            return found

        self.family(family)

    def family(self, read: Callable[[], Metric]) -> None:
        """Add a metric of any other form."""
        self._reads.append(read)

    def collect(self) -> Iterator[Metric]:
        """Return the current value of every metric."""
        for read in self._reads:
            yield read()


def _named(name: str) -> list[str]:
    return [name] if name else []
