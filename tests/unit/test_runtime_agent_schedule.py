"""When the runtime agent rotates, and when it tries again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skilder_keys.cli.runtime_agent.schedule import Life, pause

DAY = 86400.0
ISSUED = datetime(2026, 11, 26, 9, tzinfo=UTC)
KEY_ID = UUID(int=int(ISSUED.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62)
EXPIRES = ISSUED + timedelta(days=30)


def dice(seed: int = 1) -> Random:
    """Return repeatable chance."""
    return Random(seed)  # noqa: S311 - no secret


@given(length=st.floats(1, 3650 * DAY), begin=st.floats(0, 1e9), seed=st.integers(0, 1000))
def test_a_third_of_a_life_is_left_at_a_rotation(length: float, begin: float, seed: int) -> None:
    """At least, and not more than a tenth of it sooner."""
    life = Life.new(length, begin, dice(seed))
    assert life.end == begin + length
    assert 0.56 * length < life.due - begin < 0.67 * length
    assert 0 < life.look <= 60


def test_runtimes_that_were_started_together_rotate_apart() -> None:
    """Within three days for keys of thirty."""
    due = sorted(Life.new(30 * DAY, 0, dice(seed)).due for seed in range(100))
    assert due[-1] - due[0] > 2 * DAY


@pytest.mark.parametrize(("passed", "left"), [(0, 30), (5, 25), (19, 11), (29, 1)])
def test_a_key_that_was_found_is_as_old_as_its_id_says(passed: int, left: int) -> None:
    """So a restart does not rotate it too early or too late."""
    wall = (ISSUED + timedelta(days=passed)).timestamp()
    life = Life.found(KEY_ID, EXPIRES, 1000.0, wall, dice())
    assert life.end == pytest.approx(1000 + left * DAY)
    assert (life.due <= 1000) == (passed > 20)


@pytest.mark.parametrize("days", [-3000, -3, 31, 3000])
def test_a_clock_that_cannot_be_right_makes_a_key_due(days: int) -> None:
    """Before the key was issued, or after the end of a key that the service has just accepted."""
    wall = (ISSUED + timedelta(days=days)).timestamp()
    assert Life.found(KEY_ID, EXPIRES, 1000.0, wall, dice()).due == 1000


def test_a_clock_that_is_a_few_seconds_behind_is_right_enough() -> None:
    """The database's clock made the id."""
    life = Life.found(KEY_ID, EXPIRES, 1000.0, (ISSUED - timedelta(seconds=5)).timestamp(), dice())
    assert life.due > 1000 + 15 * DAY


def test_a_key_without_an_expiry_is_due() -> None:
    """Its successor has one."""
    life = Life.found(KEY_ID, None, 1000.0, ISSUED.timestamp(), dice())
    assert (life.due, life.end) == (1000, float("inf"))


def test_an_end_that_was_moved_moves_the_rotation() -> None:
    """A sooner one does; a later one only leaves more."""
    life = Life.new(30 * DAY, 0, dice())
    sooner, later = life.moved(-20 * DAY), life.moved(20 * DAY)
    assert (sooner.end, later.end) == (10 * DAY, 50 * DAY)
    assert sooner.due <= 10 * DAY - 10 / 3 * DAY + 1
    assert later.due == life.due


def test_pauses_grow_to_a_minute_and_half_of_each_is_chance() -> None:
    """So a service that comes back is not called by all at the same moment."""
    longest = [1, 2, 4, 8, 16, 32, 60, 60]
    for failures, most in enumerate(longest, 1):
        pauses = [pause(failures, float("inf"), dice(seed)) for seed in range(200)]
        assert most / 2 <= min(pauses) < most * 0.55
        assert most * 0.95 < max(pauses) <= most
    assert pause(10**6, 0, dice()) <= 60


def test_pauses_are_shorter_near_the_end_of_the_key() -> None:
    """Several tries are left, but never so many that they are a load."""
    assert pause(9, 80.0, dice()) <= 10
    assert pause(9, 0.001, dice()) == 0.05
    assert pause(9, -5.0, dice()) >= 30
