"""The histogram of the durations of calls."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

from skilder_keys.rpc import call_metrics
from skilder_keys.rpc.call_metrics import BOUNDS, CallMetrics, Latency, label_of

if TYPE_CHECKING:
    import pytest

_BEGAN = 1000.0


def test_each_duration_is_in_the_first_bucket_whose_bound_it_does_not_exceed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As `le` means in Prometheus: exactly a bound, just above it and just below it; also a clock that stands still."""
    durations = [0.0, 100.0]
    for bound in BOUNDS:
        durations += [bound, math.nextafter(bound, 0), math.nextafter(bound, 9)]
    for duration in durations:
        latency = Latency()
        monkeypatch.setattr(call_metrics, "perf_counter", lambda now=duration: now)
        latency.note_since(0.0)
        assert latency.counts.index(1) == bisect_left(BOUNDS, duration), duration
        assert (sum(latency.counts), latency.seconds) == (1, duration)


def test_a_histogram_has_at_most_twelve_buckets() -> None:
    """With the last one, for the calls that took longer."""
    assert len(Latency().counts) == len(BOUNDS) + 1 == 12
    assert list(BOUNDS) == sorted(BOUNDS)


def test_calls_are_counted_by_method_and_code() -> None:
    """A refused call is one that ended with RESOURCE_EXHAUSTED."""
    calls = CallMetrics()
    calls.latency("KeyService/GetKey", "OK").note_since(_BEGAN)
    calls.latency("KeyService/GetKey", "OK").note_since(_BEGAN)
    calls.refuse("/skilder.keys.v1.KeyService/GetKey")
    found = {(method, code): sum(latency.counts) for method, code, latency in calls}
    assert found == {("KeyService/GetKey", "OK"): 2, ("KeyService/GetKey", "RESOURCE_EXHAUSTED"): 1}
    assert calls.refused == 1


def test_a_label_has_no_package() -> None:
    """As in the log."""
    assert label_of("/grpc.health.v1.Health/Check") == "Health/Check"
