"""The rules of the fence, reduced to what can break its promise: readers, writers, one key, and time.

Every possible step can come next. So when other steps come first and time passes, a statement is delayed or a process
is frozen. The last change is the revoke. An earlier change, if there is one, does not touch the key, but its writer
waits and deletes rows as well.

Where the rules allow more than the service does, they still allow everything that the service does:

- A call begins and is decided in one step. A call that begins before the revoke returns has no promise, and one that
  begins afterwards and is decided later could as well have begun later.
- A registration gives a lease from the time it was sent. A reader with a shorter lease can do nothing more.
- Heartbeats are sent, and changes fetched, at any time. A notification is only a hint.
- A writer may go on deleting laggards after it has returned.

The database may be restored, once and before the revoke, to a state before the last changes: epochs come again with
other tags, and the rows of readers are as they were, or missing. A standby that takes over without the last changes
does the same. The model leaves out that connections end and that the server has another name: each of these alone
makes a reader drop everything, so they would only allow less.

Time is true time. A reader whose clock runs slow holds its lease for longer than it believes. The guard comes off for
that, so a lease lasts at worst the whole TTL.
"""

from __future__ import annotations

from enum import Enum
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

from tests.model.states import (
    FRESH,
    NO_STATEMENT,
    NONE,
    Database,
    Load,
    Reader,
    State,
    Statement,
    Wait,
    epoch_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

Move: TypeAlias = "tuple[str, Reader]"
Step: TypeAlias = "tuple[str, str, State]"


class Mistake(Enum):
    """A mistake that an implementation can make. Each of them breaks the promise."""

    NOT_WAITING_OUT_THE_TTL = "a laggard's row is deleted at once"
    LEASE_FROM_THE_REPLY = "a lease is counted from the reply instead of from the sending"
    RENEWING_BEFORE_APPLYING = "a heartbeat extends the lease although the epoch has moved"
    CACHING_AN_INVALIDATED_LOAD = "an invalidated load is cached"
    SERVING_WITHOUT_A_LEASE = "memory decides without a lease"
    JOINING_AN_INVALIDATED_LOAD = "a call joins an invalidated load"
    JOINING_WITHOUT_A_LEASE = "a call joins a load after the lease has lapsed"
    RENEWING_BY_THE_SAME_HEARTBEAT = "what moved is applied and the lease extended, without another heartbeat"
    ACKNOWLEDGING_BEFORE_APPLYING = "a heartbeat writes the epoch that was announced instead of the one applied"
    SETTING_A_ROW_BACK = "a late heartbeat writes an older epoch over a newer one"
    LOADING_BEFORE_REGISTERED = "loads begin before the registration has committed"
    KEEPING_ENTRIES_OF_A_LOST_ROW = "the entries outlive the reader's row"
    KEEPING_LOADS_OF_A_LOST_ROW = "the loads in flight are not invalidated when the reader's row is gone"
    LEAVING_WITH_A_LEASE = "a reader removes its row and holds on to its lease"
    WAITING_FROM_BEFORE_THE_COMMIT = "a writer counts the TTL from before its commit"
    WAITING_FOR_A_LATER_EPOCH = "a writer that finds a later epoch than its own counts the TTL from its own commit"
    COMPARING_EPOCHS_ONLY = "a heartbeat is acknowledged in another history whose epoch is as high"
    APPLYING_THE_CHANGES_OF_ANOTHER_HISTORY = "changes are applied that do not follow the state that was applied"
    KEEPING_ENTRIES_OF_ANOTHER_HISTORY = "the entries stay although the database does not know their state"
    NOT_WAITING_FOR_UNKNOWN_READERS = "a change returns although the restored database may know nothing of a reader"
    TAKING_NO_GUARD_OFF = "a slow clock makes a lease last for longer than the TTL"


class Fence:
    """The rules, correct or with one mistake."""

    def __init__(
        self,
        *,
        ttl: int,
        readers: int,
        changes: int,
        later: int = 0,
        restores: bool = False,
        mistake: Mistake | None = None,
    ) -> None:
        """Make a fence with this many changes up to the revoke and after it, with or without a restore."""
        self._readers: list[Reader] = []
        self._numbers: dict[Reader, int] = {}
        nothing, fresh = Database(0, NONE, NONE), self._number(FRESH)
        self.start = State(nothing, 0, 0, (), returned=False, left_behind=False, readers=(fresh,) * readers)
        self._ttl = ttl
        self._revoke = changes
        self._changes = changes + later
        self._restores = restores
        self._mistake = mistake
        self._lease = ttl + (mistake is Mistake.TAKING_NO_GUARD_OFF)
        # A reader's steps depend on little but the reader, so they are computed once and not for each state.
        self._known_moves: dict[tuple[int, Database, bool], tuple[tuple[str, int], ...]] = {}
        self._known_older: dict[int, int] = {}

    def promise_holds(self, state: State) -> bool:
        """Return whether no call that began after the revoke had returned was granted."""
        return not any(self._readers[each].wronged for each in state.readers)

    def in_order(self, state: State) -> State:
        """Return the state with its readers sorted: the readers are alike, so their order means nothing."""
        readers = state.readers
        return state._replace(readers=readers[::-1]) if readers[-1] < readers[0] else state

    def _number(self, reader: Reader) -> int:
        number = self._numbers.setdefault(reader, len(self._readers))
        if number == len(self._readers):
            self._readers.append(reader)
        return number

    def successors(self, state: State) -> Iterator[Step]:
        """Yield every possible step: who takes it, what it is, and the state it leads to."""
        database, commits, unknown, waits, returned, left_behind, readers = state
        for at, number in enumerate(readers):
            who, before, behind = f"reader {at + 1}", readers[:at], readers[at + 1 :]
            for what, moved in self._moves(number, database, returned=returned):
                after = (*before, moved, *behind)
                # Most steps are these, and _replace takes longer.
                yield who, what, State(database, commits, unknown, waits, returned, left_behind, after)
            row, revoked = self._readers[number].row, database.revoked
            left = left_behind or (row != NONE and (revoked == NONE or row < revoked))
            yield who, "crashes", state._replace(left_behind=left, readers=(*before, self._number(FRESH), *behind))
        older = tuple(wait._replace(ticks=min(wait.ticks + 1, self._ttl)) for wait in state.waits)
        yield (
            "time",
            "passes",
            state._replace(waits=older, unknown=max(0, state.unknown - 1), readers=tuple(map(self._older, readers))),
        )
        yield from self._writers(state)
        yield from self._restore(state)

    def _restore(self, state: State) -> Iterator[Step]:
        database = state.database
        if not self._restores or database.revoked != NONE or database.kept != NONE:
            return
        for kept in range(database.epoch):
            after = Database(kept, kept, NONE)
            before = [self._readers[number] for number in state.readers]
            for rows in product(*(sorted({NONE, min(reader.row, kept)}) for reader in before)):
                readers = tuple(
                    self._number(reader._replace(row=row, statement=_cut_off(reader.statement)))
                    for reader, row in zip(before, rows, strict=True)
                )
                yield (
                    "database",
                    "is restored",
                    state._replace(database=after, unknown=self._ttl, waits=(), readers=readers),
                )

    def _writers(self, state: State) -> Iterator[Step]:
        database, waits = state.database, state.waits
        rows = [self._readers[number].row for number in state.readers]
        if state.commits < self._changes:
            revokes = state.commits + 1 == self._revoke
            ticks = 1 if self._mistake is Mistake.WAITING_FROM_BEFORE_THE_COMMIT else 0
            wait = Wait(database.epoch + 1, ticks, revokes)
            after = state._replace(
                database=database._replace(
                    epoch=database.epoch + 1, revoked=database.epoch + 1 if revokes else database.revoked
                ),
                commits=state.commits + 1,
                waits=(*waits, wait),
            )
            if revokes:
                readers = (self._readers[number].without_unread_loads() for number in state.readers)
                after = after._replace(readers=tuple(map(self._number, readers)))
            yield f"writer {after.commits}", "commits", after
        for at, wait in enumerate(waits):
            # A writer that reads the epoch after its commit may find a later one; so may the retry of a change.
            ticks = wait.ticks if self._mistake is Mistake.WAITING_FOR_A_LATER_EPOCH else 0
            anew = (*waits[:at], Wait(database.epoch, ticks, wait.revoke), *waits[at + 1 :])
            yield f"writer {at + 1}", "waits anew, for the epoch of now", state._replace(waits=anew)
            if wait.ticks == self._ttl or self._mistake is Mistake.NOT_WAITING_OUT_THE_TTL:
                for after in self._without_a_laggard(state, wait.epoch):
                    yield f"writer {at + 1}", "deletes a laggard's row", after
            acknowledged = not (state.left_behind or any(NONE < row < wait.epoch for row in rows))
            waited = not state.unknown or self._mistake is Mistake.NOT_WAITING_FOR_UNKNOWN_READERS
            if wait.revoke and acknowledged and waited and not state.returned:
                without = (*waits[:at], *waits[at + 1 :])
                yield f"writer {self._revoke}", "returns", state._replace(waits=without, returned=True)

    def _without_a_laggard(self, state: State, epoch: int) -> Iterator[State]:
        if state.left_behind:
            yield state._replace(left_behind=False)
        for at, number in enumerate(state.readers):
            reader = self._readers[number]
            if NONE < reader.row < epoch:
                without = self._number(reader._replace(row=NONE))
                yield state._replace(readers=(*state.readers[:at], without, *state.readers[at + 1 :]))

    def _older(self, number: int) -> int:
        known = self._known_older.get(number)
        if known is None:
            reader = self._readers[number]
            statement = reader.statement
            if statement.stage not in {"none", "row gone"}:
                statement = statement._replace(age=min(statement.age + 1, self._lease))
            known = self._number(reader._replace(lease=max(0, reader.lease - 1), statement=statement))
            self._known_older[number] = known
        return known

    def _moves(self, number: int, database: Database, *, returned: bool) -> tuple[tuple[str, int], ...]:
        key = number, database, returned
        known = self._known_moves.get(key)
        if known is None:
            reader = self._readers[number]
            moves = (
                *self._registration(reader, database),
                *self._heartbeat(reader, database),
                *self._giving_up(reader, database),
                *self._leaving(reader),
                *self._applying(reader, database),
                *self._loads(reader, database),
                *self._calls(reader, database, returned=returned),
            )
            known = self._known_moves[key] = tuple((what, self._number(moved)) for what, moved in moves)
        return known

    def _registration(self, reader: Reader, database: Database) -> Iterator[Move]:
        statement = reader.statement
        match statement.stage:
            case "none" if reader.applied == NONE:
                yield "sends its registration", reader._replace(statement=NO_STATEMENT._replace(stage="insert sent"))
            case "insert sent":
                read = statement._replace(stage="insert read", found=database.revision(database.epoch))
                yield "has its registration read the epoch", reader._replace(statement=read)
            case "insert read":
                done = statement._replace(stage="insert done")
                row = epoch_of(statement.found)
                yield "has its row committed", reader._replace(row=row, statement=done)
            case "insert done":
                yield "learns that it is registered", self._renewed(reader._replace(applied=statement.found))
            case _:
                pass

    def _heartbeat(self, reader: Reader, database: Database) -> Iterator[Move]:
        statement = reader.statement
        match statement.stage:
            case "none" if reader.applied != NONE:
                current = database.revision(database.epoch)
                written = current if self._mistake is Mistake.ACKNOWLEDGING_BEFORE_APPLYING else reader.applied
                yield "sends a heartbeat", reader._replace(statement=Statement("update sent", 0, written, NONE))
            case "update sent" if not self._is_known(database, statement.written):
                gone = NO_STATEMENT._replace(stage="state unknown")
                yield "has its heartbeat find that its state is unknown", reader._replace(statement=gone)
            case "update sent":
                read = statement._replace(stage="update read", found=database.revision(database.epoch))
                yield "has its heartbeat read the epoch", reader._replace(statement=read)
            case "update read" if reader.row == NONE:
                gone = NO_STATEMENT._replace(stage="row gone")
                yield "has its heartbeat find no row", reader._replace(statement=gone)
            case "update read":
                row, done = max(reader.row, epoch_of(statement.written)), statement._replace(stage="update done")
                yield "has its heartbeat write its row", reader._replace(row=row, statement=done)
            case "update done" if self._may_renew(reader):
                yield "extends its lease", self._renewed(reader)
            case "update done":
                yield "learns that the epoch has moved", reader._replace(statement=NO_STATEMENT)
            case "row gone":
                yield "drops everything, its row being gone", self._unregistered(reader)
            case "state unknown":
                keeps = self._mistake is Mistake.KEEPING_ENTRIES_OF_ANOTHER_HISTORY
                after = self._unregistered(reader)
                yield (
                    "drops everything, its state being unknown",
                    after._replace(row=NONE, cached=reader.cached if keeps else after.cached),
                )
            case _:
                pass

    def _is_known(self, database: Database, revision: int) -> bool:
        if self._mistake is Mistake.COMPARING_EPOCHS_ONLY:
            return epoch_of(revision) <= database.epoch
        return database.knows(revision)

    def _may_renew(self, reader: Reader) -> bool:
        if self._mistake is Mistake.RENEWING_BEFORE_APPLYING:
            return True
        if self._mistake is Mistake.RENEWING_BY_THE_SAME_HEARTBEAT:
            return epoch_of(reader.statement.found) <= epoch_of(reader.applied)
        if self._mistake is Mistake.COMPARING_EPOCHS_ONLY:
            return epoch_of(reader.statement.found) == epoch_of(reader.statement.written)
        return reader.statement.found == reader.statement.written

    def _renewed(self, reader: Reader) -> Reader:
        age = 0 if self._mistake is Mistake.LEASE_FROM_THE_REPLY else reader.statement.age
        return reader._replace(lease=max(reader.lease, self._lease - age), statement=NO_STATEMENT)

    def _unregistered(self, reader: Reader) -> Reader:
        after = reader._replace(applied=NONE, lease=0, statement=NO_STATEMENT, given_up=NONE)
        if self._mistake is not Mistake.KEEPING_ENTRIES_OF_A_LOST_ROW:
            after = after._replace(cached=False)
        return after if self._mistake is Mistake.KEEPING_LOADS_OF_A_LOST_ROW else after.invalidated()

    def _giving_up(self, reader: Reader, database: Database) -> Iterator[Move]:
        """Give up a statement: a heartbeat that nobody waits for may still run, even after later ones."""
        sets_back = self._mistake is Mistake.SETTING_A_ROW_BACK
        stage, _, written, _ = reader.statement
        if stage in {"update sent", "update read"}:
            yet_to_write = written if sets_back else max(written, reader.given_up)
            if epoch_of(yet_to_write) <= reader.row and not sets_back:
                yet_to_write = NONE
            yield "gives its heartbeat up", reader._replace(statement=NO_STATEMENT, given_up=yet_to_write)
        elif stage in {"update done", "row gone", "state unknown"}:
            yield "gives its heartbeat up", reader._replace(statement=NO_STATEMENT)
        if reader.given_up != NONE and self._is_known(database, reader.given_up):
            row = reader.row
            if row != NONE:
                row = epoch_of(reader.given_up) if sets_back else max(row, epoch_of(reader.given_up))
            yield "a heartbeat that it gave up is executed", reader._replace(row=row, given_up=NONE)

    def _leaving(self, reader: Reader) -> Iterator[Move]:
        if reader.applied != NONE:
            with_lease = self._mistake is Mistake.LEAVING_WITH_A_LEASE
            yield "leaves, and removes its row", reader._replace(row=NONE) if with_lease else FRESH

    def _applying(self, reader: Reader, database: Database) -> Iterator[Move]:
        """Yield the steps of applying changes: they may be applied late, so they need not reach the current epoch."""
        follows = database.knows(reader.applied)
        if reader.applied == NONE or not (follows or self._mistake is Mistake.APPLYING_THE_CHANGES_OF_ANOTHER_HISTORY):
            return
        for applied in range(epoch_of(reader.applied) + 1, database.epoch + 1):
            after = reader._replace(applied=database.revision(applied))
            if epoch_of(reader.applied) < database.revoked <= applied:
                after = after._replace(cached=False).invalidated()
            yield "applies what has changed", after

    def _loads(self, reader: Reader, database: Database) -> Iterator[Move]:
        registering = reader.statement.stage in {"insert sent", "insert read"}
        may_load = reader.lease or (registering and self._mistake is Mistake.LOADING_BEFORE_REGISTERED)
        wanted = not reader.cached and all(each.invalidated for each in reader.loads)
        if database.revoked == NONE and may_load and wanted:
            load = Load(read=False, invalidated=False, awaited=False)
            yield "begins a load", reader.with_loads(*reader.loads, load)
        for load in reader.loads:
            others = (each for each in reader.loads if each != load)
            if load.read:
                caches = not load.invalidated or self._mistake is Mistake.CACHING_AN_INVALIDATED_LOAD
                after = reader._replace(cached=reader.cached or caches, wronged=load.awaited)
                yield "finishes a load and grants the calls that wait", after.with_loads(*others)
            else:
                yield "a load reads the old state", reader.with_loads(*others, load._replace(read=True))

    def _calls(self, reader: Reader, database: Database, *, returned: bool) -> Iterator[Move]:
        if database.revoked == NONE:
            yield "grants a call from Postgres", reader._replace(wronged=returned)
        if reader.cached and (reader.lease or self._mistake is Mistake.SERVING_WITHOUT_A_LEASE):
            yield "grants a call from memory", reader._replace(wronged=returned)
        if reader.lease or self._mistake is Mistake.JOINING_WITHOUT_A_LEASE:
            for load in reader.loads:
                if not load.invalidated or self._mistake is Mistake.JOINING_AN_INVALIDATED_LOAD:
                    others = (each for each in reader.loads if each != load)
                    joined = load._replace(awaited=load.awaited or returned)
                    yield "lets a call join a load", reader.with_loads(*others, joined)


def _cut_off(statement: Statement) -> Statement:
    """Return the state after a restore: running statements are lost, unsent ones may reach the restored database."""
    return NO_STATEMENT if statement.stage in {"insert read", "update read"} else statement
