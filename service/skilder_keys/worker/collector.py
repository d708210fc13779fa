"""The metrics of a worker, for Prometheus: its fence, its caches and its calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, GCCollector, Histogram, PlatformCollector, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from skilder_keys.app.authorization.authorizer import Authorizer
    from skilder_keys.app.authorization.memory import Memory
    from skilder_keys.app.authorization.turns import Gates
    from skilder_keys.app.fence.lease import Lease
    from skilder_keys.app.fence.reader import Reader
    from skilder_keys.app.unused_keys import UnusedKeys
    from skilder_keys.rpc.pipeline import Pipeline

Labels = TypeVar("Labels", bound=tuple[str, ...])

_WAIT_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


def new_registry() -> CollectorRegistry:
    """Return a registry for this process, with the metrics that every Python process has."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def writer_waits(registry: CollectorRegistry) -> Histogram:
    """Return the histogram of the seconds that changes waited for the readers."""
    return Histogram(
        "skilder_keys_writer_wait_seconds",
        "Time that a change waited after its commit until every process had applied it.",
        buckets=_WAIT_BUCKETS,
        registry=registry,
    )


class WorkerCollector(Collector):
    """Reads counts that other objects keep as plain numbers, so that metrics cost a call almost nothing."""

    def __init__(
        self,
        reader: Reader,
        lease: Lease,
        memory: Memory,
        authorizer: Authorizer,
        pipeline: Pipeline,
        first_sights: Gates,
        unused: UnusedKeys,
    ) -> None:
        self._reader = reader
        self._lease = lease
        self._memory = memory
        self._authorizer = authorizer
        self._pipeline = pipeline
        self._first_sights = first_sights
        self._unused = unused

    def collect(self) -> Iterator[Metric]:
        """Return the current value of every metric."""
        reader = self._reader
        mode = GaugeMetricFamily("skilder_keys_mode", "1 for the current mode of Authorize, else 0.", labels=["mode"])
        for each in ("cached", "direct", "unavailable"):
            mode.add_metric([each], each == reader.mode)
        yield mode
        yield _gauge("lease_age_seconds", "Time since the lease was requested; +Inf without one.", self._lease.age())
        yield _gauge("epoch", "The last change that memory has applied.", self._lease.epoch)
        yield _gauge("epoch_lag", "Changes that are known but not applied yet.", reader.known - self._lease.epoch)
        memory = self._memory
        yield _gauge("cached_keys", "Keys in memory.", memory.key_count)
        yield _gauge("cached_workspaces", "Workspaces in memory.", memory.workspace_count)
        yield _gauge("cached_workspaces_bytes", "Estimate of the memory that workspaces take.", memory.workspace_bytes)
        evicted = memory.evicted_workspaces
        yield _counter("workspaces_evicted", "Workspaces dropped from memory to make room for others.", {(): evicted})
        yield _counter("cache_hits", "Tokens decided from memory.", {(): memory.hits})
        yield _counter("cache_misses", "Tokens that were not in memory.", {(): memory.misses})
        waiting = self._first_sights.waiting
        yield _gauge("first_sights_waiting", "Tokens not in memory that wait to be looked up.", waiting)
        refused = self._first_sights.refused
        yield _counter("first_sights_refused", "Tokens not in memory that were refused as BUSY.", {(): refused})
        revoked = self._unused.revoked
        yield _counter("unused_keys_revoked", "Keys revoked because nobody used them.", {(): revoked})
        runs = {(outcome,): number for outcome, number in self._unused.runs.items()}
        yield _counter("unused_keys_runs", "Searches for unused keys, by outcome.", runs, "outcome")
        denials = {(reason.name,): number for reason, number in self._authorizer.denials.items()}
        yield _counter("denials", "Tokens denied, by reason.", denials, "reason")
        yield _counter("calls", "Calls, by method and status code.", self._pipeline.calls, "method", "code")


def _gauge(name: str, documentation: str, value: float) -> Metric:
    return GaugeMetricFamily(f"skilder_keys_{name}", documentation, value=value)


def _counter(name: str, documentation: str, values: Mapping[Labels, int], *labels: str) -> Metric:
    family = CounterMetricFamily(f"skilder_keys_{name}", documentation, labels=labels)
    for of_labels, value in values.items():
        family.add_metric(of_labels, value)
    return family
