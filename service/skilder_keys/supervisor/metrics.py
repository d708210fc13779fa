"""Metrics for Prometheus: one endpoint of the parent serves the merged metrics of all workers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from skilder_keys.supervisor.http_endpoint import Response, http_endpoint

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager

    from skilder_keys.ipc.metrics import Family


def merge(by_worker: Mapping[str, Iterable[Family]]) -> list[Metric]:
    """Return the metrics of all workers, each sample with the label `worker`."""
    found: dict[str, Metric] = {}
    for worker, families in by_worker.items():
        for each in families:
            metric = found.setdefault(
                each["name"], Metric(each["name"], each["documentation"], each["type"], each["unit"])
            )
            # During an upgrade, two versions may give a metric different types. Prometheus accepts only one of them.
            if metric.type == each["type"]:
                for name, labels, value in each["samples"]:
                    metric.add_sample(name, {**labels, "worker": worker}, value)
    return list(found.values())


def metrics_endpoint(
    address: str | None, collect: Callable[[], Awaitable[list[Metric]]]
) -> AbstractAsyncContextManager[str | None]:
    """Serve metrics on HOST:PORT, as `http_endpoint` does."""

    async def scrape() -> Response:
        return Response(generate_latest(_Collected(await collect())), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    return http_endpoint(address, "metrics", {"/metrics": scrape, "/": scrape})


class _Collected(Collector):
    """Metrics that were collected before, as a collector, which is the form that the library accepts."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        """Return the metrics."""
        return self._metrics
