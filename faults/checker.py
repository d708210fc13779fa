"""Whether a history is one that the service may produce. The checker knows the promises, not how they are kept.

For one token, the state of the service has six parts: whether its secret was replaced, whether its key was revoked,
whether its key has expired, whether it is suspended, to which hats and networks it is limited, and the version of its
workspace. An outcome is right if it follows from a state that may have been current at some moment between the call's
begin and its end. A change may be in force from the begin of its
first attempt on, and is certainly in force once an attempt has returned OK. In between, and for ever if none returned
OK, both are possible. The same holds for an expiry, when the grace of a rotation has passed since then.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Literal

from faults.facts import NEVER, REFUSALS, Facts
from faults.history import FORGED, OK, UNDER_WAY, Apply, Authorize, Denied, Failed, Granted, hat_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from faults.history import Change, History, Limits, Outcome, Reach

Kind = Literal[
    "granted after its revocation",
    "granted after its expiry",
    "granted after its renewal",
    "granted while suspended",
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


def check(history: History) -> list[Violation]:
    """Return every violation of a history in order of time, or none if the service kept its promises.

    If `listed` is set, the run was complete: then every token must have a final outcome, and the right one.
    """
    facts = Facts(history)
    found = [violation for call in history.authorizations if (violation := _judged(call, facts))]
    found += _failed_changes(history.changes)
    found += _used_and_renewed(facts)
    found += _at_the_end(history, facts)
    return sorted(found, key=lambda violation: violation.at)


def _judged(call: Authorize, facts: Facts) -> Violation | None:
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


def _possible(call: Authorize, facts: Facts) -> Iterator[Outcome]:
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
    for reach in facts.workspaces[token.issue.workspace].current(call):
        for limits in facts.limits[call.key].current(call):
            outcome = _by_reach(reach, token.issue.subject, limits, call)
            if isinstance(outcome, Denied) and outcome.reason in _BEFORE_EXPIRY:
                yield outcome
            else:
                yield from _while_it_lasts(outcome, call, facts)


def _while_it_lasts(outcome: Outcome, call: Authorize, facts: Facts) -> Iterator[Outcome]:
    """Yield an outcome, or that the key has expired or is suspended, as far as that is possible."""
    expired, suspended = facts.expired[call.key].may_have_happened(call), facts.suspensions[call.key].possible(call)
    if True in expired:
        yield Denied("EXPIRED")
    if False in expired:
        if True in suspended:
            yield Denied("SUSPENDED")
        if False in suspended:
            yield outcome


def _by_reach(reach: Reach | None, subject: str, limits: Limits, call: Authorize) -> Outcome:
    if reach is None:
        return Denied("WORKSPACE_GONE")
    tools = reach.get(subject)
    if tools is None:
        return Denied("MEMBER_REMOVED")
    if limits.networks is not None and not _is_in(call.source, limits.networks):
        return Denied("SOURCE_NOT_ALLOWED")
    if limits.hats is not None:
        tools = frozenset(each for each in tools if hat_of(each) in limits.hats)
    if not call.tool:
        return Granted(tools)
    return Granted(frozenset({call.tool})) if call.tool in tools else Denied("TOOL_NOT_ALLOWED")


def _is_in(source: str, networks: Iterable[str]) -> bool:
    return bool(source) and any(ip_address(source) in ip_network(each) for each in networks)


def _kind(call: Authorize, possible: set[Outcome], facts: Facts) -> Kind:
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
        "granted while suspended": tuple(facts.suspensions[call.key].possible(call)),
    }
    return next((kind for kind, ended in ends.items() if ended == (True,)), "granted by a state that was not")


def _failed_changes(changes: Iterable[Change]) -> Iterator[Violation]:
    for change in changes:
        if change.code not in {OK, UNDER_WAY} | OUTAGES | REFUSALS[type(change)]:
            subject = change.workspace if isinstance(change, Apply) else change.key
            details = f"{type(change).__name__}: {change.code}"
            yield Violation("failed without an outage", subject, change.begin, details)


def _used_and_renewed(facts: Facts) -> Iterator[Violation]:
    """Yield violations by used secrets: a used secret stays, so one replaced after its issue must never be granted.

    Grants that began after the renewal are violations by themselves; these are the ones before.
    """
    for (key, number), token in facts.tokens.items():
        renewed = token.replaced.settled
        if token.used.begin <= renewed < NEVER:
            yield Violation(
                "renewed after its use", f"{key}/{number}", renewed, "the used token does not work any more"
            )


def _at_the_end(history: History, facts: Facts) -> Iterator[Violation]:
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
        elif active and facts.revoked[key].settled != NEVER:
            yield Violation("lost", key, end, "it was revoked, and ListKeys shows it as active")
        elif not active and facts.revoked[key].begin == NEVER:
            yield Violation("lost", key, end, "it was never revoked, and ListKeys shows it as revoked")
