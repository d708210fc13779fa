"""Decisions are counted by minute and kind, within bounds."""

from __future__ import annotations

import tracemalloc
from uuid import UUID

import pytest

from skilder_keys.app.activity.counter import MAX_HINTS, ActivityCounter
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.token import KeyType, Token, hint
from tests.support.clock import FakeClock

_BOOTED = 1_700_000_000.0
"""What the database's clock shows when that of the process shows 0."""
_MINUTE = int(_BOOTED + 1000) // 60
KEY, OTHER = (KeyId(UUID(int=number)) for number in (1, 2))


@pytest.fixture
def clock() -> FakeClock:
    """The clock of the process."""
    return FakeClock(1000.0)


def counter_with(clock: FakeClock, budget: int = 1000, max_cells: int = 1000) -> ActivityCounter:
    """Return a counter that knows the time of the database."""
    made = ActivityCounter(clock, budget, max_cells)
    made.set_time(_BOOTED + clock(), clock())
    return made


def taken(counter: ActivityCounter) -> dict[tuple[int, object], tuple[int, str]]:
    """Take what was counted: the count and the source by minute and place."""
    return {
        (minute.number, place): (cell.count, cell.source)
        for minute in counter.take()
        for place, cell in minute.cells.items()
    }


def test_kinds_are_told_apart(clock: FakeClock) -> None:
    """By key, tool, caller and outcome. The last source counts, and a call without one keeps it."""
    counter = counter_with(clock)
    for tool, caller, outcome, source in (
        ("search", "gateway", 0, "10.0.0.1"),
        ("search", "gateway", 0, "10.0.0.2"),
        ("search", "gateway", 0, ""),
        ("", "gateway", 0, ""),
        ("search", "other", 0, ""),
        ("search", "gateway", 6, ""),
        (None, "gateway", 6, ""),
    ):
        counter.count(KEY, tool, caller, outcome, source, clock())
    counter.count(OTHER, "search", "gateway", 0, "", clock())
    assert taken(counter) == {
        (_MINUTE, (1, "search", "gateway", 0)): (3, "10.0.0.2"),
        (_MINUTE, (1, "", "gateway", 0)): (1, ""),
        (_MINUTE, (1, "search", "other", 0)): (1, ""),
        (_MINUTE, (1, "search", "gateway", 6)): (1, ""),
        (_MINUTE, (1, None, "gateway", 6)): (1, ""),
        (_MINUTE, (2, "search", "gateway", 0)): (1, ""),
    }
    assert taken(counter) == {}


def test_minutes_are_those_of_the_database(clock: FakeClock) -> None:
    """A call in the last moment of a minute is in it, and the next begins on time, also after the clock was set."""
    counter = counter_with(clock)
    end = (_MINUTE + 1) * 60 - _BOOTED
    for now in (end - 0.001, end, end + 59.999, end + 60):
        counter.count(KEY, "", "gateway", 0, "", now)
    assert {minute: count for (minute, _), (count, _) in taken(counter).items()} == {
        _MINUTE: 1,
        _MINUTE + 1: 2,
        _MINUTE + 2: 1,
    }
    counter.set_time(_BOOTED + end + 7200, end)
    counter.count(KEY, "", "gateway", 0, "", end + 120)
    assert [minute for minute, _ in taken(counter)] == [_MINUTE + 1 + 122]


def test_times_are_those_of_the_first_and_the_last_call(clock: FakeClock) -> None:
    """By the clock of the process, of which the begin of the minute is known."""
    counter = counter_with(clock)
    for now in (1000.0, 1001.5, 1003.25):
        counter.count(KEY, "", "gateway", 0, "", now)
    (minute,) = counter.take()
    (cell,) = minute.cells.values()
    assert (cell.first, cell.last) == (1000.0, 1003.25)
    assert _BOOTED + minute.began == _MINUTE * 60


def test_tools_beyond_the_budget_collapse(clock: FakeClock) -> None:
    """Of each key into one. What has a fact in this minute keeps it, and the next minute begins anew."""
    counter = counter_with(clock, budget=3)
    for tool in ("a", "b", "c", "d", "e", "a"):
        counter.count(KEY, tool, "gateway", 0, "", clock())
    counter.count(OTHER, "a", "gateway", 0, "", clock())
    assert {place[:2]: count for (_, place), (count, _) in taken(counter).items()} == {  # type: ignore[index]
        (1, "a"): 2,
        (1, "b"): 1,
        (1, "c"): 1,
        (1, None): 2,
        (2, None): 1,
    }
    assert counter.collapsed == 3
    counter.count(KEY, "b", "gateway", 0, "", clock())
    counter.count(KEY, "d", "gateway", 0, "", clock())
    assert {place[1] for _, place in taken(counter)} == {"b", None}  # type: ignore[index]
    counter.count(KEY, "d", "gateway", 0, "", clock() + 60)
    assert {place[1] for _, place in taken(counter)} == {"d"}  # type: ignore[index]


def test_what_there_is_no_room_for_is_dropped(clock: FakeClock) -> None:
    """And counted as dropped. What has a cell goes on; room comes back when cells are in the journal."""
    counter = counter_with(clock, max_cells=2)
    for tool in ("a", "b", "c", "c", "a"):
        counter.count(KEY, tool, "gateway", 0, "", clock())
    assert counter.cells == 2
    assert counter.dropped == 2
    assert sum(count for count, _ in taken(counter).values()) == 3
    counter.count(KEY, "a", "gateway", 0, "", clock())
    assert (counter.dropped, counter.cells) == (3, 2)
    counter.release(2)
    counter.count(KEY, "c", "gateway", 0, "", clock())
    assert (counter.dropped, counter.cells) == (3, 1)


def test_what_stays_of_a_fact_is_small(clock: FakeClock) -> None:
    """Until the end of the minute: neither its cell, nor the text of the tool, which each call brings anew."""
    facts = 4000
    counter = counter_with(clock, budget=facts, max_cells=facts)
    keys = [KeyId(UUID(int=number)) for number in range(facts)]
    tracemalloc.start()
    try:
        for key in keys:
            counter.count(key, b"slack.slack_post_message".decode(), "gateway", 0, "", clock())
        assert sum(len(minute.cells) for minute in counter.take()) == facts
        bytes_left, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counter.facts == facts
    assert bytes_left < 120 * facts


def test_hints_are_bounded(clock: FakeClock) -> None:
    """Anybody can make well-formed tokens up. A text that is no token has no hint."""
    counter = counter_with(clock)
    tokens = [Token.mint(KeyType.USER, KeyId(UUID(int=number << 64))) for number in range(MAX_HINTS + 5)]
    for token in (*tokens, tokens[0]):
        counter.count_unproven(token.reveal(), "gateway", 2, "", clock())
    counter.count_unproven("nonsense", "gateway", 1, "10.0.0.1", clock())
    found = {place: value for (_, place), value in taken(counter).items()}
    assert len(found) == MAX_HINTS + 2
    assert found[None, hint(KeyType.USER, tokens[0].key_id), "gateway", 2] == (2, "")
    assert found[None, "", "gateway", 2] == (5, "")
    assert found[None, "", "gateway", 1] == (1, "10.0.0.1")
