"""The turns of first sights: in order of lanes, bounded, and refused with a time to wait where the wait is too long."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import pytest

from skilder_keys.app.authorization.first_sights import FirstSights
from skilder_keys.domain.errors import BusyError
from tests.support.clock import FakeClock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from skilder_keys.app.authorization.first_sights import Patience
    from skilder_keys.app.authorization.lanes import Lane

AT_ONCE = 64
BOUND = 750


class Loads:
    """Loads that end when the test says so."""

    def __init__(self, first_sights: FirstSights) -> None:
        self.begun: list[str] = []
        self._first_sights = first_sights
        self._ends: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    def add(self, names: Iterable[str], lane: Callable[[], Lane] | None = None) -> None:
        """Begin loads, each in a lane of its own, or all in one."""
        for name in names:
            self._ends[name] = asyncio.Event()
            self._tasks[name] = asyncio.create_task(self._run(name, lane() if lane else self._first_sights.lane(name)))

    async def end(self, *names: str) -> None:
        """End loads that have begun, and let others begin."""
        for name in names:
            self._ends[name].set()
        await asyncio.gather(*(self._tasks.pop(name) for name in names))
        await asyncio.sleep(0)

    async def give_up(self, name: str) -> None:
        """Cancel a load."""
        self._tasks[name].cancel()
        await asyncio.gather(self._tasks.pop(name), return_exceptions=True)

    async def end_all(self) -> None:
        """End the loads that remain."""
        while self._tasks:
            await self.end(next(name for name in self.begun if name in self._tasks))

    async def _run(self, name: str, lane: Lane) -> None:
        async with lane:
            self.begun.append(name)
            await self._ends[name].wait()


@pytest.fixture
def clock() -> FakeClock:
    """A clock that the test moves."""
    return FakeClock()


@pytest.fixture
def first_sights(clock: FakeClock) -> FirstSights:
    """First sights of which 750 calls may wait, for a second."""
    return FirstSights(clock, BOUND, at_once=AT_ONCE)


def names(word: str, count: int) -> list[str]:
    """Return names of loads."""
    return [f"{word}{number}" for number in range(count)]


async def busy(first_sights: FirstSights) -> Loads:
    """Return loads that take all places."""
    loads = Loads(first_sights)
    loads.add(names("first", AT_ONCE))
    await asyncio.sleep(0)
    assert len(loads.begun) == AT_ONCE
    return loads


async def test_only_some_run_at_a_time_and_the_others_follow_in_order(first_sights: FirstSights) -> None:
    """A place that becomes free is taken at once."""
    loads = await busy(first_sights)
    loads.add(names("next", 3))
    await asyncio.sleep(0)
    assert first_sights.waiting == 3
    assert len(loads.begun) == AT_ONCE
    await loads.end("first5")
    assert loads.begun[AT_ONCE:] == ["next0"]
    await loads.end("first7", "next0")
    assert loads.begun[AT_ONCE:] == ["next0", "next1", "next2"]
    assert first_sights.waiting == 0
    await loads.end_all()


async def test_a_single_call_does_not_wait_for_a_whole_batch(first_sights: FirstSights) -> None:
    """Lanes take turns."""
    loads = await busy(first_sights)
    with first_sights.batch(100) as lane:
        loads.add(names("batch", 100), lambda: lane)
        await asyncio.sleep(0)
        loads.add(["single"])
        await asyncio.sleep(0)
        await loads.end("first0", "first1", "first2")
        assert loads.begun[AT_ONCE:] == ["batch0", "single", "batch1"]
        await loads.end_all()
    assert len(loads.begun) == AT_ONCE + 101


async def test_a_flood_for_one_key_takes_turns_with_other_keys(first_sights: FirstSights) -> None:
    """And the more of it wait, the longer it takes until one more has its turn."""
    loads = Loads(first_sights)
    loads.add(names("flood", AT_ONCE + 600), lambda: first_sights.lane("flooded"))
    await asyncio.sleep(0)
    loads.add(["other", "third"])
    await asyncio.sleep(0)
    await loads.end("flood0", "flood1", "flood2", "flood3")
    assert loads.begun[AT_ONCE:] == [f"flood{AT_ONCE}", "other", "third", f"flood{AT_ONCE + 1}"]
    await loads.end_all()


async def test_a_flood_of_one_caller_takes_turns_with_other_callers(first_sights: FirstSights) -> None:
    """However many keys it is about. Neither its singles nor its batches make others wait, or be refused."""
    loads = Loads(first_sights)
    with first_sights.batch(1000, "flooder") as lane:
        loads.add(names("batch", AT_ONCE + 600), lambda: lane)
        for name in names("flood", 200):
            loads.add([name], partial(first_sights.lane, name, "flooder"))
        await asyncio.sleep(0)
        left: Patience = lambda: 0.005  # noqa: E731 - a short form
        with pytest.raises(BusyError):
            first_sights.lane("more", "flooder", left)
        for name in ("other", "third"):
            loads.add([name], lambda: first_sights.lane("a key", "another", left))
        await asyncio.sleep(0)
        await loads.end(*names("batch", 4))
        assert loads.begun[AT_ONCE:] == [f"batch{AT_ONCE}", "other", "flood0", "third"]
        await loads.end_all()


async def test_a_call_that_would_wait_too_long_is_refused_at_once(first_sights: FirstSights, clock: FakeClock) -> None:
    """By the pace of the last moments; the retry delay is about as long as the wait."""
    loads = await busy(first_sights)
    loads.add(names("next", 300))
    await asyncio.sleep(0)
    first_sights.lane("another")
    clock.now += 20 * AT_ONCE / 1000  # twenty milliseconds a load
    await loads.end(*names("first", AT_ONCE))
    assert first_sights.waiting == 300 - AT_ONCE
    with pytest.raises(BusyError) as caught:
        first_sights.lane("another")
    assert caught.value.retry_after is not None
    assert 1 <= caught.value.retry_after.total_seconds() <= 15
    assert first_sights.refused == 1
    await loads.end_all()
    first_sights.lane("another")


async def test_a_call_is_refused_if_its_caller_would_give_up_before(
    first_sights: FirstSights, clock: FakeClock
) -> None:
    """Only then: not if it has time enough, and not if it need not wait."""
    first_sights.lane("another", patience=lambda: 0.0)
    loads = await busy(first_sights)
    loads.add(names("next", 100))
    await asyncio.sleep(0)
    clock.now += 4 * AT_ONCE / 1000  # four milliseconds a load
    await loads.end(*names("first", AT_ONCE))
    assert first_sights.waiting == 100 - AT_ONCE
    first_sights.lane("another", patience=lambda: 0.5)
    first_sights.lane("another", patience=lambda: None)
    with pytest.raises(BusyError):
        first_sights.lane("another", patience=lambda: 0.05)
    with first_sights.batch(1, patience=lambda: 0.5), first_sights.batch(1, patience=lambda: None):
        pass
    with pytest.raises(BusyError), first_sights.batch(1, patience=lambda: 0.05):
        pass
    assert first_sights.refused == 2
    await loads.end_all()


async def test_the_more_a_call_has_to_load_the_earlier_it_is_refused(first_sights: FirstSights) -> None:
    """A batch waits for all that wait before it; a single call only for one load of each lane. A batch counts whole."""
    loads = await busy(first_sights)
    with first_sights.batch(1000) as lane, first_sights.batch(1000) as other:
        loads.add(names("batch", 1000), lambda: lane)
        await asyncio.sleep(0)
        loads.add(names("other", 10), lambda: other)
        await asyncio.sleep(0)
        with pytest.raises(BusyError), first_sights.batch(1000):
            pass
        assert first_sights.refused == 1000
        loads.add(["single"])
        await loads.end_all()
    assert len(loads.begun) == AT_ONCE + 1011


async def test_batches_that_come_together_are_counted_before_their_loads_begin(first_sights: FirstSights) -> None:
    """Each counts whole from its admission to its end, whatever became of its loads."""
    with first_sights.batch(1000), first_sights.batch(1000):
        with pytest.raises(BusyError), first_sights.batch(1000):
            pass
        with pytest.raises(BusyError), first_sights.batch(1000, "another caller"):
            pass
        first_sights.lane("single")
    with first_sights.batch(1000):
        pass


async def test_a_standstill_refuses_more_and_more(first_sights: FirstSights, clock: FakeClock) -> None:
    """If no load ends, as when the database hangs, nobody joins those that wait."""
    loads = await busy(first_sights)
    loads.add(names("next", 100))
    await asyncio.sleep(0)
    first_sights.lane("another")
    clock.now += 5
    with pytest.raises(BusyError):
        first_sights.lane("another")
    await loads.end_all()


async def test_the_number_of_calls_that_wait_is_bounded(clock: FakeClock) -> None:
    """However fast it goes, so that calls about known keys find a place. One caller does not get all places."""
    first_sights = FirstSights(clock, 10, at_once=AT_ONCE)
    loads = await busy(first_sights)
    for caller, expected in (("one", 9), ("two", 10)):
        for number in range(expected - first_sights.waiting):
            loads.add([f"{caller}{number}"], partial(first_sights.lane, number, caller))
            await asyncio.sleep(0)
        with pytest.raises(BusyError):
            first_sights.lane("another", caller)
    await loads.end_all()


async def test_the_bound_holds_for_calls_that_come_at_the_same_moment(clock: FakeClock) -> None:
    """They are all admitted, since nobody waits then. Those that find no place when they begin are refused."""
    first_sights = FirstSights(clock, 10, at_once=AT_ONCE)
    lanes = [first_sights.lane(number) for number in range(AT_ONCE + 20)]
    loads = Loads(first_sights)
    for number, lane in enumerate(lanes):
        loads.add([str(number)], partial(next, iter([lane])))
    await asyncio.sleep(0)
    assert first_sights.waiting == 9
    assert first_sights.refused == 11
    for number in range(AT_ONCE + 9, AT_ONCE + 20):
        with pytest.raises(BusyError):
            await loads.end(str(number))
    await loads.end_all()


async def test_idle_time_is_not_taken_for_a_slow_pace(first_sights: FirstSights, clock: FakeClock) -> None:
    """Loads that come one by one say nothing about how many could be done."""
    loads = Loads(first_sights)
    for name in names("lonely", 3 * AT_ONCE):
        loads.add([name])
        await asyncio.sleep(0)
        clock.now += 60
        await loads.end(name)
    loads.add(names("crowd", AT_ONCE + 500))
    await asyncio.sleep(0)
    first_sights.lane("another")
    await loads.end_all()


async def test_the_turn_of_a_call_that_was_given_up_is_skipped(first_sights: FirstSights) -> None:
    """Whether it still waited or had its turn just before; no place is lost."""
    loads = await busy(first_sights)
    loads.add(names("next", 3))
    await asyncio.sleep(0)
    await loads.give_up("next0")
    await loads.end("first0")
    assert loads.begun[AT_ONCE:] == ["next1"]
    await loads.give_up("next1")
    await asyncio.sleep(0)
    assert loads.begun[AT_ONCE:] == ["next1", "next2"]
    await loads.end_all()
    again = await busy(first_sights)
    await again.end_all()
