"""What keys were used for: counts of calls, which of them to list, and usage over time."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum

from skilder_keys.domain.denial import DenialReason
from skilder_keys.domain.errors import ActivityRolledUpError, FieldViolation, InvalidRequestError
from skilder_keys.domain.fields import MAX_FOREIGN_ID, Violations
from skilder_keys.domain.ids import KeyId, ToolId, UserId, WorkspaceId
from skilder_keys.domain.key_filter import MAX_FILTER_VALUES

MAX_CALLER = MAX_FOREIGN_ID + len("runtime:")
"""The most characters of the name of a caller, which may be a runtime instance."""
MAX_POINTS = 1_500
MAX_SERIES = 50
DEFAULT_SERIES = 10

OTHER_TOOLS = ToolId("*")
"""Stands for the tools beyond the number that is counted for a key in a minute. No tool has this id."""

_EPOCH = datetime.fromtimestamp(0, UTC)
_OF_KEYS = ("key_id", "family_id", "user_id", "tool_id", "verdict")


class Verdict(Enum):
    """What was said of a token."""

    GRANTED = "granted"
    DENIED = "denied"


class UsageGroup(Enum):
    """What a series of usage is of."""

    KEY = "key"
    USER = "user"
    TOOL = "tool"
    CALLER = "caller"


class Span(Enum):
    """The lengths of time by which calls are counted. Each is a whole number of the one before."""

    MINUTE = timedelta(minutes=1)
    HOUR = timedelta(hours=1)
    DAY = timedelta(days=1)

    def floor(self, moment: datetime) -> datetime:
        """Return the beginning of the span that a time is in (UTC)."""
        return moment - (moment - _EPOCH) % self.value

    def number(self, moment: datetime) -> int:
        """Return the number of the span that a time is in, counted since 1970 (UTC)."""
        return (moment - _EPOCH) // self.value

    def start(self, number: int) -> datetime:
        """Return the beginning of the span with a number."""
        return _EPOCH + number * self.value

    def ceiling(self, moment: datetime) -> datetime:
        """Return the first beginning of a span that is not before a time."""
        return self.floor(moment + self.value - timedelta(microseconds=1))


@dataclass(frozen=True, slots=True)
class ActivityFilter:
    """Some activity of a workspace. It must match each field that is not None, and one value of the tuple.

    Attributes:
        workspace_id: The workspace; empty for the denials of tokens that proved no key.
        key_id: Only that of this key, in its canonical spelling.
        family_id: Only that of the keys of the family with this id, in its canonical spelling.
        after: Only spans that begin at or after this time.
        before: Only spans that begin before this time.
    """

    workspace_id: WorkspaceId
    key_id: str | None = None
    family_id: str | None = None
    user_id: UserId | None = None
    tool_id: str | None = None
    caller: str | None = None
    verdict: Verdict | None = None
    denial_reasons: tuple[DenialReason, ...] | None = None
    after: datetime | None = None
    before: datetime | None = None

    def check(self, violations: Violations, *, unproven: bool = False) -> None:
        """Add every invalid field to `violations`."""
        if not unproven:
            violations.identifier("workspace_id", self.workspace_id)
        elif self.workspace_id:
            violations.add(
                "workspace_id", "is set, but a token that proved no key belongs to no workspace: leave it out"
            )
        violations.key_id("filter.key_id", self.key_id)
        violations.key_id("filter.family_id", self.family_id)
        violations.foreign_id("filter.user_id", self.user_id or "", required=False)
        if self.tool_id != OTHER_TOOLS:
            violations.foreign_id("filter.tool_id", self.tool_id or "", required=False)
        violations.text("filter.caller", self.caller or "", maximum=MAX_CALLER, required=False)
        violations.count("filter.denial_reasons", self.denial_reasons or (), maximum=MAX_FILTER_VALUES)
        if unproven:
            for name in _OF_KEYS:
                if getattr(self, name) is not None:
                    violations.add(f"filter.{name}", "is of keys, and no key was proved: leave it out")

    def minutes(self, now: datetime) -> range:
        """Return the minutes since 1970 of its times, until now."""
        end = Span.MINUTE.ceiling(now) if self.before is None else Span.MINUTE.ceiling(_between(self.before, now))
        start = _EPOCH if self.after is None else Span.MINUTE.ceiling(_between(self.after, end))
        return range(Span.MINUTE.number(start), Span.MINUTE.number(end))

    def of_user(self, user_id: UserId) -> "ActivityFilter | None":
        """Return the filter for that of a user's own keys; None if it is for another user's."""
        return replace(self, user_id=user_id) if self.user_id in (None, user_id) else None


@dataclass(frozen=True, slots=True)
class ActivityListing:
    """What is listed: some activity of a workspace, or the denials of tokens that proved no key."""

    filter: ActivityFilter
    unproven: bool


@dataclass(frozen=True, slots=True)
class Activity:
    """The calls of one span with the same key, tool, caller, verdict and reason.

    Attributes:
        start_at: The beginning of the span.
        workspace_id: None for a token that proved no key; so are `key_id` and `user_id`.
        tool_id: The tool that the calls asked about; None if they asked about none.
        denial_reason: Why they were denied; None if they were granted.
        last_source_ip: The `source_ip` of the last call that had one; empty if none had.
        hint: The hint of a token that proved no key but has the form of one; otherwise empty.
        position: Its position in a list.
    """

    start_at: datetime
    span: Span
    workspace_id: WorkspaceId | None
    key_id: KeyId | None
    user_id: UserId | None
    tool_id: ToolId | None
    caller: str
    denial_reason: DenialReason | None
    count: int
    first_at: datetime
    last_at: datetime
    last_source_ip: str
    hint: str
    position: str

    @property
    def id(self) -> str:
        """Its position in a list."""
        return self.position


@dataclass(frozen=True, slots=True)
class Kept:
    """What the service has of the counts.

    Attributes:
        now: The time by the database's clock.
        oldest: By span, the time before which there are no counts. That of a longer span is not later.
        removed: The spans of which counts before that time were removed.
        counted_until: All calls before this time are counted.
    """

    now: datetime
    oldest: Mapping[Span, datetime]
    removed: frozenset[Span]
    counted_until: datetime

    def has(self, span: Span, moment: datetime) -> bool:
        """Return whether all counts of a span from a time on are there."""
        return span not in self.removed or moment >= self.oldest[span]


@dataclass(frozen=True, slots=True)
class UsageQuery:
    """Which usage to sum up.

    Attributes:
        step: The length of time of a point.
        group_by: What a series is of; None for one series of everything.
        top: The number of series: those with the most calls.
    """

    filter: ActivityFilter
    step: Span
    group_by: UsageGroup | None
    top: int

    def check(self, violations: Violations) -> None:
        """Add every invalid field to `violations`."""
        self.filter.check(violations)
        if not 0 <= self.top <= MAX_SERIES:
            violations.add("top", f"is {self.top}; 0 for {DEFAULT_SERIES}, or 1 to {MAX_SERIES} are allowed")

    @property
    def series(self) -> int:
        """The most series."""
        return self.top or DEFAULT_SERIES

    def window(self, kept: Kept) -> tuple[datetime, datetime]:
        """Return the time of the first point, and that after the last one.

        Raises:
            InvalidRequestError: There would be too many points.
            ActivityRolledUpError: Points of that step were removed, but there are some of a longer one.
        """
        after, before = self.filter.after, self.filter.before
        end = self.step.ceiling(kept.now if before is None else _between(before, kept.now))
        if after is None:
            return max(end - MAX_POINTS * self.step.value, self.step.floor(kept.oldest[self.step])), end
        start = self.step.floor(_between(after, end))
        if self.step is not Span.DAY and not kept.has(self.step, start):
            longer = (span for span in Span if span.value > self.step.value and kept.has(span, span.floor(start)))
            kept_step = next(longer, Span.DAY)
            raise ActivityRolledUpError(
                f"Counts by {self.step.name.lower()} of that time are not kept any more: ask for those by"
                f" {kept_step.name.lower()}.",
                step=_seconds(kept_step),
            )
        points = (end - start) // self.step.value
        if points > MAX_POINTS:
            raise InvalidRequestError(
                FieldViolation("filter.after", f"is {points} steps before the end; at most {MAX_POINTS} are allowed")
            )
        return start, end


@dataclass(frozen=True, slots=True)
class UsagePoint:
    """The calls of one step."""

    at: datetime
    granted: int
    denied: int


@dataclass(frozen=True, slots=True)
class UsageSeries:
    """Calls over time, in order. The id is empty for everything, and for what has no user or tool."""

    id: str
    points: tuple[UsagePoint, ...]


@dataclass(frozen=True, slots=True)
class Usage:
    """The series with the most calls, and the sum of all others; None if there are none."""

    series: tuple[UsageSeries, ...]
    rest: UsageSeries | None
    counted_until: datetime


def _between(moment: datetime, latest: datetime) -> datetime:
    """Return a time, or the nearest that is neither before 1970 nor after another."""
    return max(_EPOCH, min(moment, latest))


def _seconds(span: Span) -> str:
    """Return a span as a Duration in JSON."""
    return f"{span.value // timedelta(seconds=1)}s"
