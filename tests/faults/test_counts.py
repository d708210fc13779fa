"""The comparison of counts: right ones pass, and what is missing or too much is found."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from faults.counts import GRANTED, UNPROVEN, Counted, Place, Writer, compare
from faults.history import Authorize, Denied, Failed, Granted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from faults.history import Outcome

SECOND = 10**9
YES, NO, LOST = Granted(frozenset()), Denied("REVOKED"), Failed("UNAVAILABLE")
HERE, DENIED, TOOL = Place("id", "", GRANTED), Place("id", "", "REVOKED"), Place("id", "tool", GRANTED)


def call(outcome: Outcome, begin: int = 0, tool: str = "") -> Authorize:
    """Return a call of a tenth of a second that began at a second."""
    begin *= SECOND
    return Authorize(key="k", token=1, tool=tool, begin=begin, end=begin + SECOND // 10, outcome=outcome)


def findings(calls: list[Authorize], counts: Mapping[Place, int], *losses: tuple[int, int, int]) -> list[str]:
    """Return what is wrong.

    Each loss is a worker: until when it had written its counts, when it was seen, and when it was killed, in seconds.
    """
    writers = [Writer(until * SECOND, seen * SECOND) for until, seen, _ in losses]
    return compare(calls, {"k": "id"}, Counted(counts, writers, [end * SECOND for _, _, end in losses])).findings


def test_each_call_counts_once() -> None:
    """By its key, tool and outcome; a token that proves no key by its outcome."""
    calls = [call(YES), call(YES), call(YES, tool="tool"), call(NO), call(Denied("UNKNOWN"), tool="tool")]
    right = {HERE: 2, TOOL: 1, DENIED: 1, Place(UNPROVEN, "", "UNKNOWN"): 1}
    assert findings(calls, right) == []
    for place, count in right.items():
        for wrong in (0, count - 1, count + 1):
            assert findings(calls, {**right, place: wrong}), (place, wrong)
    assert findings(calls, {**right, Place("id", "", "EXPIRED"): 1})
    assert findings(calls, {**right, Place("operator", "", GRANTED): 1})


def test_a_call_without_a_response_counts_once_or_not_at_all() -> None:
    """With any outcome, but with one only."""
    calls = [call(YES), call(LOST)]
    for counts in ({HERE: 1}, {HERE: 2}, {HERE: 1, DENIED: 1}, {HERE: 1, Place(UNPROVEN, "", "UNKNOWN"): 1}):
        assert findings(calls, counts) == []
    for counts in ({HERE: 3}, {HERE: 2, DENIED: 1}, {HERE: 1, DENIED: 2}, {HERE: 1, TOOL: 1}, {}):
        assert findings(calls, counts)
    assert findings(calls, {HERE: 2, Place(UNPROVEN, "", "UNKNOWN"): 1}) == ["all together: 3 counted, at most 2 made"]


def test_what_a_killed_worker_had_not_written_may_be_missing() -> None:
    """From what it had written on to its end, and no more."""
    calls = [call(YES, begin) for begin in (1, 3, 5, 7)]
    for counts in (2, 3, 4):
        assert findings(calls, {HERE: counts}, (2, 3, 6)) == []
    assert findings(calls, {HERE: 1}, (2, 3, 6))
    assert findings(calls, {HERE: 5}, (2, 3, 6))
    assert findings(calls, {HERE: 3}), "no worker was killed"


@pytest.mark.parametrize(("first", "second"), [(4, 9), (9, 4)])
def test_each_end_is_one_worker_s(first: int, second: int) -> None:
    """A worker that was seen after the first end has the second, so the other one has the first."""
    calls = [call(YES, begin) for begin in (1, 3, 5, 6, 8)]
    assert findings(calls, {HERE: 3}, (2, 3, first), (7, 8, second)) == [], "those at 3 and 8 may be missing"
    assert findings(calls, {HERE: 2}, (2, 3, first), (7, 8, second))
    assert findings(calls, {HERE: 1}, (2, 3, first), (2, 3, second)) == [], "one of them may have had the second"


def test_a_worker_that_nobody_killed_loses_nothing() -> None:
    """It was to end in good order, and did not."""
    calls = [call(YES, begin) for begin in (1, 3)]
    written = Counted({HERE: 1}, [Writer(2 * SECOND, 2 * SECOND)])
    assert compare(calls, {"k": "id"}, written).findings
