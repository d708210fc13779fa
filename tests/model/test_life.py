"""Every decision about a key is one that its changes allow, in every order, and every known mistake makes another."""

from __future__ import annotations

import logging
from itertools import combinations_with_replacement

import pytest

from tests.model.explore import explore, follow
from tests.model.life import Life, Mistake
from tests.model.life_rules import FIRST, Change
from tests.support.lengths import by_form

SUSPEND, RESUME, NARROW = Change.SUSPEND, Change.RESUME, Change.NARROW
REVOKE, REVOKE_FAMILY, ROTATE = Change.REVOKE, Change.REVOKE_FAMILY, Change.ROTATE
CALLS = (SUSPEND, RESUME, NARROW, REVOKE, REVOKE_FAMILY, ROTATE)

PAIRS = [*combinations_with_replacement(CALLS, 2)]
THREE = by_form(
    [(SUSPEND, RESUME, REVOKE), (SUSPEND, RESUME, NARROW), (NARROW, ROTATE, REVOKE_FAMILY)],
    [*combinations_with_replacement(CALLS, 3)],
)

# Each with the changes that show it.
MISTAKES: dict[Mistake, tuple[Change, ...]] = {
    Mistake.RESUMING_BY_AN_OLD_LOOK: (SUSPEND, RESUME, REVOKE),
    Mistake.KEEPING_WHAT_A_RESUME_RETURNED: (SUSPEND, RESUME, REVOKE),
    Mistake.SUSPENDING_TOUCHES_NOTHING: (SUSPEND,),
    Mistake.RESUMING_TOUCHES_NOTHING: (SUSPEND, RESUME),
    Mistake.NARROWING_TOUCHES_NOTHING: (NARROW,),
    Mistake.RENEWING_THE_STATE_ONLY: (NARROW,),
    Mistake.ROTATING_TOUCHES_NOTHING: (ROTATE,),
    Mistake.TOUCHING_THE_NAMED_KEY_ONLY: (ROTATE, REVOKE_FAMILY),
    Mistake.LISTING_BEFORE_THE_LOCK: (ROTATE, REVOKE_FAMILY),
    Mistake.ROTATING_BY_AN_OLD_LOOK: (ROTATE, REVOKE_FAMILY),
    Mistake.FORGETTING_THE_LIMIT: (NARROW, ROTATE),
    Mistake.LEAVING_THE_PREDECESSOR: (ROTATE,),
    Mistake.GRANTING_BEYOND_THE_GRACE: (ROTATE,),
    Mistake.REMEMBERING_THAT_THERE_IS_NO_KEY: (ROTATE,),
    Mistake.KEEPING_AN_OVERTAKEN_LOAD: (NARROW,),
    Mistake.RETURNING_WHERE_NOTHING_CHANGES: (SUSPEND, SUSPEND),
}


def test_changes_at_once_are_decided_as_they_say() -> None:
    """Any two, also twice the same, and three: whatever is in memory. Every kind of step is taken."""
    states = 0
    steps: set[str] = set()
    for changes in (*PAIRS, *THREE):
        found = explore(Life(changes))
        assert not found.trace, (changes, *found.trace)
        states += found.states
        steps |= found.steps
    logging.getLogger(__name__).info("%d states", states)
    assert states > by_form(10_000, 100_000)
    calls = {f"{call.value} {what}" for call in CALLS for what in ("begins", "commits", "returns")}
    assert steps >= calls | {"applies a change", "reads a key", "has read a key", "passes until the grace is over"}


@pytest.mark.parametrize("mistake", Mistake)
def test_each_mistake_is_found(mistake: Mistake) -> None:
    """A key is decided as no order of the changes allows."""
    found = explore(Life(MISTAKES[mistake], mistake))
    logging.getLogger(__name__).info("%s: %d states: %s", mistake.name, found.states, "; ".join(found.trace))
    assert found.trace, f"{found.states} states, and the promise holds although {mistake.value}"


def remembered(changes: tuple[Change, ...], *story: str) -> set[str | None]:
    """Return what can be decided from memory about the first key after a story."""
    life = Life(changes)
    return {life.remembered(state, FIRST) for state in follow(life, story)}


def test_memory_grants_and_denies() -> None:
    """A model in which memory decides nothing would keep every promise."""
    read = ["reads a key", "has read a key"]
    suspended = ["SuspendKey begins", "SuspendKey commits", "applies a change", "SuspendKey returns"]
    assert "granted" in remembered((SUSPEND,), *read)
    assert remembered((SUSPEND,), *read, *suspended) == {None}
    assert "suspended" in remembered((SUSPEND,), *read, *suspended, *read)
    rotated = ["RotateKey begins", "RotateKey commits", "applies a change", "RotateKey returns", *read]
    assert "granted" in remembered((ROTATE,), *rotated)
    assert remembered((ROTATE,), *rotated, "passes until the grace is over") == {None}


def test_a_change_does_not_return_before_memory_has_it() -> None:
    """And a family is not rotated after its end."""
    assert not follow(Life((SUSPEND,)), ["SuspendKey begins", "SuspendKey commits", "SuspendKey returns"])
    ended = [f"RevokeKey of the family {what}" for what in ("begins", "commits")]
    rotation = ["RotateKey begins", "RotateKey finds the key ended", "RotateKey is refused"]
    assert follow(Life((ROTATE, REVOKE_FAMILY)), [*ended, *rotation])
    assert not follow(Life((ROTATE, REVOKE_FAMILY)), [*ended, "RotateKey begins", "RotateKey commits"])
