"""The lease: the time for which a process may decide from memory."""

from __future__ import annotations

import asyncio
import math
import time

import pytest

from skilder_keys.app.fence.lease import Lease
from skilder_keys.domain.revision import Revision
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


def _held() -> tuple[Lease, FakeClock, list[int]]:
    """Return a lease at epoch 5, its clock, and a list that gets the epoch at each wake."""
    clock, woken = FakeClock(100.0), list[int]()
    lease = Lease(clock)
    lease.renew(100.0, 102.0)
    lease.advance(Revision(5, 0))
    lease.wake = lambda: woken.append(lease.epoch)
    return lease, clock, woken


async def test_an_epoch_that_was_applied_is_reached_at_once() -> None:
    """Without waking the reader."""
    lease, _, woken = _held()
    assert await lease.reach(5)
    assert woken == []


async def test_whoever_needs_a_later_epoch_wakes_the_reader_and_waits() -> None:
    """Until it has applied that epoch, with one step or several."""
    lease, _, woken = _held()
    tasks = [asyncio.create_task(lease.reach(epoch)) for epoch in (6, 7)]
    await asyncio.sleep(0)
    assert woken == [5, 5]
    lease.advance(Revision(6, 0))
    assert await tasks[0]
    assert not tasks[1].done()
    lease.advance(Revision(7, 0))
    assert await tasks[1]


@pytest.mark.parametrize("how", ["end", "doubt", "end and renew", "clock"])
async def test_no_epoch_is_reached_without_the_lease(how: str) -> None:
    """Not even if there is another lease by then: what was loaded under the first one may be lost."""
    lease, clock, _ = _held()
    task = asyncio.create_task(lease.reach(6))
    await asyncio.sleep(0)
    if how == "clock":
        clock.now = 102.0
    elif how == "doubt":
        lease.doubt()
    else:
        lease.end()
    if how == "end and renew":
        lease.renew(100.0, 102.0)
    lease.advance(Revision(6, 0))
    assert not await task


async def test_a_lease_that_runs_out_ends_the_wait() -> None:
    """Even if the reader never looks again."""
    lease = Lease(time.monotonic)
    lease.renew(time.monotonic(), time.monotonic() + 0.05)
    assert not await lease.reach(1)
    assert not lease.valid()


@pytest.mark.parametrize("how", ["end", "doubt"])
async def test_a_lease_that_is_ended_ends_the_wait(how: str) -> None:
    """At once, though its time would go on."""
    lease, _, _ = _held()
    task = asyncio.create_task(lease.reach(6))
    await asyncio.sleep(0)
    getattr(lease, how)()
    async with asyncio.timeout(1):
        assert not await task


def test_a_doubted_lease_is_not_renewed() -> None:
    """Until the reader, which is woken for that, has registered anew."""
    lease, clock, woken = _held()
    lease.doubt()
    assert woken == [5]
    lease.renew(clock.now, clock.now + 2)
    assert not lease.valid()
    lease.doubted = False
    lease.renew(clock.now, clock.now + 2)
    assert lease.valid()
