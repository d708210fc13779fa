"""The rules of the two-level memory, reduced to what can mix two states or return an old one.

The fence is assumed, see `fence.py`: a process applies the changes in order, and a change has returned only when the
process has applied it, or has no row. There is one process, one key, and one workspace with one member, hats and tools.
Every possible step can come next.

Where the rules allow more than the service does, they still allow everything that the service does:

- A load is sent and executed in one step. It reads any state that is not older than what the process has applied: a
  load that waits to be executed is like one that begins later, and one that reads an older state, like one that was
  executed before. Its result can be used at any time afterwards.
- A call may use every load, also one that changes have overtaken before the call began.
- A call holds everything that was in memory, or that was loaded, since it began, and answers by any two pieces of it.
  So it need not be told which of them it looked at, and for how long it slept in between.
- A call may combine what it has loaded with any snapshot that it holds; the service only fills the one in memory. And a
  filled snapshot gets the label of the load, if that is later, where the service gives it the epoch that is applied.
- Without a lease a call reads the key, and may find the snapshot of its version in memory at any time afterwards. A
  snapshot that it loads itself is right by its version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from tests.model.levels.calls import Answer, Calls
from tests.model.levels.history import History, names
from tests.model.levels.mistakes import Mistake
from tests.model.levels.pieces import (
    HATS,
    HOLE,
    KEY,
    MEMBER,
    NONE,
    OPEN,
    PARTS,
    STRUCTURE,
    TOOLS,
    WORKSPACE,
    Load,
    Snapshot,
    State,
    Values,
    as_values,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

Step: TypeAlias = "tuple[str, str, State]"


class TwoLevels:
    """The rules, correct or with one mistake."""

    start = State(0, 0, "valid", 0, NONE, None, (), (), None)

    def __init__(
        self, changes: Sequence[int], *, loads: int = 1, needed: int = KEY | WORKSPACE, mistake: Mistake | None = None
    ) -> None:
        """Make a memory that these changes will touch, one after the other.

        Args:
            changes: The parts that each change touches.
            loads: How many loads of the key, and of parts of the workspace, can be under way.
            needed: The parts on which the answer depends.
            mistake: The mistake, if there is one.
        """
        self._history = History(changes)
        self._loads = loads
        self._calls = Calls(self._history, needed, mistake)
        self._mistake = mistake

    def in_order(self, state: State) -> State:
        """Return the state itself: no two parts of it are alike."""
        return state

    def promise_holds(self, state: State) -> bool:
        """Return whether every answer of the call is by one state that is not older than what had returned."""
        return all(self._calls.is_right(state, answer) for answer in self._calls.answers(state))

    def answers(self, state: State) -> set[Answer]:
        """Return every answer that the call can give now: the values of what it depends on."""
        return self._calls.answers(state)

    def successors(self, state: State) -> Iterator[Step]:
        """Yield every possible step: who takes it, what it is, and the state it leads to."""
        if state.epoch < len(self._history):
            yield (
                "database",
                f"changes {names(self._history.touched(state.epoch + 1))}",
                state._replace(epoch=state.epoch + 1),
            )
        if state.pending:
            yield "reader", "applies the rest", self._touched(state, state.pending, state.applied)
        elif state.applied < state.epoch and state.lease != "starting":
            yield "reader", "applies a change", self._applied(state)
        yield from self._leases(state)
        yield from self._sent(state)
        for load in state.key_loads:
            yield from self._key_arrived(_without(state, load), load)
        for load in state.part_loads:
            yield from self._parts_arrived(_without(state, load), load)
        yield from self._evictions(state)
        if state.call is None:
            yield from self._calls.begins(state)

    def _leases(self, state: State) -> Iterator[Step]:
        match state.lease:
            case "valid":
                yield "lease", "ends", state._replace(lease="over")
            case "over":
                yield "lease", "comes back", state._replace(lease="valid")
                yield "writer", "deletes the row", state._replace(lease="row gone")
            case "starting":
                yield "reader", "is registered", state._replace(lease="over", applied=state.epoch)
            case _:
                pass
        if state.lease in {"over", "row gone"}:
            yield "reader", "drops everything and starts anew", self._dropped(state)

    def _dropped(self, state: State) -> State:
        mistake, call = self._mistake, state.call
        until = OPEN if mistake is Mistake.DROPPING_WITHOUT_CLOSING else state.applied
        after = state._replace(lease="starting", applied=state.epoch, pending=0)
        if mistake is not Mistake.KEEPING_LOADS_OF_A_LOST_ROW:
            for load in (*state.key_loads, *state.part_loads):
                call = self._calls.given(state._replace(call=call), load, self._closed(state, load))
            after = after._replace(key_loads=(), part_loads=())
        if mistake is not Mistake.KEEPING_KEYS_OF_A_LOST_ROW:
            call, after = self._calls.hold_key(call, state.key, until), after._replace(key=NONE)
        if mistake is not Mistake.KEEPING_SNAPSHOTS_OF_A_LOST_ROW:
            call, after = self._calls.hold_snapshot(call, state.snapshot, until), after._replace(snapshot=None)
        return after._replace(call=call)

    def _applied(self, state: State) -> State:
        change = state.applied + 1
        touched = self._history.touched(change)
        match self._mistake:
            case Mistake.CUTTING_A_TRANSACTION:
                now = touched & -touched
            case Mistake.MAKING_A_MEMBERS_HOLE_LATE:
                now = touched & ~MEMBER
            case Mistake.IGNORING_A_MEMBER:
                now = touched = touched & ~MEMBER
            case Mistake.IGNORING_A_PART_BESIDE_ANOTHER if touched & HATS:
                now = touched = touched & ~TOOLS
            case _:
                now = touched
        return self._touched(state, now, change)._replace(applied=change, pending=touched & ~now)

    def _touched(self, state: State, touched: int, change: int) -> State:
        """Return the state after a change of these parts: what they touch is closed, or becomes a hole."""
        mistake, call = self._mistake, state.call
        until = change if mistake is Mistake.CLOSING_AT_THE_CHANGE else change - 1
        key, snapshot = state.key, state.snapshot
        if touched & KEY:
            call = self._calls.hold_key(call, key, OPEN if mistake is Mistake.LEAVING_A_KEY_OPEN else until)
            key = NONE
        if touched & STRUCTURE:
            end = OPEN if mistake is Mistake.LEAVING_A_SNAPSHOT_OPEN else until
            call = self._calls.hold_snapshot(call, snapshot, end, shared=mistake is Mistake.SHARING_THE_MEMBERS)
        if touched & WORKSPACE and snapshot is not None:
            values = as_values(
                HOLE if touched & part else value for part, value in zip(PARTS, snapshot.values, strict=True)
            )
            snapshot = None if values == (HOLE, HOLE, HOLE) else snapshot._replace(values=values)
        return state._replace(pending=0, key=key, snapshot=snapshot, call=call)

    def _sent(self, state: State) -> Iterator[Step]:
        if state.lease != "valid" and self._mistake is not Mistake.KEEPING_LOADS_BEGUN_WITHOUT_A_LEASE:
            return
        oldest = 0 if self._mistake is Mistake.READING_AN_OLDER_STATE else state.applied
        for label in range(oldest, state.epoch + 1):
            noted = max(label, state.applied)
            if state.key == NONE and len(state.key_loads) < self._loads:
                yield "load", f"of the key reads epoch {label}", _with(state, Load(KEY, label, noted, None))
            if len(state.part_loads) < self._loads:
                for parts in _to_load(state.snapshot):
                    base = state.snapshot if self._mistake is Mistake.FILLING_A_COPY_OF_THE_BASE else None
                    yield (
                        "load",
                        f"of {names(parts)} reads epoch {label}",
                        _with(state, Load(parts, label, noted, base)),
                    )

    def _key_arrived(self, state: State, load: Load) -> Iterator[Step]:
        """Yield what can happen with a key that was loaded. The state is without the load."""
        overtaken = self._history.first_touch(KEY, load.noted, state.applied) is not None
        may_keep = not overtaken or self._mistake is Mistake.KEEPING_AN_OVERTAKEN_KEY
        if state.key == NONE and may_keep and self._may_keep(state, load):
            yield "load", "of the key is kept", state._replace(key=load.label)
        yield "load", "of the key is not kept", self._not_kept(state, load)

    def _parts_arrived(self, state: State, load: Load) -> Iterator[Step]:
        """Yield what can happen with parts that were loaded. The state is without the load."""
        snapshot = state.snapshot
        read = self._calls.read(load)
        good = as_values(
            HOLE
            if self._history.first_touch(part, load.noted, state.applied) is not None
            and self._mistake is not Mistake.FILLING_A_TOUCHED_HOLE
            else value
            for part, value in zip(PARTS, read, strict=True)
        )
        if self._may_keep(state, load):
            given = state._replace(call=self._calls.given(state, load, self._closed(state, load)))
            if snapshot is None and load.parts == WORKSPACE and good != (HOLE, HOLE, HOLE):
                kept = Snapshot(good, load.label, self._history.value(WORKSPACE, load.label))
                yield "load", "of parts is kept", given._replace(snapshot=kept)
            elif snapshot is not None:
                filled = self._filled(snapshot, load, good)
                if filled != snapshot:
                    yield "load", "of parts fills holes", given._replace(snapshot=filled)
        yield "load", "of parts is not kept", self._not_kept(state, load)

    def _may_keep(self, state: State, load: Load) -> bool:
        return load.label <= state.applied or self._mistake is Mistake.KEEPING_A_STATE_AHEAD

    def _not_kept(self, state: State, load: Load) -> State:
        is_left_open = self._mistake is Mistake.LEAVING_OPEN_WHAT_IS_NOT_KEPT
        end = self._calls.end(state, load) if is_left_open else self._closed(state, load)
        return state._replace(call=self._calls.given(state, load, end))

    def _closed(self, state: State, load: Load) -> int:
        """Return the end of what a load has read, if no change can close it any more."""
        return min(self._calls.end(state, load), max(load.label, state.applied))

    def _filled(self, snapshot: Snapshot, load: Load, good: Values) -> Snapshot:
        former = snapshot if load.base is None else load.base
        pairs = list(zip(good, snapshot.values, former.values, strict=True))
        if not any(value != HOLE and current == HOLE for value, current, _ in pairs):
            return snapshot
        values = as_values(value if value != HOLE and current == HOLE else old for value, current, old in pairs)
        version = self._history.value(WORKSPACE, load.label)
        match self._mistake:
            case Mistake.NOT_RAISING_THE_LABEL:
                return Snapshot(values, snapshot.label, version)
            case Mistake.SETTING_THE_VERSION_BACK:
                return Snapshot(values, max(load.label, snapshot.label), version)
            case _ if load.label < snapshot.label:
                return Snapshot(values, snapshot.label, snapshot.version)
            case _:
                return Snapshot(values, load.label, version)

    def _evictions(self, state: State) -> Iterator[Step]:
        until = OPEN if self._mistake is Mistake.EVICTING_WITHOUT_CLOSING else state.applied
        if state.key != NONE:
            call = self._calls.hold_key(state.call, state.key, until)
            yield "memory", "evicts the key", state._replace(key=NONE, call=call)
        if state.snapshot is not None:
            call = self._calls.hold_snapshot(state.call, state.snapshot, until)
            yield "memory", "evicts the snapshot", state._replace(snapshot=None, call=call)


def _to_load(snapshot: Snapshot | None) -> set[int]:
    """Return the sets of parts that a call may load: all, those that are missing, or one of them."""
    if snapshot is None:
        return {WORKSPACE}
    missing = [part for part, value in zip(PARTS, snapshot.values, strict=True) if value == HOLE]
    return {*missing, sum(missing), WORKSPACE} if missing else set()


def _with(state: State, load: Load) -> State:
    """Return the state with one load more; equal ones count as one."""
    if load.parts == KEY:
        return state._replace(key_loads=tuple(sorted({*state.key_loads, load})))
    return state._replace(part_loads=tuple(sorted({*state.part_loads, load}, key=repr)))


def _without(state: State, load: Load) -> State:
    if load.parts == KEY:
        return state._replace(key_loads=tuple(each for each in state.key_loads if each != load))
    return state._replace(part_loads=tuple(each for each in state.part_loads if each != load))
