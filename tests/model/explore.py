"""Every state that the fence can reach, the shortest way to a broken promise, and whether a story can happen."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.model.fence import Fence
    from tests.model.states import State


class Exploration(NamedTuple):
    """The result of an exploration."""

    states: int
    steps: frozenset[str]
    """Every kind of step that was taken."""
    trace: tuple[str, ...]
    """The steps to the first state in which the promise is broken, or none if it holds everywhere."""


def explore(fence: Fence, limit: int | None = None) -> Exploration:
    """Visit every state, or the first `limit`, those fewer steps away first, until the promise is broken."""
    came_from: dict[State, State | None] = {fence.start: None}
    steps: set[str] = set()
    to_visit = [fence.start]
    for state in to_visit:
        if limit is not None and len(came_from) > limit:
            break
        for _, what, reached in fence.successors(state):
            steps.add(what)
            after = _in_order(reached)
            if after in came_from:
                continue
            came_from[after] = state
            if not fence.promise_holds(after):
                return Exploration(len(came_from), frozenset(steps), _trace(fence, came_from, after))
            to_visit.append(after)
    return Exploration(len(came_from), frozenset(steps), ())


def follow(fence: Fence, story: Iterable[str]) -> set[State]:
    """Return the states in which a story of exactly these steps can end, whoever takes them."""
    states = {fence.start}
    for step in story:
        states = {_in_order(after) for state in states for _, what, after in fence.successors(state) if what == step}
    return states


def _in_order(state: State) -> State:
    """Return the state with its readers sorted: the readers are alike, so their order means nothing."""
    readers = state.readers
    return state._replace(readers=readers[::-1]) if readers[-1] < readers[0] else state


def _trace(fence: Fence, came_from: dict[State, State | None], end: State) -> tuple[str, ...]:
    """Return the steps to a state. Only states are kept, to save memory, so the steps are searched again."""
    states = [end]
    while (before := came_from[states[-1]]) is not None:
        states.append(before)
    trace: list[str] = []
    swapped = False
    for before, after in pairwise(reversed(states)):
        who, what, reached = next(step for step in fence.successors(before) if _in_order(step[2]) == after)
        if swapped:
            who = {"reader 1": "reader 2", "reader 2": "reader 1"}.get(who, who)
        trace.append(f"{who} {what}")
        swapped ^= reached != after
    return tuple(trace)
