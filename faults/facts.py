"""The changes of a history, arranged by what may have been the state of a key at some moment of a call.

Part of the checker: see there for the rules.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Generic, TypeVar

from faults.history import FORGED, OK, Apply, Granted, Issue, Limit, Limits, Revoke, Rotate, Suspend

if TYPE_CHECKING:
    from collections.abc import Iterable

    from faults.history import Authorize, Change, History

State = TypeVar("State")
Kind = TypeVar("Kind")
Item = TypeVar("Item")

REFUSALS = {
    Issue: frozenset({"ALREADY_EXISTS", "FAILED_PRECONDITION"}),
    Rotate: frozenset({"ALREADY_EXISTS", "FAILED_PRECONDITION"}),
    Revoke: frozenset[str](),
    Suspend: frozenset({"FAILED_PRECONDITION"}),
    Limit: frozenset({"ABORTED"}),
    Apply: frozenset({"ABORTED"}),
}
"""The codes that say that nothing was changed, for reasons that can occur in a run."""

NEVER = 2**63
_SLACK = 10_000_000
"""Nanoseconds by which the clocks of the clients and of Postgres, on one machine, may differ within a grace."""


@dataclass(slots=True)
class Event:
    """Something that happens once, by one of several attempts: the earliest possible time, and the latest."""

    begin: int = NEVER
    settled: int = NEVER

    def attempt(self, change: Change, *, settles: bool = True) -> None:
        """Note an attempt; it settles the event if it has succeeded, unless others can take effect after it."""
        self.begin = min(self.begin, change.begin)
        if change.code == OK and settles:
            self.settled = min(self.settled, change.end)

    def may_have_happened(self, call: Authorize) -> tuple[bool, ...]:
        """Return the possible values, at some moment of a call, of whether the event has happened."""
        if self.settled < call.begin:
            return (True,)
        return (False, True) if self.begin <= call.end else (False,)


@dataclass(slots=True)
class IssuedToken:
    """A token that an attempt has returned: when it was replaced by another attempt, and when it was used."""

    issue: Issue | Rotate
    replaced: Event = field(default_factory=Event)
    used: Event = field(default_factory=Event)

    def replacements(self, call: Authorize) -> tuple[bool, ...]:
        """Return the possible values of whether it was replaced."""
        # A used key is never renewed, so an attempt without a response had not renewed it.
        if self.used.settled < call.begin <= self.replaced.settled:
            return (False,)
        return self.replaced.may_have_happened(call)


class States(Generic[State]):
    """The states that something went through, in order."""

    def __init__(self, attempts: Iterable[tuple[int, Change, State]], first: tuple[State, ...] = ()) -> None:
        """Make the states of attempts, each with the number of the state that it makes.

        Args:
            attempts: The attempts.
            first: The state before all of them, if there is one.
        """
        events: dict[int, Event] = defaultdict(Event)
        states: dict[int, State] = {}
        for state in first:
            events[0].begin = events[0].settled = -1
            states[0] = state
        for number, attempt, state in attempts:
            events[number].attempt(attempt)
            states[number] = state
        ordered = sorted(events)
        self._states = [states[number] for number in ordered]
        self._begins = [events[number].begin for number in ordered]
        settled = [(events[number].settled, place) for place, number in enumerate(ordered)]
        self._settled = [(time, place) for time, place in settled if time != NEVER]

    def current(self, call: Authorize) -> list[State]:
        """Return every state that may have been current at some moment of a call."""
        before = bisect_left(self._settled, (call.begin, -1))
        first = self._settled[before - 1][1] if before else 0
        return self._states[first : bisect_right(self._begins, call.end)]


class Suspensions:
    """Whether a key was suspended. An attempt whose response was lost may be delayed, and take effect at any time."""

    def __init__(self, attempts: Iterable[Suspend]) -> None:
        attempts = list(attempts)
        self._states = States([(each.number, each, each.suspended) for each in attempts], (False,))
        self._lost = [each for each in attempts if each.code != OK]

    def possible(self, call: Authorize) -> set[bool]:
        """Return whether the key may have been suspended at some moment of a call, and whether it may have been not."""
        return {*self._states.current(call), *(each.suspended for each in self._lost if each.begin <= call.end)}


class Facts:
    """The changes of a history, arranged for look-ups."""

    def __init__(self, history: History) -> None:
        self.tokens: dict[tuple[str, int], IssuedToken] = {}
        self.revoked: dict[str, Event] = defaultdict(Event)
        self.expired: dict[str, Event] = defaultdict(Event)
        changes = [each for each in history.changes if each.code not in REFUSALS[type(each)]]
        for revocation in _of(changes, Revoke):
            self.revoked[revocation.key].attempt(revocation)
        for rotation in _of(changes, Rotate):
            self.expired[rotation.predecessor].attempt(_after_its_grace(rotation))
        applied = _grouped((each.workspace, (each.version, each, each.reach)) for each in _of(changes, Apply))
        limited = _grouped((each.key, (each.number, each, each.limits)) for each in _of(changes, Limit))
        suspended = _grouped((each.key, each) for each in _of(changes, Suspend))
        issued = _grouped((each.key, each) for each in changes if isinstance(each, Issue | Rotate))
        self.workspaces = {workspace: States(each) for workspace, each in applied.items()}
        self.limits = {key: States(limited[key], (Limits(),)) for key in issued}
        self.suspensions = {key: Suspensions(suspended[key]) for key in issued}
        for key, attempts in issued.items():
            for attempt in attempts:
                if attempt.code == OK:
                    self.tokens[key, attempt.attempt] = _issued_token(attempt, attempts)
        self._note_uses(history.authorizations)

    def _note_uses(self, authorizations: Iterable[Authorize]) -> None:
        for call in authorizations:
            if isinstance(call.outcome, Granted) and call.token != FORGED:
                used = self.tokens[call.key, call.token].used
                used.begin, used.settled = min(used.begin, call.begin), min(used.settled, call.end)


def _of(changes: Iterable[Change], kind: type[Kind]) -> list[Kind]:
    return [each for each in changes if isinstance(each, kind)]


def _grouped(pairs: Iterable[tuple[str, Item]]) -> dict[str, list[Item]]:
    groups: dict[str, list[Item]] = defaultdict(list)
    for name, item in pairs:
        groups[name].append(item)
    return groups


def _after_its_grace(rotation: Rotate) -> Rotate:
    """Return a rotation at the time when its predecessor expires. A retry does not make that later."""
    begin, end = rotation.begin + rotation.grace - _SLACK, rotation.end + rotation.grace + _SLACK
    return replace(rotation, begin=begin, end=end)


def _issued_token(issue: Issue | Rotate, attempts: Iterable[Issue | Rotate]) -> IssuedToken:
    token = IssuedToken(issue)
    for other in attempts:
        # An attempt that returned before this one began has taken effect. One whose response was lost may be delayed,
        # and take effect after later attempts.
        if other is not issue and not (other.code == OK and other.end < issue.begin):
            token.replaced.attempt(other, settles=other.begin > issue.end)
    return token
