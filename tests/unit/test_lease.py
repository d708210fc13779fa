"""The lease: the time for which a process may decide from memory."""

from __future__ import annotations

import math

from skilder_keys.app.fence.lease import Lease
from tests.support.clock import FakeClock


def test_a_process_starts_without_a_lease() -> None:
    """Whatever its clock shows."""
    for now in (-5.0, 0.0, 1e9):
        lease = Lease(FakeClock(now))
        assert not lease.valid()
        assert lease.age() == math.inf


def test_a_lease_is_valid_before_its_end_and_not_at_its_end() -> None:
    """To the exact moment: a writer that waited that long need not wait any longer."""
    clock = FakeClock(100.0)
    lease = Lease(clock)
    lease.renew(100.0, 102.0)
    assert lease.valid()
    clock.now = math.nextafter(102.0, 0)
    assert lease.valid()
    clock.now = 102.0
    assert not lease.valid()
    clock.now = 103.0
    assert not lease.valid()


def test_a_lease_that_arrives_late_is_not_valid() -> None:
    """A response that took longer than the lease renews nothing, since the lease counts from the request."""
    clock = FakeClock(100.0)
    lease = Lease(clock)
    clock.now = 105.0
    lease.renew(100.0, 102.0)
    assert not lease.valid()
    assert lease.age() == 5.0


def test_a_renewed_lease_runs_from_its_own_start() -> None:
    """Its age counts from there as well."""
    clock = FakeClock(100.0)
    lease = Lease(clock)
    lease.renew(100.0, 102.0)
    clock.now = 101.0
    lease.renew(100.5, 102.5)
    assert lease.age() == 0.5
    clock.now = 102.25
    assert lease.valid()


def test_an_ended_lease_is_ended_at_once() -> None:
    """Until it is renewed."""
    clock = FakeClock(100.0)
    lease = Lease(clock)
    lease.renew(100.0, 102.0)
    lease.end()
    assert not lease.valid()
    assert lease.age() == math.inf
    lease.renew(100.0, 102.0)
    assert lease.valid()
