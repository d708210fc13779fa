"""The histogram of the durations of calls."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import TYPE_CHECKING

from skilder_keys.domain.access import RUNTIME_PREFIX, Caller, CallerRole
from skilder_keys.rpc import call_metrics
from skilder_keys.rpc.call_metrics import BOUNDS, CallMetrics, Latency, caller_label, label_of

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
    found = {(method, code): sum(numbers) for method, code, numbers, _ in calls}
    assert found == {("KeyService/GetKey", "OK"): 2, ("KeyService/GetKey", "RESOURCE_EXHAUSTED"): 1}
    assert calls.refused == 1


def test_calls_are_counted_by_caller_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all methods and codes; those of unknown callers are left out, but not by method."""
    monkeypatch.setattr(call_metrics, "perf_counter", lambda: _BEGAN + 0.002)
    calls = CallMetrics()
    for method, code, caller in (
        ("KeyService/GetKey", "OK", "console"),
        ("KeyService/GetKey", "NOT_FOUND", "console"),
        ("KeyService/GetKey", "OK", "gateway"),
        ("KeyService/GetKey", "UNAUTHENTICATED", ""),
    ):
        calls.latency(method, code, caller).note_since(_BEGAN)
    found = {caller: (count, round(seconds, 6)) for caller, (count, seconds) in calls.by_caller().items()}
    assert found == {"console": (2, 0.004), "gateway": (1, 0.002)}
    sums = {(method, code): (numbers[2], round(seconds, 6)) for method, code, numbers, seconds in calls}
    assert sums == {
        ("KeyService/GetKey", "OK"): (2, 0.004),
        ("KeyService/GetKey", "NOT_FOUND"): (1, 0.002),
        ("KeyService/GetKey", "UNAUTHENTICATED"): (1, 0.002),
    }


def test_all_runtime_instances_have_one_label() -> None:
    """There may be very many of them."""
    assert caller_label(Caller("gateway", CallerRole.SERVICE)) == "gateway"
    assert caller_label(Caller(f"{RUNTIME_PREFIX}r-1", CallerRole.RUNTIME)) == "runtime:*"


def test_a_label_has_no_package() -> None:
    """As in the log."""
    assert label_of("/grpc.health.v1.Health/Check") == "Health/Check"
