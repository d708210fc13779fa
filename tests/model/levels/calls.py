"""How a call answers: by the pieces that it could have got since it began."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from tests.model.levels.mistakes import Mistake
from tests.model.levels.pieces import (
    HOLE,
    KEY,
    NONE,
    OPEN,
    PARTS,
    SHARED,
    WORKSPACE,
    Call,
    HeldKey,
    HeldSnapshot,
    Load,
    Snapshot,
    State,
    Values,
    as_values,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.model.levels.history import History

Answer: TypeAlias = "tuple[tuple[int, int], ...]"
"""The parts on which an answer depends, each with its value."""


class Calls:
    """The rules for a call, correct or with one mistake."""

    def __init__(self, history: History, needed: int, mistake: Mistake | None) -> None:
        self._history = history
        self._needed = needed
        self._mistake = mistake

    def begins(self, state: State) -> Iterator[tuple[str, str, State]]:
        """Yield the ways in which a call can begin."""
        has_row = state.lease in {"valid", "over"}
        settled = state.applied if has_row else state.epoch
        if state.lease == "valid" or self._mistake is Mistake.ANSWERING_WITHOUT_A_LEASE:
            yield "call", "begins", state._replace(call=Call(state.applied, settled, (), (), direct=False))
        if state.lease != "valid":
            read = {state.epoch}
            if self._mistake is Mistake.JOINING_KEY_LOADS_WITHOUT_A_LEASE:
                read |= {load.label for load in state.key_loads}
            for epoch in sorted(read):
                call = Call(epoch, settled, (), (), direct=True)
                yield "call", f"begins without a lease, and reads the key at epoch {epoch}", state._replace(call=call)

    def hold_key(self, call: Call | None, label: int, until: int) -> Call | None:
        """Return the call, holding a key too."""
        if call is None or label == NONE or self._is_useless(call, label, until):
            return call
        return call._replace(keys=tuple(sorted({*call.keys, HeldKey(label, until)})))

    def hold_snapshot(
        self, call: Call | None, snapshot: Snapshot | None, until: int, *, shared: bool = False
    ) -> Call | None:
        """Return the call, holding a snapshot too that is taken out of memory."""
        if call is None or snapshot is None:
            return call
        member, *others = snapshot.values
        if not shared and self._mistake is Mistake.SHARING_THE_MEMBERS:
            held = (each._replace(values=_with_member(each.values, member)) for each in call.snapshots)
            call = call._replace(snapshots=tuple(sorted(set(held))))
        values = as_values((SHARED if shared else member, *others))
        return self._hold(call, HeldSnapshot(values, snapshot.label, until))

    def _hold(self, call: Call, snapshot: HeldSnapshot) -> Call:
        if self._is_useless(call, snapshot.label, snapshot.until):
            return call
        return call._replace(snapshots=tuple(sorted({*call.snapshots, snapshot})))

    def _is_useless(self, call: Call, label: int, until: int) -> bool:
        """Return whether the call can never answer by such a piece. Without such pieces there are fewer states."""
        return call.direct or (self._mistake is None and until < max(label, call.epoch))

    def end(self, state: State, load: Load) -> int:
        """Return until when what a load has read is good, as far as it is applied."""
        change = self._history.first_touch(load.parts, load.noted, state.applied)
        if change is None or self._mistake is Mistake.JOINING_AN_OVERTAKEN_LOAD:
            return OPEN
        return change - 1

    def read(self, load: Load) -> Values:
        """Return what a load of parts has read."""
        return as_values(self._history.value(part, load.label) if load.parts & part else HOLE for part in PARTS)

    def given(self, state: State, load: Load, end: int) -> Call | None:
        """Return the call of a state, holding what a load brings too."""
        call = state.call
        if call is None or call.direct:
            return call
        if load.parts == KEY:
            return self.hold_key(call, load.label, end)
        read = self.read(load)
        if load.parts == WORKSPACE:
            return self._hold(call, HeldSnapshot(read, load.label, end))
        if self._mistake is not Mistake.COMBINING_WITH_AN_OPEN_END:
            end = min(end, max(load.label, state.applied))
        bases = call.snapshots
        if state.snapshot is not None:
            bases = (*bases, HeldSnapshot(state.snapshot.values, state.snapshot.label, OPEN))
        for base in bases:
            values = as_values(new if new != HOLE else old for new, old in zip(read, base.values, strict=True))
            label, until = max(load.label, base.label), min(end, self._end_of(base, state))
            if self._mistake is Mistake.COMBINING_BY_THE_LOAD:
                label, until = load.label, end
            call = self._hold(call, HeldSnapshot(values, label, until))
        return call

    def answers(self, state: State) -> set[Answer]:
        """Return every answer that the call can give now."""
        call = state.call
        if call is None:
            return set()
        if call.direct:
            return set(self._direct_answers(state, call))
        keys = [*call.keys, *(HeldKey(load.label, self.end(state, load)) for load in state.key_loads)]
        if state.key != NONE:
            keys.append(HeldKey(state.key, OPEN))
        snapshots = set(call.snapshots)
        for load in state.part_loads:
            given = self.given(state, load, self.end(state, load))
            snapshots.update(() if given is None else given.snapshots)
        if state.snapshot is not None:
            snapshots.add(HeldSnapshot(state.snapshot.values, state.snapshot.label, OPEN))
        return {
            answer
            for key in keys
            for snapshot in snapshots
            if self._may_answer(state, call, key, snapshot)
            for answer in self._answer(state, key.label, snapshot.values)
        }

    def _direct_answers(self, state: State, call: Call) -> Iterator[Answer]:
        values = as_values(self._history.value(part, call.epoch) for part in PARTS)
        yield from self._answer(state, call.epoch, values)
        if state.snapshot is not None:
            version = self._history.value(WORKSPACE, call.epoch)
            if state.snapshot.version == version or self._mistake is Mistake.USING_ANOTHER_VERSION:
                yield from self._answer(state, call.epoch, state.snapshot.values)

    def _answer(self, state: State, key: int, values: Values) -> Iterator[Answer]:
        member = HOLE if state.snapshot is None else state.snapshot.values[0]
        parts = zip((KEY, *PARTS), (self._history.value(KEY, key), *_with_member(values, member)), strict=True)
        answer = tuple((part, value) for part, value in parts if part & self._needed)
        if all(value != HOLE for _, value in answer):
            yield answer

    def _end_of(self, piece: HeldKey | HeldSnapshot, state: State) -> int:
        if self._mistake is Mistake.COUNTING_OPEN_AS_INFINITE:
            return piece.until
        is_open = piece.until == OPEN or self._mistake is Mistake.NOT_LOOKING_AGAIN
        return max(piece.label, state.applied) if is_open else piece.until

    def _may_answer(self, state: State, call: Call, key: HeldKey, snapshot: HeldSnapshot) -> bool:
        """Return whether there is an epoch that both pieces have, and that is not older than the call."""
        ends = self._end_of(key, state), self._end_of(snapshot, state)
        match self._mistake:
            case Mistake.ANSWERING_BY_OPEN_PIECES if key.until == OPEN and snapshot.until == OPEN:
                return True
            case Mistake.ANSWERING_BY_EACH_PIECE:
                return max(key.label, call.epoch) <= ends[0] and max(snapshot.label, call.epoch) <= ends[1]
            case Mistake.NOT_LOOKING_AT_THE_BEGIN:
                return max(key.label, snapshot.label) <= min(ends)
            case _:
                return max(key.label, snapshot.label, call.epoch) <= min(ends)

    def is_right(self, state: State, answer: Answer) -> bool:
        """Return whether an answer is that of one state, not older than what had returned before the call began."""
        settled = 0 if state.call is None else state.call.settled
        return any(
            all(value == self._history.value(part, epoch) for part, value in answer)
            for epoch in range(settled, state.epoch + 1)
        )


def _with_member(values: Values, member: int) -> Values:
    """Return the values with the member that they share with the snapshot in memory, if they do."""
    return as_values((member, *values[1:])) if values[0] == SHARED else values
