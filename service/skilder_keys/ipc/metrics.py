"""The form in which a worker sends its metrics to its parent."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from prometheus_client.metrics_core import Metric


class Family(TypedDict):
    """One metric with its samples. Each sample is a name, its labels and a value."""

    name: str
    documentation: str
    type: str
    unit: str
    samples: list[tuple[str, dict[str, str], float]]


def families_of(metrics: Iterable[Metric]) -> list[Family]:
    """Return metrics in the form in which a worker sends them."""
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
