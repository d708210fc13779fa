"""The life of a key and its family, reduced to what can make a decision differ from what the changes have said.

Some changes run at the same time, and one process remembers keys. The fence is assumed, see `fence.py`: the process
applies the changes in order, and a change returns when the process has applied it. Its lease is valid, and it counts
the time that a key has left, see `expiry.py`. Every possible step can come next.

A change locks the first key of the family, looks at what there is, writes, and commits. No other change comes in
between, so that is one step. The mistakes are to look before the lock, to leave something out of what a change touches,
and to keep in memory what a change has touched.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

from tests.model.life_rules import FIRST, Change, Family, Key, Possible, Rules, with_key

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class Mistake(Enum):
    """A mistake that an implementation can make. Each of them breaks the promise."""

    RESUMING_BY_AN_OLD_LOOK = "a resume writes the key as it was before the lock, and so overtakes a revoke"
    KEEPING_WHAT_A_RESUME_RETURNED = "a resume puts the key that it returns into memory, whatever has come since"
    SUSPENDING_TOUCHES_NOTHING = "the grant of a suspended key stays in memory"
    RESUMING_TOUCHES_NOTHING = "the denial of a resumed key stays in memory"
    NARROWING_TOUCHES_NOTHING = "the wider reach of an updated key stays in memory"
    RENEWING_THE_STATE_ONLY = "a change renews the state of a key in memory, and not what the key is limited to"
    ROTATING_TOUCHES_NOTHING = "memory does not learn that a rotated key expires"
    TOUCHING_THE_NAMED_KEY_ONLY = "the end of a family touches one of its keys"
    LISTING_BEFORE_THE_LOCK = "the end of a family misses a generation that is made at the same time"
    ROTATING_BY_AN_OLD_LOOK = "a rotation decides by the key as it was before the lock"
    FORGETTING_THE_LIMIT = "a successor is not limited as its predecessor is"
    LEAVING_THE_PREDECESSOR = "a rotated key does not expire"
    GRANTING_BEYOND_THE_GRACE = "memory grants a key though its time is over"
    REMEMBERING_THAT_THERE_IS_NO_KEY = "memory holds that there is no such key"
    KEEPING_AN_OVERTAKEN_LOAD = "memory keeps what a load has read before a change"
    RETURNING_WHERE_NOTHING_CHANGES = "a change that finds nothing to change returns without a wait"


_LOOKS_FIRST = {
    Mistake.RESUMING_BY_AN_OLD_LOOK: Change.RESUME,
    Mistake.LISTING_BEFORE_THE_LOCK: Change.REVOKE_FAMILY,
    Mistake.ROTATING_BY_AN_OLD_LOOK: Change.ROTATE,
}
_TOUCHES_NOTHING = {
    Mistake.SUSPENDING_TOUCHES_NOTHING: Change.SUSPEND,
    Mistake.RESUMING_TOUCHES_NOTHING: Change.RESUME,
    Mistake.NARROWING_TOUCHES_NOTHING: Change.NARROW,
    Mistake.ROTATING_TOUCHES_NOTHING: Change.ROTATE,
}


class Call(NamedTuple):
    """A call that makes a change.

    Attributes:
        seen: The family when it looked, or as it wrote it; None before.
        left: How many changes the process has to apply before the call returns.
    """

    stage: Literal["to begin", "running", "committed", "refused", "returned"] = "to begin"
    seen: Family | None = None
    left: int = 0


class Load(NamedTuple):
    """A load that has read a key.

    Attributes:
        place: Which key.
        ahead: How many changes it has seen that the process has not applied yet.
        overtaken: Whether the process has applied a change of the key that it has not seen.
    """

    place: int
    key: Key
    ahead: int
    overtaken: bool = False


class State(NamedTuple):
    """The whole state at one moment.

    Attributes:
        family: The keys in the database.
        calls: The changes.
        pending: What each change touches that the process has not applied yet, as places of keys.
        memory: The keys in memory.
        possible: What the callers must take for possible.
    """

    family: Family
    calls: tuple[Call, ...]
    pending: tuple[frozenset[int], ...]
    memory: tuple[Key | None, ...]
    load: Load | None
    possible: frozenset[Possible]


Step: TypeAlias = "tuple[str, str, State]"


class Life:
    """The rules, correct or with one mistake."""

    def __init__(self, changes: Sequence[Change], mistake: Mistake | None = None) -> None:
        """Make a family of one key, which these changes will meet in any order, also at the same time."""
        self._rules = Rules(changes)
        self._expiry = len(changes)
        self._mistake = mistake
        family = self._rules.family
        calls, memory = (Call(),) * (self._expiry + 1), (None,) * len(family)
        self.start = State(family, calls, (), memory, None, frozenset({Possible(family)}))

    def in_order(self, state: State) -> State:
        """Return the state itself: nothing in it is alike."""
        return state

    def promise_holds(self, state: State) -> bool:
        """Return whether each key is decided as one of the possible states says, by the database and from memory."""
        return bool(state.possible) and all(
            answer in {each.family[place].answer for each in state.possible}
            for place, key in enumerate(state.family)
            for answer in (key.answer, self.remembered(state, place))
            if answer is not None
        )

    def remembered(self, state: State, place: int) -> str | None:
        """Return what is decided about a key from memory, or None if the key is read."""
        key = state.memory[place]
        is_over = state.family[place].expired and self._mistake is not Mistake.GRANTING_BEYOND_THE_GRACE
        return None if key is None or (key.ends and not key.expired and is_over) else key.answer

    def successors(self, state: State) -> Iterator[Step]:
        """Yield every possible step."""
        for number, call in enumerate(state.calls[: self._expiry]):
            name = self._rules.changes[number].value
            for what, after in self._moves(state, number, call):
                yield "call", f"{name} {what}", after
        yield from self._grace(state)
        if state.pending:
            yield "process", "applies a change", self._applied(state)
        if state.load is None:
            for place, key in enumerate(state.family):
                if self.remembered(state, place) is None:
                    load = Load(place, key, len(state.pending))
                    yield "process", "reads a key", state._replace(load=load)
        elif not state.load.ahead:
            yield "process", "has read a key", self._arrived(state, state.load)

    def _moves(self, state: State, number: int, call: Call) -> Iterator[tuple[str, State]]:
        change = self._rules.changes[number]
        match call.stage:
            case "to begin":
                yield "begins", self._begun(state, number)
            case "running" if _LOOKS_FIRST.get(self._mistake) is change and call.seen is None:  # type: ignore[arg-type]
                yield "looks", _with_call(state, number, call._replace(seen=state.family))
            case "running":
                yield from self._commits(state, number, call)
            case "committed" if not call.left:
                yield "returns", self._returned(state, number, call)
            case "refused":
                yield "is refused", self._ended(state, number, refused=True)
            case _:
                pass

    def _begun(self, state: State, number: int) -> State:
        after = _with_call(state, number, Call("running"))
        running = [each for each, call in enumerate(after.calls) if call.stage not in {"to begin", "returned"}]
        return after._replace(possible=self._rules.begun(after.possible, running))

    def _commits(self, state: State, number: int, call: Call) -> Iterator[tuple[str, State]]:
        change, family = self._rules.changes[number], state.family
        after = self._written(family, number, call.seen)
        if after is None:
            yield "finds the key ended", _with_call(state, number, Call("refused"))
            return
        if after == family:
            at_once = self._mistake is Mistake.RETURNING_WHERE_NOTHING_CHANGES
            left = 0 if at_once else len(state.pending)
            yield "finds nothing to change", _with_call(state, number, Call("committed", after, left))
            return
        touched = frozenset(place for place, key in enumerate(family) if key.exists and key != after[place])
        if self._mistake is Mistake.TOUCHING_THE_NAMED_KEY_ONLY:
            touched &= {FIRST}
        if _TOUCHES_NOTHING.get(self._mistake) is change:  # type: ignore[arg-type]
            touched = frozenset()
        done = Call("committed", after, len(state.pending) + 1)
        yield "commits", _with_call(state, number, done)._replace(family=after, pending=(*state.pending, touched))

    def _written(self, family: Family, number: int, seen: Family | None) -> Family | None:
        """Return the family as a change writes it, by what it has seen; None if it is refused."""
        after = self._rules.after(family if seen is None else seen, number)
        if after is None:
            return None
        place, first = self._rules.successors.get(number), family[FIRST]
        match self._mistake:
            case Mistake.RESUMING_BY_AN_OLD_LOOK if seen is not None:
                after = with_key(family, FIRST, after[FIRST])
            case Mistake.LISTING_BEFORE_THE_LOCK if seen is not None:
                pairs = zip(family, after, strict=True)
                after = tuple(key._replace(revoked=key.revoked or listed.revoked) for key, listed in pairs)
            case Mistake.ROTATING_BY_AN_OLD_LOOK if seen is not None and place is not None:
                after = with_key(with_key(family, FIRST, first._replace(ends=True)), place, after[place])
            case Mistake.FORGETTING_THE_LIMIT if place is not None:
                after = with_key(after, place, Key(exists=True))
            case Mistake.LEAVING_THE_PREDECESSOR if place is not None:
                after = with_key(after, FIRST, first)
            case _:
                pass
        return after

    def _returned(self, state: State, number: int, call: Call) -> State:
        after = self._ended(state, number, refused=False)
        is_resume = self._rules.changes[number] is Change.RESUME
        if is_resume and call.seen is not None and self._mistake is Mistake.KEEPING_WHAT_A_RESUME_RETURNED:
            return after._replace(memory=(call.seen[FIRST], *after.memory[1:]))
        return after

    def _ended(self, state: State, number: int, *, refused: bool) -> State:
        possible = self._rules.returned(state.possible, number, refused=refused)
        return _with_call(state, number, Call("returned"))._replace(possible=possible)

    def _grace(self, state: State) -> Iterator[Step]:
        """Yield the end of the grace: since the rotation was committed, and since it has returned."""
        stage, first = state.calls[self._expiry].stage, state.family[FIRST]
        is_committed = any(state.calls[number].stage == "committed" for number in self._rules.successors)
        if stage == "to begin" and any(key.exists for key in state.family[1:]):
            after = with_key(state.family, FIRST, first._replace(expired=first.ends))
            yield "time", "passes until the grace is over", self._begun(state, self._expiry)._replace(family=after)
        elif stage == "running" and not is_committed:
            yield "time", "passes a little more", self._ended(state, self._expiry, refused=False)

    def _applied(self, state: State) -> State:
        touched, *pending = state.pending
        memory = tuple(
            self._touched(state, place, key) if place in touched else key for place, key in enumerate(state.memory)
        )
        load = state.load
        if load is not None:
            is_new = not load.ahead
            overtaken = load.overtaken or (is_new and load.place in touched)
            load = load._replace(ahead=max(0, load.ahead - 1), overtaken=overtaken)
        calls = tuple(call._replace(left=max(0, call.left - 1)) for call in state.calls)
        return state._replace(pending=tuple(pending), memory=memory, load=load, calls=calls)

    def _touched(self, state: State, place: int, key: Key | None) -> Key | None:
        """Return what memory holds of a key that a change has touched: nothing."""
        if key is not None and self._mistake is Mistake.RENEWING_THE_STATE_ONLY:
            return state.family[place]._replace(narrow=key.narrow)
        return None

    def _arrived(self, state: State, load: Load) -> State:
        may_keep = not load.overtaken or self._mistake is Mistake.KEEPING_AN_OVERTAKEN_LOAD
        is_one = load.key.exists or self._mistake is Mistake.REMEMBERING_THAT_THERE_IS_NO_KEY
        after = state._replace(load=None)
        if not (may_keep and is_one):
            return after
        return after._replace(memory=(*state.memory[: load.place], load.key, *state.memory[load.place + 1 :]))


def _with_call(state: State, number: int, call: Call) -> State:
    return state._replace(calls=(*state.calls[:number], call, *state.calls[number + 1 :]))
