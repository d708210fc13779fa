"""Every state that a model can reach, the shortest way to a broken promise, and whether a story can happen."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

StateT = TypeVar("StateT")


class Model(Protocol[StateT]):
    """Rules, and the state at which they start."""

    @property
    def start(self) -> StateT:
        """The first state."""

    def successors(self, state: StateT) -> Iterator[tuple[str, str, StateT]]:
        """Yield every possible step: who takes it, what it is, and the state it leads to."""

    def promise_holds(self, state: StateT) -> bool:
        """Return whether the promise is kept in a state."""

    def in_order(self, state: StateT) -> StateT:
        """Return the state that stands for all that differ only in the order of what is alike."""


class Exploration(NamedTuple):
    """The result of an exploration."""

    states: int
    steps: frozenset[str]
    """Every kind of step that was taken."""
    trace: tuple[str, ...]
    """The steps to the first state in which the promise is broken, or none if it holds everywhere."""


def explore(model: Model[StateT], limit: int | None = None) -> Exploration:
    """Visit every state, or the first `limit`, those fewer steps away first, until the promise is broken."""
    came_from: dict[StateT, StateT | None] = {model.start: None}
    steps: set[str] = set()
    to_visit = [model.start]
    for state in to_visit:
        if limit is not None and len(came_from) > limit:
            break
        for _, what, reached in model.successors(state):
            steps.add(what)
            after = model.in_order(reached)
            if after in came_from:
                continue
            came_from[after] = state
            if not model.promise_holds(after):
                return Exploration(len(came_from), frozenset(steps), _trace(model, came_from, after))
            to_visit.append(after)
    return Exploration(len(came_from), frozenset(steps), ())


def follow(model: Model[StateT], story: Iterable[str]) -> set[StateT]:
    """Return the states in which a story of exactly these steps can end, whoever takes them."""
    states = {model.start}
    for step in story:
        states = {
            model.in_order(after) for state in states for _, what, after in model.successors(state) if what == step
        }
    return states


def _trace(model: Model[StateT], came_from: dict[StateT, StateT | None], end: StateT) -> tuple[str, ...]:
    """Return the steps to a state. Only states are kept, to save memory, so the steps are searched again."""
    states = [end]
    while (before := came_from[states[-1]]) is not None:
        states.append(before)
    trace: list[str] = []
    swapped = False
    for before, after in pairwise(reversed(states)):
        who, what, reached = next(step for step in model.successors(before) if model.in_order(step[2]) == after)
        if swapped:
            who = {"reader 1": "reader 2", "reader 2": "reader 1"}.get(who, who)
        trace.append(f"{who} {what}")
        swapped ^= reached != after
    return tuple(trace)
