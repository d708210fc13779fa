"""The fence keeps its promise in every order of steps, and every known mistake breaks it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from tests.model.explore import explore, follow
from tests.model.fence import Fence, Mistake
from tests.support.lengths import LONG, LONGEST, by_form

TWO_READERS: dict[str, Any] = {"ttl": 2, "readers": 2, "changes": 1}

# Readers affect each other only through writers, and another reader's row can only keep a writer from returning. So
# one reader is enough where the rest of the model is larger.
AFTER_ANOTHER_CHANGE: dict[str, Any] = {"ttl": 2, "readers": 1, "changes": 2}

# A restore loses a change, so the revoke gets that change's epoch, or the next one, or comes before another change.
AFTER_A_RESTORE: dict[str, Any] = {"ttl": 2, "readers": 1, "changes": 2, "restores": True}
BEFORE_ANOTHER_CHANGE: dict[str, Any] = AFTER_A_RESTORE | {"later": 1}

# A single reader that makes a mistake breaks the promise too, and the way there is shorter.
MISTAKEN: dict[str, Any] = TWO_READERS | {"readers": 2 if LONGEST else 1}

# The short form visits the nearest states, in which every kind of step is taken, and the long one all of them.
STATES = by_form(15_000, None)
RESTORE_TTL = 2 if LONGEST else 1

# These mistakes need a row that was deleted, or a wait that began, for an earlier change.
NEED_ANOTHER_CHANGE = {
    Mistake.RENEWING_BY_THE_SAME_HEARTBEAT,
    Mistake.SETTING_A_ROW_BACK,
    Mistake.WAITING_FOR_A_LATER_EPOCH,
}

# These mistakes need a diverged history.
NEED_A_RESTORE = {
    Mistake.COMPARING_EPOCHS_ONLY,
    Mistake.APPLYING_THE_CHANGES_OF_ANOTHER_HISTORY,
    Mistake.KEEPING_ENTRIES_OF_ANOTHER_HISTORY,
    Mistake.NOT_WAITING_FOR_UNKNOWN_READERS,
}

# Mistakes to look for after another change; only the longest form looks for a mistake more than once.
SEEN_AFTER_ANOTHER_CHANGE = set(Mistake) - NEED_A_RESTORE if LONGEST else NEED_ANOTHER_CHANGE

# Of those that need a restore, only this one needs a change after the revoke.
NEED_A_LATER_CHANGE = {Mistake.APPLYING_THE_CHANGES_OF_ANOTHER_HISTORY}


def after_a_restore(mistake: Mistake) -> dict[str, Any]:
    """Return bounds within which a mistake breaks the promise after a restore."""
    is_needed = mistake in NEED_A_LATER_CHANGE
    return BEFORE_ANOTHER_CHANGE | {"ttl": RESTORE_TTL, "later": int(is_needed or LONGEST)}


REGISTER = [
    "sends its registration",
    "has its registration read the epoch",
    "has its row committed",
    "learns that it is registered",
]
LOAD = ["begins a load", "a load reads the old state", "finishes a load and grants the calls that wait"]
BEAT = ["sends a heartbeat", "has its heartbeat read the epoch", "has its heartbeat write its row"]
BEAT_IN_VAIN = [*BEAT[:2], "has its heartbeat find no row", "drops everything, its row being gone"]
LET_THE_TTL_PASS = ["passes"] * 2
BEAT_FROM_ANOTHER_HISTORY = [
    "sends a heartbeat",
    "has its heartbeat find that its state is unknown",
    "drops everything, its state being unknown",
]

STORIES = {
    "memory and Postgres grant": [
        *(*REGISTER, *LOAD, "grants a call from memory"),
        *(*LET_THE_TTL_PASS, "grants a call from Postgres"),
    ],
    "both readers are told, and the revoke returns at once": [
        *(*REGISTER, *REGISTER, *LOAD, *LOAD, "commits"),
        *(*BEAT, "learns that the epoch has moved", "applies what has changed", *BEAT, "extends its lease"),
        *("applies what has changed", *BEAT, "returns"),
    ],
    "a load is overtaken": [
        *(*REGISTER, *LOAD[:2], "lets a call join a load", "commits", "applies what has changed", *LOAD[2:], *BEAT),
        "returns",
    ],
    "a frozen reader is waited out, and registers anew": [
        *(*REGISTER, *LOAD, "commits", *LET_THE_TTL_PASS, "deletes a laggard's row", "returns"),
        *(*BEAT_IN_VAIN, *REGISTER, *BEAT, "extends its lease"),
    ],
    "a crashed reader is waited out, and registers anew": [
        *(*REGISTER, "crashes", "commits", *REGISTER, *LET_THE_TTL_PASS, "deletes a laggard's row", "returns"),
    ],
    "nobody waits for a reader that left": [*REGISTER, *LOAD, "leaves, and removes its row", "commits", "returns"],
    "a revoke is retried": [
        *(*REGISTER, "commits", *LET_THE_TTL_PASS, "waits anew, for the epoch of now", "applies what has changed"),
        *(*BEAT, "returns"),
    ],
    "a heartbeat is executed late": [
        *(*REGISTER, "commits", "applies what has changed", "sends a heartbeat", "gives its heartbeat up"),
        *("a heartbeat that it gave up is executed", "returns"),
    ],
}

STORIES_OF_A_RESTORE = {
    "a reader hears of a change that is lost, and registers anew": [
        *(*REGISTER, *LOAD, "commits", "applies what has changed", "is restored", *BEAT_FROM_ANOTHER_HISTORY),
        *(*REGISTER, "commits", *LET_THE_TTL_PASS, "applies what has changed", *BEAT, "returns"),
    ],
    "a reader that the restored database does not know is waited out": [
        *("commits", *REGISTER, *LOAD, "is restored", "commits", *LET_THE_TTL_PASS, "returns"),
        *(*BEAT_FROM_ANOTHER_HISTORY, *REGISTER),
    ],
}


# The ways to a broken promise of two mistakes, found by an exploration that visits very many states.
WAYS = {
    Mistake.SETTING_A_ROW_BACK: [
        *(*REGISTER, "sends a heartbeat", "gives its heartbeat up", *LOAD, "commits", "applies what has changed"),
        *("passes", *BEAT, "extends its lease", "a heartbeat that it gave up is executed", "passes", "commits"),
        *("deletes a laggard's row", "returns", "grants a call from memory"),
    ],
    Mistake.APPLYING_THE_CHANGES_OF_ANOTHER_HISTORY: [
        *(REGISTER[0], "commits", *REGISTER[1:], *LOAD, "is restored", "passes", "commits", "commits"),
        *("applies what has changed", *BEAT, "extends its lease", "returns", "grants a call from memory"),
    ],
}


@pytest.mark.parametrize(
    ("bounds", "floor"),
    [
        (TWO_READERS, 450_000),
        (AFTER_ANOTHER_CHANGE, 45_000),
        (AFTER_ANOTHER_CHANGE | {"ttl": 3}, 100_000),
        (AFTER_A_RESTORE, 45_000),
        (BEFORE_ANOTHER_CHANGE, 100_000),
    ],
)
def test_no_call_is_granted_that_began_after_the_revoke_returned(bounds: dict[str, Any], floor: int) -> None:
    """In no state that was visited. The exploration took exactly the kinds of steps that the stories have."""
    found = explore(Fence(**bounds), STATES)
    logging.getLogger(__name__).info("%d states", found.states)
    assert not found.trace, "\n".join(found.trace)
    assert found.states > min(floor, STATES or floor)
    stories = STORIES | (STORIES_OF_A_RESTORE if bounds.get("restores") else {})
    assert found.steps == {each for story in stories.values() for each in story}


@pytest.mark.parametrize(
    ("bounds", "mistake"),
    [
        *((MISTAKEN, each) for each in Mistake if each not in NEED_ANOTHER_CHANGE | NEED_A_RESTORE),
        *((AFTER_ANOTHER_CHANGE, each) for each in Mistake if each in SEEN_AFTER_ANOTHER_CHANGE),
        *((after_a_restore(each), each) for each in Mistake if each in NEED_A_RESTORE),
    ],
)
def test_each_mistake_breaks_the_promise(bounds: dict[str, Any], mistake: Mistake) -> None:
    """A call that began after the revoke had returned is granted from memory, or by a load that it joined.

    The short form takes the known ways; without the mistake nobody can take them.
    """
    if not LONG and mistake in WAYS:
        fence = Fence(**bounds, mistake=mistake)
        assert not all(fence.promise_holds(each) for each in follow(fence, WAYS[mistake]))
        assert not follow(Fence(**bounds), WAYS[mistake])
        return
    found = explore(Fence(**bounds, mistake=mistake))
    assert found.trace, f"{found.states} states, and the promise holds although {mistake.value}"
    after_return = found.trace[found.trace.index(f"writer {bounds['changes']} returns") + 1 :]
    assert any(each.endswith(("grants a call from memory", "lets a call join a load")) for each in after_return)


@pytest.mark.parametrize("name", STORIES_OF_A_RESTORE)
def test_the_stories_of_a_restore_can_happen(name: str) -> None:
    """A model in which no process survives a restore would test nothing."""
    assert follow(Fence(**AFTER_A_RESTORE), STORIES_OF_A_RESTORE[name])


@pytest.mark.parametrize("name", STORIES)
def test_the_stories_of_the_fence_can_happen(name: str) -> None:
    """A model in which nothing can happen would keep every promise."""
    assert follow(Fence(**TWO_READERS), STORIES[name])


def test_a_laggard_is_waited_out() -> None:
    """Its row is not deleted a tick before the TTL is over, and while it is there the revoke does not return."""
    fence = Fence(**TWO_READERS)
    committed = [*REGISTER, *LOAD, "commits", *LET_THE_TTL_PASS[1:]]
    assert follow(fence, [*committed, "grants a call from memory"])
    assert not follow(fence, [*committed, "deletes a laggard's row"])
    assert not follow(fence, [*committed, "passes", "grants a call from memory"])
    assert not follow(fence, [*committed, "passes", "returns"])
