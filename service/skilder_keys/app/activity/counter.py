"""Count decisions in memory. This is on the hot path of Authorize.

docs/design/activity.md has what it costs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.domain.token import hint_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from uuid import UUID

    from skilder_keys.domain.ids import KeyId

MAX_HINTS = 100
"""How many hints of tokens that prove no key are told apart in a minute: anybody can make such tokens up."""

GRANTED = 0
_MINUTE = 60.0
_FACT_BITS = 2**60 - 1
"""An integer of at most 60 bits takes 32 bytes, a longer one 48."""

Place = tuple[int | None, str | None, str, int]
"""What is counted: the key as a number, the tool or, without a key, the hint, the caller, and the outcome."""


class Cell:
    """The calls of one kind in one minute. Times are seconds of the clock of the counter."""

    __slots__ = ("count", "first", "key_id", "last", "source")

    def __init__(self, key_id: UUID | None, now: float) -> None:
        self.key_id = key_id
        self.count = 0
        self.first = now
        self.last = now
        self.source = ""


class Minute(NamedTuple):
    """The cells of a minute.

    Attributes:
        number: The minute, counted since 1970-01-01 UTC, by the clock of the database.
        began: When it began, by the clock of the counter.
        cells: What was counted in it.
    """

    number: int
    began: float
    cells: dict[Place, Cell]


class ActivityCounter:
    """Counts decisions by minute, key, tool, caller and outcome, within bounds.

    Minutes are those of the database's clock, since one fact is counted by many processes.

    Attributes:
        waiting: How many cells were taken and are not in the journal yet.
        dropped: How many calls were not counted, because too many cells wait.
        retired: The facts of earlier minutes. Whoever flushes frees them, in slices: they may be many.
        collapsed: How many calls were counted without their tool or hint, because there are too many facts in a minute.
    """

    def __init__(self, clock: Callable[[], float], budget: int, max_cells: int) -> None:
        """Make an empty counter. Set its time before the first call.

        Args:
            clock: Returns the seconds of CLOCK_BOOTTIME.
            budget: How many different facts of a minute are told apart.
            max_cells: The most cells in memory.
        """
        self.clock = clock
        self._budget = budget
        self._max_cells = max_cells
        self._ahead = 0.0
        self._cells: dict[Place, Cell] = {}
        self._closed: list[Minute] = []
        # Hashes of their places, which stay for a minute: a place takes 100 bytes more, with the id of its tool. Of two
        # places with the same hash only one counts for the budget; each of them has a cell of its own all the same.
        self._facts: set[int] = set()
        self._hints = 0
        self._number = 0
        self._began = 0.0
        self._end = 0.0
        self.waiting = 0
        self.dropped = 0
        self.collapsed = 0
        self.retired: list[set[int]] = []

    @property
    def cells(self) -> int:
        """How many cells are in memory."""
        return len(self._cells) + self.waiting

    @property
    def facts(self) -> int:
        """How many different facts were counted in this minute."""
        return len(self._facts)

    def set_time(self, database_time: float, now: float) -> None:
        """Set what the clock of the database shows at a time, in seconds since 1970."""
        self._ahead = database_time - now

    def database_time(self) -> float:
        """Return what the clock of the database shows now."""
        return self.clock() + self._ahead

    def count(self, key_id: KeyId, tool: str | None, caller: str, outcome: int, source_ip: str, now: float) -> None:
        """Count a decision about a key.

        Args:
            key_id: The key.
            tool: The tool by id; empty for none, None for one whose id is not known.
            caller: The name of the caller.
            outcome: GRANTED, or the number of the denial's reason in the API.
            source_ip: The address from which the token was presented, valid; empty if the caller did not say it.
            now: The time.
        """
        if now >= self._end:
            self._turn(now)
        place = (key_id.int, tool, caller, outcome)
        cell = self._cells.get(place)
        if cell is None:
            cell = self._new(place, key_id, now)
            if cell is None:
                return
        cell.count += 1
        cell.last = now
        if source_ip:
            cell.source = source_ip

    def count_unproven(self, text: str, caller: str, outcome: int, source_ip: str, now: float) -> None:
        """Count the denial of a token that proves no key, with its hint if it is well-formed."""
        if now >= self._end:
            self._turn(now)
        place = (None, hint_of(text), caller, outcome)
        cell = self._cells.get(place) or self._new(place, None, now)
        if cell is None:
            return
        cell.count += 1
        cell.last = now
        if source_ip:
            cell.source = source_ip

    def take(self) -> list[Minute]:
        """Return what was counted since the last call, and count it as waiting until `release`."""
        self._close()
        taken, self._closed = self._closed, []
        return taken

    def release(self, cells: int) -> None:
        """Note that cells are in the journal."""
        self.waiting -= cells

    def _turn(self, now: float) -> None:
        """Begin the minute that it is now."""
        self._close()
        if self._facts:
            self.retired.append(self._facts)
        self._facts = set()
        self._hints = 0
        self._number = int((now + self._ahead) // _MINUTE)
        self._began = self._number * _MINUTE - self._ahead
        self._end = self._began + _MINUTE

    def _close(self) -> None:
        if self._cells:
            self._closed.append(Minute(self._number, self._began, self._cells))
            self.waiting += len(self._cells)
            self._cells = {}

    def _new(self, place: Place, key_id: KeyId | None, now: float) -> Cell | None:
        """Return a cell for what has none; None if there is no room."""
        fact = hash(place) & _FACT_BITS
        if fact not in self._facts:
            if len(self._facts) >= self._budget or (key_id is None and place[1] and self._hints >= MAX_HINTS):
                self.collapsed += 1
                place = (place[0], "" if key_id is None else None, place[2], place[3])
                found = self._cells.get(place)
                if found is not None:
                    return found
                fact = hash(place) & _FACT_BITS
            elif key_id is None and place[1]:
                self._hints += 1
            if len(self._cells) + self.waiting < self._max_cells:
                self._facts.add(fact)
        if len(self._cells) + self.waiting >= self._max_cells:
            self.dropped += 1
            return None
        cell = self._cells[place] = Cell(key_id, now)
        return cell
