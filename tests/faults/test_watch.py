"""A run goes on while it has too few calls, and ends early where enough violations were found."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from faults.history import Recorder
from faults.run import RunOptions, Watch

if TYPE_CHECKING:
    from faults.run import Report


def watch(**options: Any) -> Watch:
    """Return the watch of a run whose time is over, with one decision from memory."""
    return Watch(RunOptions(seed=1, seconds=0, **options), Recorder(), Counter({"near 0": 1}), [])


async def test_a_run_goes_on_until_there_were_enough_calls() -> None:
    """What there was so far is judged again each time."""
    seen: list[int] = []

    def enough(report: Report) -> bool:
        seen.append(report.hits["near 0"])
        made.hits["near 0"] += 1
        return report.hits["near 0"] > 2

    made = watch(enough=enough)
    assert await made.wait()
    assert seen == [1, 2]


async def test_a_run_ends_after_enough_violations() -> None:
    """However few calls there were."""
    assert not await watch(enough=lambda _: False, until=lambda _: True).wait()


async def test_a_run_that_asks_for_no_number_of_calls_ends_in_time() -> None:
    """It has had its seconds."""
    assert await watch(until=lambda _: False).wait()
