"""Metrics for Prometheus: what a worker tells of itself, and the endpoint at which the parent tells of all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from service.endpoint import Response
from service.endpoint import endpoint as serving

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from contextlib import AbstractAsyncContextManager


class Family(TypedDict):
    """The samples of one name, as they go from a worker to its parent; each has a name, labels and a value."""

    name: str
    documentation: str
    type: str
    unit: str
    samples: list[tuple[str, dict[str, str], float]]


def new_registry() -> CollectorRegistry:
    """Answers a registry of this process's own, which holds what there is to say of any process."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    PlatformCollector(registry=registry)
    return registry


def told(metrics: Iterable[Metric]) -> list[Family]:
    """Answers metrics in the form in which a worker tells them."""
    return [
        {
            "name": metric.name,
            "documentation": metric.documentation,
            "type": metric.type,
            "unit": metric.unit,
            "samples": [(each.name, dict(each.labels), each.value) for each in metric.samples],
        }
        for metric in metrics
    ]


def merged(by_worker: Mapping[str, Iterable[Family]]) -> list[Metric]:
    """Answers the families of all workers, each sample with the label `worker`."""
    found: dict[str, Metric] = {}
    for worker, families in by_worker.items():
        for each in families:
            metric = found.setdefault(
                each["name"], Metric(each["name"], each["documentation"], each["type"], each["unit"])
            )
            # While workers are replaced by those of another version, a name may have two types: Prometheus takes one.
            if metric.type == each["type"]:
                for name, labels, value in each["samples"]:
                    metric.add_sample(name, {**labels, "worker": worker}, value)
    return list(found.values())


def endpoint(
    address: str | None, collect: Callable[[], Awaitable[list[Metric]]]
) -> AbstractAsyncContextManager[str | None]:
    """Serve metrics on HOST:PORT, as `service.endpoint` serves."""

    async def scrape() -> Response:
        return Response(generate_latest(_Collected(await collect())), content_type=CONTENT_TYPE_PLAIN_0_0_4)

    return serving(address, "metrics", {"/metrics": scrape, "/": scrape})


class _Collected(Collector):
    """What was collected before, in the form in which the library asks for it."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> list[Metric]:
        """Answers it."""
        return self._metrics
