"""Whether the counts of activity are those of the calls that the clients saw.

A call with a response was counted before that, as what it decided. One without a response was counted once or not at
all, as any decision. What a worker has counted is safe when it is in the journal. A worker that is killed, or ends
while the database does not respond, loses the calls that it has counted since then, and no others.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from faults.history import Denied, Failed

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from faults.history import Authorize

GRANTED = "granted"
UNPROVEN = ""
"""Stands for the key of a token that proves none. Such denials are compared all together."""

_UNKNOWN = "UNKNOWN"
_SLACK = 300_000_000
"""Nanoseconds by which a worker may be wrong about the time of the database: it takes 0.25 s as exact."""


class Place(NamedTuple):
    """What is counted together: the id of a key or UNPROVEN, the tool or an empty text, and GRANTED or a reason."""

    key: str
    tool: str
    outcome: str


class Writer(NamedTuple):
    """A worker that ended without a word: until when its calls are in the journal, and when it was seen last."""

    counted_until: int
    seen_at: int


class Loss(NamedTuple):
    """A time during which a worker may have counted calls that are lost."""

    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Counted:
    """What the activity tables have at the end of a run, when nothing is left in the journal.

    Attributes:
        counts: The calls.
        writers: The workers that are still registered. One that ends in good order is not.
        ends: When workers were killed, or reported that they lost counts.
    """

    counts: Mapping[Place, int]
    writers: Sequence[Writer] = ()
    ends: Sequence[int] = ()

    def losses(self) -> list[Loss]:
        """Return when calls may have been lost: from what is in the journal on, to the last possible end of a worker.

        Nothing says which worker had which end. A worker did not end before it was seen, and each end is one worker's.
        """
        found = []
        for place, writer in enumerate(self.writers):
            others = [each.seen_at for at, each in enumerate(self.writers) if at != place]
            possible = (end for at, end in enumerate(self.ends) if self._may_end(writer, others, at))
            end = max(possible, default=None)
            if end is not None:
                found.append(Loss(writer.counted_until - _SLACK, end + _SLACK))
        return found

    def _may_end(self, writer: Writer, others: Sequence[int], at: int) -> bool:
        rest = [end for place, end in enumerate(self.ends) if place != at]
        return writer.seen_at <= self.ends[at] + _SLACK and _fit(others, rest)


@dataclass(frozen=True, slots=True)
class CountReport:
    """The result: what is wrong, how many calls were counted, and how many of those seen may be lost."""

    findings: list[str]
    counted: int
    seen: int
    unanswered: int
    at_risk: int

    def __str__(self) -> str:
        """For people."""
        return (
            f"activity: {self.counted} counted of {self.seen} with a response; "
            f"{self.unanswered} had none, {self.at_risk} may be lost"
        )


def compare(calls: Iterable[Authorize], ids: Mapping[str, str], counted: Counted) -> CountReport:
    """Compare what clients saw with what was counted.

    Args:
        calls: The queries.
        ids: The ids of the keys, by their names in the run.
        counted: What was counted.
    """
    losses = counted.losses()
    seen: Counter[Place] = Counter()
    at_risk: Counter[Place] = Counter()
    unanswered: Counter[tuple[str, str]] = Counter()
    for call in calls:
        key = ids[call.key]
        if isinstance(call.outcome, Failed):
            unanswered[key, call.tool] += 1
            continue
        reason = call.outcome.reason if isinstance(call.outcome, Denied) else GRANTED
        place = Place(UNPROVEN, "", reason) if reason == _UNKNOWN else Place(key, call.tool, reason)
        seen[place] += 1
        if any(call.begin <= loss.end and loss.begin <= call.end for loss in losses):
            at_risk[place] += 1
    unanswered[UNPROVEN, ""] = total = unanswered.total()
    findings = list(_findings(counted.counts, seen, at_risk, unanswered))
    if (most := seen.total() + total) < (found := sum(counted.counts.values())):
        findings.append(f"all together: {found} counted, at most {most} made")
    return CountReport(findings, sum(counted.counts.values()), seen.total(), total, at_risk.total())


def _findings(
    counts: Mapping[Place, int],
    seen: Counter[Place],
    at_risk: Counter[Place],
    unanswered: Counter[tuple[str, str]],
) -> Iterator[str]:
    more: Counter[tuple[str, str]] = Counter()
    places: dict[Place, None] = dict.fromkeys((*seen, *counts))
    for place in places:
        count = counts.get(place, 0)
        least, most = seen[place] - at_risk[place], seen[place] + unanswered[place.key, place.tool]
        name = f"{place.key or 'tokens that prove no key'} {place.tool} {place.outcome}"
        if not least <= count <= most:
            yield f"{name}: {count} counted, {least} to {most} made"
        more[place.key, place.tool] += max(0, count - seen[place])
    for (key, tool), count in more.items():
        # A call without a response had one outcome, not several.
        if count > unanswered[key, tool]:
            yield f"{key} {tool}: {count} more counted than seen, and {unanswered[key, tool]} had no response"


def _fit(seen: Sequence[int], ends: Sequence[int]) -> bool:
    """Return whether each worker can have had an end of its own, not before it was seen last."""
    return len(seen) <= len(ends) and all(
        each <= end + _SLACK for each, end in zip(sorted(seen, reverse=True), sorted(ends, reverse=True), strict=False)
    )
