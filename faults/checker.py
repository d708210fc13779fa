"""Whether a history is one that the service may produce. The checker knows the promises, not how they are kept.

For one token, the state of the service has four parts: whether its secret was replaced, whether its key was revoked,
whether its key has expired, and the version of its workspace. An outcome is right if it follows from a state that may
have been current at some moment between the call's begin and its end. A change may be in force from the begin of its
first attempt on, and is certainly in force once an attempt has returned OK. In between, and for ever if none returned
OK, both are possible. The same holds for an expiry, when the grace of a rotation has passed since then.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from faults.history import FORGED, OK, UNDER_WAY, Apply, Authorize, Denied, Failed, Granted, Issue, Revoke, Rotate

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from faults.history import Change, History, Outcome, Reach

Kind = Literal[
    "granted after its revocation",
    "granted after its expiry",
    "granted after its renewal",
    "granted with a forged secret",
    "granted by a state that was not",
    "denied while good",
    "denied for a wrong reason",
    "renewed after its use",
    "failed without an outage",
    "lost",
    "undecided at the end",
]

OUTAGES = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED"})
"""The codes of calls whose response was lost: it is unknown whether they took effect."""

_REFUSALS = {
    Issue: frozenset({"ALREADY_EXISTS", "FAILED_PRECONDITION"}),
    Rotate: frozenset({"ALREADY_EXISTS", "FAILED_PRECONDITION"}),
    Revoke: frozenset[str](),
    Apply: frozenset({"ABORTED"}),
}
"""The codes that say that nothing was changed, for reasons that can occur in a run."""

_NEVER = 2**63
_SLACK = 10_000_000
"""Nanoseconds by which the clocks of the clients and of Postgres, on one machine, may differ within a grace."""
_BEFORE_EXPIRY = frozenset({"WORKSPACE_GONE", "MEMBER_REMOVED"})


@dataclass(frozen=True, slots=True)
class Violation:
    """An outcome that breaks a promise. `via` is the server that was called, if a query had the outcome."""

    kind: Kind
    subject: str
    at: int
    details: str = ""
    via: str = ""

    def __str__(self) -> str:
        """For people."""
        return f"{self.subject}: {self.kind}; {self.details}"


@dataclass(slots=True)
class _Event:
    """Something that happens once, by one of several attempts: the earliest possible time, and the latest."""

    begin: int = _NEVER
    settled: int = _NEVER

    def attempt(self, change: Change, *, settles: bool = True) -> None:
        self.begin = min(self.begin, change.begin)
        if change.code == OK and settles:
            self.settled = min(self.settled, change.end)

    def may_have_happened(self, call: Authorize) -> tuple[bool, ...]:
        """Return the possible values, at some moment of a call, of whether the event has happened."""
        if self.settled < call.begin:
            return (True,)
        return (False, True) if self.begin <= call.end else (False,)


@dataclass(slots=True)
class _Token:
    issue: Issue | Rotate
    replaced: _Event = field(default_factory=_Event)
    used: _Event = field(default_factory=_Event)

    def replacements(self, call: Authorize) -> tuple[bool, ...]:
        # A used key is never renewed, so an attempt without a response had not renewed it.
        if self.used.settled < call.begin <= self.replaced.settled:
            return (False,)
        return self.replaced.may_have_happened(call)


class _Versions:
    """The states that a workspace went through."""

    def __init__(self, attempts: Iterable[Apply]) -> None:
        events: dict[int, _Event] = defaultdict(_Event)
        reach = {}
        for attempt in attempts:
            events[attempt.version].attempt(attempt)
            reach[attempt.version] = attempt.reach
        ordered = sorted(events)
        self._reach = [reach[version] for version in ordered]
        self._begins = [events[version].begin for version in ordered]
        settled = [(events[version].settled, place) for place, version in enumerate(ordered)]
        self._settled = [(time, place) for time, place in settled if time != _NEVER]

    def current(self, call: Authorize) -> list[Reach | None]:
        """Return every state that may have been current at some moment of a call."""
        before = bisect_left(self._settled, (call.begin, -1))
        first = self._settled[before - 1][1] if before else 0
        return self._reach[first : bisect_right(self._begins, call.end)]


class _Facts:
    """The changes of a history, arranged for look-ups."""

    def __init__(self, history: History) -> None:
        self.tokens: dict[tuple[str, int], _Token] = {}
        self.revoked: dict[str, _Event] = defaultdict(_Event)
        self.expired: dict[str, _Event] = defaultdict(_Event)
        applied: dict[str, list[Apply]] = defaultdict(list)
        attempts: dict[str, list[Issue | Rotate]] = defaultdict(list)
        for change in history.changes:
            if change.code in _REFUSALS[type(change)]:
                continue
            if isinstance(change, Rotate):
                self.expired[change.predecessor].attempt(_after_its_grace(change))
            if isinstance(change, Issue | Rotate):
                attempts[change.key].append(change)
            elif isinstance(change, Revoke):
                self.revoked[change.key].attempt(change)
            else:
                applied[change.workspace].append(change)
        self.workspaces = {workspace: _Versions(each) for workspace, each in applied.items()}
        for key, issues in attempts.items():
            for issue in issues:
                if issue.code == OK:
                    self.tokens[key, issue.attempt] = _token(issue, issues)
        self._note_uses(history.authorizations)

    def _note_uses(self, authorizations: Iterable[Authorize]) -> None:
        for call in authorizations:
            if isinstance(call.outcome, Granted) and call.token != FORGED:
                used = self.tokens[call.key, call.token].used
                used.begin, used.settled = min(used.begin, call.begin), min(used.settled, call.end)


def _after_its_grace(rotation: Rotate) -> Rotate:
    """Return a rotation at the time when its predecessor expires. A retry does not make that later."""
    begin, end = rotation.begin + rotation.grace - _SLACK, rotation.end + rotation.grace + _SLACK
    return replace(rotation, begin=begin, end=end)


def _token(issue: Issue | Rotate, attempts: Iterable[Issue | Rotate]) -> _Token:
    token = _Token(issue)
    for other in attempts:
        # An attempt that returned before this one began has taken effect. One whose response was lost may be delayed,
        # and take effect after later attempts.
        if other is not issue and not (other.code == OK and other.end < issue.begin):
            token.replaced.attempt(other, settles=other.begin > issue.end)
    return token


def check(history: History) -> list[Violation]:
    """Return every violation of a history in order of time, or none if the service kept its promises.

    If `listed` is set, the run was complete: then every token must have a final outcome, and the right one.
    """
    facts = _Facts(history)
    found = [violation for call in history.authorizations if (violation := _judged(call, facts))]
    found += _failed_changes(history.changes)
    found += _used_and_renewed(facts)
    found += _at_the_end(history, facts)
    return sorted(found, key=lambda violation: violation.at)


def _judged(call: Authorize, facts: _Facts) -> Violation | None:
    outcome = call.outcome
    name = f"{call.key}/{call.token}"
    if isinstance(outcome, Failed):
        if outcome.code not in OUTAGES:
            return Violation("failed without an outage", name, call.begin, outcome.code)
        return None
    possible = set(_possible(call, facts))
    if outcome in possible:
        return None
    expected = " or ".join(sorted(map(str, possible)))
    details = f"asked {call.via or 'a server'} at {call.begin}: {outcome}, expected {expected}"
    return Violation(_kind(call, possible, facts), name, call.begin, details, call.via)


def _possible(call: Authorize, facts: _Facts) -> Iterator[Outcome]:
    """Yield the right outcomes."""
    if call.token == FORGED:
        yield Denied("UNKNOWN")
        return
    token = facts.tokens[call.key, call.token]
    replaced = token.replacements(call)
    if True in replaced:
        yield Denied("UNKNOWN")
    if False not in replaced:
        return
    revoked = facts.revoked[call.key].may_have_happened(call)
    if True in revoked:
        yield Denied("REVOKED")
    if False not in revoked:
        return
    expired = facts.expired[call.key].may_have_happened(call)
    for reach in facts.workspaces[token.issue.workspace].current(call):
        outcome = _by_reach(reach, token.issue.subject, call.tool)
        if isinstance(outcome, Denied) and outcome.reason in _BEFORE_EXPIRY:
            yield outcome
            continue
        if True in expired:
            yield Denied("EXPIRED")
        if False in expired:
            yield outcome


def _by_reach(reach: Reach | None, subject: str, tool: str) -> Outcome:
    if reach is None:
        return Denied("WORKSPACE_GONE")
    tools = reach.get(subject)
    if tools is None:
        return Denied("MEMBER_REMOVED")
    if not tool:
        return Granted(tools)
    return Granted(frozenset({tool})) if tool in tools else Denied("TOOL_NOT_ALLOWED")


def _kind(call: Authorize, possible: set[Outcome], facts: _Facts) -> Kind:
    if isinstance(call.outcome, Denied):
        if any(isinstance(each, Denied) for each in possible):
            return "denied for a wrong reason"
        return "lost" if call.last else "denied while good"
    if call.token == FORGED:
        return "granted with a forged secret"
    ends: dict[Kind, tuple[bool, ...]] = {
        "granted after its renewal": facts.tokens[call.key, call.token].replacements(call),
        "granted after its revocation": facts.revoked[call.key].may_have_happened(call),
        "granted after its expiry": facts.expired[call.key].may_have_happened(call),
    }
    return next((kind for kind, ended in ends.items() if ended == (True,)), "granted by a state that was not")


def _failed_changes(changes: Iterable[Change]) -> Iterator[Violation]:
    for change in changes:
        if change.code not in {OK, UNDER_WAY} | OUTAGES | _REFUSALS[type(change)]:
            subject = change.workspace if isinstance(change, Apply) else change.key
            details = f"{type(change).__name__}: {change.code}"
            yield Violation("failed without an outage", subject, change.begin, details)


def _used_and_renewed(facts: _Facts) -> Iterator[Violation]:
    """Yield violations by used secrets: a used secret stays, so one replaced after its issue must never be granted.

    Grants that began after the renewal are violations by themselves; these are the ones before.
    """
    for (key, number), token in facts.tokens.items():
        renewed = token.replaced.settled
        if token.used.begin <= renewed < _NEVER:
            yield Violation(
                "renewed after its use", f"{key}/{number}", renewed, "the used token does not work any more"
            )


def _at_the_end(history: History, facts: _Facts) -> Iterator[Violation]:
    if history.listed is None:
        return
    end = max((call.end for call in history.authorizations), default=0)
    decided = {
        (call.key, call.token) for call in history.authorizations if call.last and not isinstance(call.outcome, Failed)
    }
    for key, number in facts.tokens.keys() - decided:
        yield Violation("undecided at the end", f"{key}/{number}", end, "no call decided whether it is good")
    for key in {key for key, _ in facts.tokens}:
        active = history.listed.get(key)
        if active is None:
            yield Violation("lost", key, end, "ListKeys does not show it")
        elif active and facts.revoked[key].settled != _NEVER:
            yield Violation("lost", key, end, "it was revoked, and ListKeys shows it as active")
        elif not active and facts.revoked[key].begin == _NEVER:
            yield Violation("lost", key, end, "it was never revoked, and ListKeys shows it as revoked")
