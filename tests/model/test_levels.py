"""The two-level memory never mixes two states, nor returns an old one, and every known mistake makes it do so."""

from __future__ import annotations

import logging
from itertools import product
from typing import TYPE_CHECKING

import pytest

from tests.model.explore import explore, follow
from tests.model.levels.memory import TwoLevels
from tests.model.levels.mistakes import Mistake
from tests.model.levels.pieces import HATS, KEY, MEMBER, TOOLS, WORKSPACE
from tests.support.lengths import LONG, LONGEST, by_form

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

ALL = KEY | WORKSPACE


def unlike(changes: int) -> Iterator[tuple[int, ...]]:
    """Yield what this many changes can touch, without those that differ only in hats and tools being swapped."""
    for history in product(range(1, ALL + 1), repeat=changes):
        if history <= tuple(each & ~(HATS | TOOLS) | (each & HATS) << 1 | (each & TOOLS) >> 1 for each in history):
            yield history


# In these, one change overtakes what the other one has made necessary.
OVERTAKING = [(MEMBER, KEY | MEMBER), (MEMBER, KEY | HATS), (KEY | MEMBER, KEY | HATS), (MEMBER | HATS, KEY | TOOLS)]

# The short form visits the nearest states, and the long one all that one change can lead to, and more of two changes.
STATES_OF_ONE = by_form(1_500, None)
STATES_OF_TWO = by_form(6_000, 25_000, 60_000)
STATES_OF_ANY_TWO = 5_000 if LONGEST else 2_000

# Found with the smallest change that shows it. Most mistakes need the key and a part of the workspace in one change.
ONE_CHANGE: dict[Mistake, int] = {
    Mistake.READING_AN_OLDER_STATE: KEY,
    Mistake.KEEPING_AN_OVERTAKEN_KEY: KEY,
    Mistake.FILLING_A_TOUCHED_HOLE: MEMBER,
    Mistake.NOT_RAISING_THE_LABEL: KEY | MEMBER,
    Mistake.KEEPING_LOADS_BEGUN_WITHOUT_A_LEASE: KEY,
    Mistake.CUTTING_A_TRANSACTION: KEY | MEMBER,
    Mistake.MAKING_A_MEMBERS_HOLE_LATE: MEMBER,
    Mistake.IGNORING_A_MEMBER: MEMBER,
    Mistake.IGNORING_A_PART_BESIDE_ANOTHER: HATS | TOOLS,
    Mistake.LEAVING_A_KEY_OPEN: KEY | MEMBER,
    Mistake.LEAVING_A_SNAPSHOT_OPEN: KEY | HATS,
    Mistake.CLOSING_AT_THE_CHANGE: KEY | MEMBER,
    Mistake.SHARING_THE_MEMBERS: MEMBER | HATS,
    Mistake.EVICTING_WITHOUT_CLOSING: KEY | MEMBER,
    Mistake.LEAVING_OPEN_WHAT_IS_NOT_KEPT: KEY | MEMBER,
    Mistake.DROPPING_WITHOUT_CLOSING: KEY | MEMBER,
    Mistake.KEEPING_KEYS_OF_A_LOST_ROW: KEY,
    Mistake.KEEPING_SNAPSHOTS_OF_A_LOST_ROW: MEMBER,
    Mistake.KEEPING_LOADS_OF_A_LOST_ROW: KEY,
    Mistake.ANSWERING_BY_OPEN_PIECES: KEY | MEMBER,
    Mistake.ANSWERING_BY_EACH_PIECE: KEY | MEMBER,
    Mistake.NOT_LOOKING_AGAIN: KEY,
    Mistake.NOT_LOOKING_AT_THE_BEGIN: KEY,
    Mistake.JOINING_AN_OVERTAKEN_LOAD: KEY,
    Mistake.COUNTING_OPEN_AS_INFINITE: KEY | MEMBER,
    Mistake.ANSWERING_WITHOUT_A_LEASE: KEY,
    Mistake.USING_ANOTHER_VERSION: MEMBER,
    Mistake.JOINING_KEY_LOADS_WITHOUT_A_LEASE: KEY,
}
TWO_CHANGES: dict[Mistake, tuple[int, int]] = {
    Mistake.KEEPING_A_STATE_AHEAD: (MEMBER, KEY | HATS),
    Mistake.FILLING_A_COPY_OF_THE_BASE: (MEMBER, KEY | HATS),
    Mistake.COMBINING_BY_THE_LOAD: (MEMBER, KEY | HATS),
    Mistake.COMBINING_WITH_AN_OPEN_END: (MEMBER, KEY | MEMBER),
}
# Found by its story alone: the way there is long, and two loads of parts are under way.
TOO_FAR = {Mistake.SETTING_THE_VERSION_BACK}

FULL = "of the member and hats and tools reads epoch 0"
LOADED = ["of the key reads epoch 0", "of the key is kept", FULL, "of parts is kept"]
VERSION_STORY = [
    *(FULL, "of parts is kept", "changes the member", "applies a change", "of the member reads epoch 1", "ends"),
    *("begins without a lease, and reads the key at epoch 1", "comes back", "changes the key and hats"),
    *("applies a change", "of the hats reads epoch 2", "of parts fills holes", "of parts fills holes"),
]


def values(levels: TwoLevels, story: Sequence[str]) -> set[tuple[int, ...]]:
    """Return the answers that can be given after a story: the values of the key, the member, the hats and tools."""
    return {tuple(value for _, value in answer) for state in follow(levels, story) for answer in levels.answers(state)}


def test_one_change_is_seen_whole_and_in_time() -> None:
    """Whatever it touches: every answer is by one state, and not by an older one than what had returned."""
    states = 0
    for history in unlike(1):
        found = explore(TwoLevels(history), STATES_OF_ONE)
        assert not found.trace, (history, *found.trace)
        states += found.states
    logging.getLogger(__name__).info("%d states", states)
    assert states > by_form(15_000, 40_000)


@pytest.mark.parametrize("history", OVERTAKING)
@pytest.mark.parametrize("needed", [ALL, KEY | HATS])
def test_two_changes_are_seen_whole_and_in_time(history: tuple[int, int], needed: int) -> None:
    """Also by a call that depends on some of the parts only."""
    found = explore(TwoLevels(history, needed=needed), STATES_OF_TWO)
    assert not found.trace, "\n".join(found.trace)
    assert found.states > STATES_OF_TWO


@pytest.mark.skipif(not LONG, reason="needs a minute or two: set SKILDER_KEYS_TEST_LONG=1")
@pytest.mark.parametrize("loads", [1, 2])
@pytest.mark.long
def test_any_two_changes_are_seen_whole_and_in_time(loads: int) -> None:
    """In the nearest states of every pair of changes."""
    for history in unlike(2):
        found = explore(TwoLevels(history, loads=loads), STATES_OF_ANY_TWO)
        assert not found.trace, (history, *found.trace)


@pytest.mark.parametrize(
    ("mistake", "history"),
    [*((mistake, (change,)) for mistake, change in ONE_CHANGE.items()), *TWO_CHANGES.items()],
)
def test_each_mistake_is_found(mistake: Mistake, history: tuple[int, ...]) -> None:
    """It mixes two states, or returns an old one."""
    found = explore(TwoLevels(history, mistake=mistake))
    logging.getLogger(__name__).info("%s: %d states, %d steps", mistake.name, found.states, len(found.trace))
    assert found.trace, f"{found.states} states, and the promise holds although {mistake.value}"


def test_no_mistake_is_left_out() -> None:
    """Every mistake is looked for."""
    assert {*ONE_CHANGE, *TWO_CHANGES, *TOO_FAR} == set(Mistake)


def test_a_version_is_not_set_back() -> None:
    """Else a call without a lease takes parts of a later state for those of its version."""
    history = (MEMBER, KEY | HATS)
    correct = TwoLevels(history, loads=2)
    mistaken = TwoLevels(history, loads=2, mistake=Mistake.SETTING_THE_VERSION_BACK)
    assert all(map(correct.promise_holds, follow(correct, VERSION_STORY)))
    assert not all(map(mistaken.promise_holds, follow(mistaken, VERSION_STORY)))


def test_memory_answers() -> None:
    """A model in which no call is answered would keep every promise."""
    assert values(TwoLevels([KEY]), [*LOADED, "begins"]) == {(0, 0, 0, 0)}


def test_a_filled_hole_answers_with_the_rest_of_the_snapshot() -> None:
    """One member changes, and only the member is loaded."""
    changed = [*LOADED, "changes the member", "applies a change", "begins"]
    levels = TwoLevels([MEMBER])
    assert not values(levels, changed)
    assert values(levels, [*changed, "of the member reads epoch 1", "of parts fills holes"]) == {(0, 1, 0, 0)}


def test_a_call_that_waited_may_answer_with_overtaken_pieces() -> None:
    """It began before the change was applied. A call that begins afterwards may not."""
    levels = TwoLevels([KEY | HATS])
    waited = [FULL, "of the key reads epoch 0", "begins", "changes the key and hats", "applies a change"]
    late = [FULL, "of the key reads epoch 0", "changes the key and hats", "applies a change", "begins"]
    assert values(levels, waited) == {(0, 0, 0, 0)}
    assert not values(levels, late)


def test_pieces_without_an_epoch_in_common_do_not_answer() -> None:
    """The key is of the state after the change, and the snapshot of the one before."""
    levels = TwoLevels([KEY | HATS])
    assert not values(levels, ["begins", FULL, "changes the key and hats", "of the key reads epoch 1"])


def test_a_call_without_a_lease_uses_the_snapshot_of_its_version() -> None:
    """The key has changed, and the workspace has not."""
    levels = TwoLevels([KEY])
    story = [FULL, "of parts is kept", "changes the key", "ends"]
    begins = "begins without a lease, and reads the key at epoch 1"
    assert values(levels, [*story, begins]) == {(1, 0, 0, 0)}
