"""Check the chain of a workspace's audit events, and say where it is broken."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.domain.audit_chain import GENESIS, content_of, next_hash, older_content

if TYPE_CHECKING:
    from skilder_keys.domain.audit_chain import ChainedEvent, OlderEvent

PURGED, PRUNED, ANCHORED = "key.purged", "audit.pruned", "audit.anchored"
_EXPLAINING = frozenset({PURGED, PRUNED, ANCHORED})


class Fault(Enum):
    """What is wrong with a chain."""

    EDITED = "edited"
    MISSING = "missing"
    REPEATED = "repeated"
    CUT_OFF = "cut off"
    HEAD = "head differs"
    ERASED = "erased"
    OLDER = "older events differ"


class Finding(NamedTuple):
    """One place where a chain is broken.

    Attributes:
        number: The event, or the first of several; 0 for events from before the chain.
        words: What was found, in a sentence.
    """

    workspace_id: str
    number: int
    fault: Fault
    words: str


class Head(NamedTuple):
    """The last event of a workspace: its number and its hash."""

    number: int
    hash: bytes


NO_EVENT = Head(0, GENESIS)


class ExpectedHead(NamedTuple):
    """The head of a workspace that somebody has noted, as log lines have it: `WORKSPACE:NUMBER:HASH`."""

    workspace_id: str
    head: Head

    @classmethod
    def parse(cls, text: str) -> ExpectedHead:
        """Return the head that a text names.

        Raises:
            ValueError: It is no head.
        """
        workspace_id, number, digest = text.rsplit(":", 2)
        parsed = cls(workspace_id, Head(int(number), bytes.fromhex(digest)))
        if not workspace_id or parsed.head.number < 0 or len(parsed.head.hash) != len(GENESIS):
            raise ValueError("a head is a workspace, a number and a hash of 32 bytes")
        return parsed

    def __str__(self) -> str:
        """Return the form that `parse` takes."""
        return f"{self.workspace_id}:{self.head.number}:{self.head.hash.hex()}"


@dataclass(slots=True)
class ChainCheck:
    """The check of one workspace. Call `older` for its older events, then `add` for all others, then `finish`.

    Attributes:
        findings: What is wrong.
        count: How many events were looked at, with the older ones.
        head: The last event that was looked at.
    """

    workspace_id: str
    findings: list[Finding] = field(default_factory=list)
    count: int = 0
    head: Head = NO_EVENT
    _first: ChainedEvent | None = None
    _older: Head = NO_EVENT  # how many, and the hash over them
    _anchor: Head | None = None
    _pruned: Head = NO_EVENT
    _is_pruned: bool = False
    _erased: dict[str | None, int] = field(default_factory=dict)
    _expected: dict[int, bytes] = field(default_factory=dict)

    @property
    def older_events(self) -> Head:
        """How many events from before the chain were looked at, and the hash over them."""
        return self._older

    def expect(self, head: Head) -> None:
        """Require that an event has a hash, which somebody noted when it was the last one."""
        self._expected[head.number] = head.hash

    def older(self, event: OlderEvent) -> None:
        """Look at the next event from before the chain, in the order of ids."""
        self._older = Head(self._older.number + 1, next_hash(self._older.hash, older_content(event)))
        if event.private_digest is not None:
            self._erased.setdefault(event.key_id, 0)
        self.count += 1

    def add(self, event: ChainedEvent) -> None:
        """Look at the next event, in the order of numbers."""
        number, before = event.number, self.head
        if self._first is None:
            self._first = event  # what was before it may stand in an event that comes later: see `finish`
        elif number == before.number + 1:
            if next_hash(before.hash, content_of(event)) != event.hash:
                self._find(number, Fault.EDITED, f"event {number} was changed, or event {before.number} and its hash")
        elif number > before.number:
            self._find_missing(before.number + 1, number - 1)
        else:
            self._find(number, Fault.REPEATED, f"event {number} is there more than once")
        if event.private_digest is not None:
            self._erased.setdefault(event.key_id, number)
        if event.action in _EXPLAINING:
            self._explain(event)
        if self._expected and self._expected.pop(number, event.hash) != event.hash:
            self._find(number, Fault.HEAD, f"event {number} has another hash than was noted: the chain was rewritten")
        self.head = Head(number, event.hash)
        self.count += 1

    def finish(self, recorded: Head | None) -> None:
        """Check the first event, the older ones, and the end of the chain.

        Args:
            recorded: The workspace's row in `audit_head`; None if there is none.
        """
        if self._first is not None:
            self._check_first(self._first)
        if not self._is_pruned and self._older != (self._anchor or NO_EVENT):
            expected = 0 if self._anchor is None else self._anchor.number
            self._find(
                0, Fault.OLDER, f"the {self._older.number} events without a number are not the {expected} on record"
            )
        for key_id, number in self._erased.items():
            words = f"event {number} has no actor and no details, but no event says that key {key_id} was purged"
            self._find(number, Fault.ERASED, words)
        last = self.head.number
        if recorded is not None and recorded.number > last:
            self._find_missing(last + 1, recorded.number, Fault.CUT_OFF)
        elif recorded != self.head and not (recorded is None and last == 0):
            self._find(last, Fault.HEAD, f"event {last} is the last one, but not the one in audit_head")
        for number, noted in sorted(self._expected.items()):
            self._check_noted(Head(number, noted))

    def _check_first(self, event: ChainedEvent) -> None:
        before, number = self._pruned, event.number
        if number > before.number + 1:
            self._find_missing(before.number + 1, number - 1)
        elif 1 < number <= before.number:
            return  # a prune was stopped: what was before this event is gone, and signed off
        elif next_hash(before.hash if number > 1 else GENESIS, content_of(event)) != event.hash:
            self._find(number, Fault.EDITED, f"event {number} was changed")

    def _check_noted(self, head: Head) -> None:
        """Check a noted head whose event is not there."""
        if head.number > self.head.number:
            self._find_missing(self.head.number + 1, head.number, Fault.CUT_OFF)
        elif head.number == self._pruned.number:
            if head.hash != self._pruned.hash:
                words = f"event {head.number} had another hash than was noted when it was pruned"
                self._find(head.number, Fault.HEAD, words)
        elif head.number < self._pruned.number:
            words = f"event {head.number} was pruned: compare the noted head with the export"
            self._find(head.number, Fault.HEAD, words)

    def _explain(self, event: ChainedEvent) -> None:
        """Take in an event that explains what is missing."""
        if event.action == PURGED:
            self._erased.pop(event.key_id, None)
            return
        details = json.loads(event.details)
        try:
            if event.action == ANCHORED:
                self._anchor = self._anchor or Head(details["events"], bytes.fromhex(details["hash"]))
            else:
                self._pruned = max(self._pruned, Head(details["through"], bytes.fromhex(details["hash"])))
                self._is_pruned = True
        except (KeyError, TypeError, ValueError):
            self._find(event.number, Fault.EDITED, f"event {event.number} does not have the details of {event.action}")

    def _find_missing(self, first: int, last: int, fault: Fault = Fault.MISSING) -> None:
        words = f"event {first} is" if first == last else f"events {first} to {last} are"
        end = " missing at the end" if fault is Fault.CUT_OFF else " missing"
        self._find(first, fault, words + end)

    def _find(self, number: int, fault: Fault, words: str) -> None:
        self.findings.append(Finding(self.workspace_id, number, fault, words))
