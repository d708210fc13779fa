"""The rules of keys that expire, reduced to what can carry a grant over the expiry, or deny a key before it.

There is one key that expires at a time of the database's clock, and one process that remembers it. The lease is valid,
and no change comes: what these do is in `fence.py` and in `levels`. The two clocks differ by any amount, so the process
counts only how much time has passed. A query takes any time there and back. Every possible step can come next.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

EXPIRY = 3
"""When the key expires, by the database's clock."""
END = EXPIRY + 2
"""When the model ends."""
EXPIRED = 0
"""Instead of the time until which a key is fresh: the database has said that it has expired."""


class Mistake(Enum):
    """What a process could do wrong."""

    COUNTING_FROM_THE_ANSWER = "the time that a key has left is counted from when the answer came"
    COUNTING_FROM_THE_READ_OF_ANOTHER_LOAD = "a load that joins another one counts from its own begin"
    NOT_LOOKING_IN_MEMORY = "a key in memory is used without a look at the clock"
    NOT_LOOKING_AT_THE_DECISION = "a loaded key is used without a look at the clock"
    DENYING_BY_ITS_OWN_COUNT = "a key whose time is over by the process's count is denied"
    USING_THE_WALL_CLOCK = "the process compares the expiry with its own clock, which is slow"


class Load(NamedTuple):
    """A load of the key.

    Attributes:
        sent: When the query was sent.
        left: How much time was left when it was executed; None before that.
    """

    sent: int
    left: int | None


class Call(NamedTuple):
    """The call that is watched.

    Attributes:
        began: When it began.
        answer: What it was told: `granted` or `expired`; None before that.
        at: When it was told.
    """

    began: int
    answer: str | None = None
    at: int = 0


class State(NamedTuple):
    """The whole state at one moment.

    Attributes:
        now: The time by the database's clock. The process knows how much of it passes, and not what it is.
        fresh_until: Until when the key in memory can be used, or EXPIRED; None without a key.
        load: The load that is under way, which calls join; None without one.
        call: The call; None before it.
    """

    now: int
    fresh_until: int | None
    load: Load | None
    call: Call | None


Step = tuple[str, str, State]


class Expiry:
    """The rules, correct or with one mistake."""

    start = State(0, None, None, None)

    def __init__(self, mistake: Mistake | None = None) -> None:
        self._mistake = mistake

    def in_order(self, state: State) -> State:
        """Return the state itself: nothing in it is alike."""
        return state

    def promise_holds(self, state: State) -> bool:
        """Return whether the call is right: a grant began before the expiry, and a denial comes after it."""
        call = state.call
        if call is None or call.answer is None:
            return True
        return call.began < EXPIRY if call.answer == "granted" else call.at >= EXPIRY

    def successors(self, state: State) -> Iterator[Step]:
        """Yield every possible step."""
        if state.now < END:
            yield "time", "passes", state._replace(now=state.now + 1)
        if state.load is None and not self._is_fresh(state, state.fresh_until, in_memory=True):
            yield "load", "is sent", state._replace(load=Load(state.now, None))
        if state.load is not None and state.load.left is None:
            yield "load", "is executed", state._replace(load=state.load._replace(left=EXPIRY - state.now))
        if state.load is not None and state.load.left is not None:
            yield "load", "arrives", self._arrived(state, state.load)
        if state.call is None:
            yield "call", "begins", state._replace(call=Call(state.now))
        elif state.call.answer is None:
            yield from self._answers(state, state.call)

    def _arrived(self, state: State, load: Load) -> State:
        """Return the state with the key in memory. The calls that wait look at it in later steps."""
        return state._replace(load=None, fresh_until=self._fresh_until(state, load))

    def _fresh_until(self, state: State, load: Load) -> int:
        assert load.left is not None
        if load.left <= 0:
            return EXPIRED
        match self._mistake:
            case Mistake.COUNTING_FROM_THE_ANSWER:
                return state.now + load.left
            case Mistake.COUNTING_FROM_THE_READ_OF_ANOTHER_LOAD:
                return max(load.sent, state.call.began if state.call else 0) + load.left
            case Mistake.USING_THE_WALL_CLOCK:
                return EXPIRY + 1
            case _:
                return load.sent + load.left

    def _is_fresh(self, state: State, fresh_until: int | None, *, in_memory: bool) -> bool:
        mistake = Mistake.NOT_LOOKING_IN_MEMORY if in_memory else Mistake.NOT_LOOKING_AT_THE_DECISION
        if fresh_until is None:
            return False
        return fresh_until == EXPIRED or state.now < fresh_until or self._mistake is mistake

    def _answers(self, state: State, call: Call) -> Iterator[Step]:
        """Yield what the call can be told: by the key in memory, and by the load that it has joined, as it arrives."""
        found = [(state.fresh_until, True)] if state.fresh_until is not None else []
        if state.load is not None and state.load.left is not None:
            found.append((self._fresh_until(state, state.load), False))
        for fresh_until, in_memory in found:
            if self._is_fresh(state, fresh_until, in_memory=in_memory):
                answer = "expired" if fresh_until == EXPIRED else "granted"
                yield "call", f"is {answer}", state._replace(call=Call(call.began, answer, state.now))
            elif self._mistake is Mistake.DENYING_BY_ITS_OWN_COUNT:
                yield "call", "is expired", state._replace(call=Call(call.began, "expired", state.now))
