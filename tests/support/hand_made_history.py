"""Histories made by hand, for tests of the checker."""

from __future__ import annotations

from dataclasses import dataclass, field

from faults.checker import check
from faults.history import (
    EVERYBODY,
    OK,
    Apply,
    Authorize,
    Change,
    Denied,
    History,
    Issue,
    Limit,
    Limits,
    Outcome,
    Reach,
    Revoke,
    Rotate,
    Suspend,
)

LOST = "UNAVAILABLE"
EXPIRED, SUSPENDED = Denied("EXPIRED"), Denied("SUSPENDED")
SECOND = 10**9
UNKNOWN, REVOKED, GONE = Denied("UNKNOWN"), Denied("REVOKED"), Denied("WORKSPACE_GONE")
MEMBER_REMOVED, NOT_ALLOWED = Denied("MEMBER_REMOVED"), Denied("TOOL_NOT_ALLOWED")
LEFT, RIGHT, BOTH = (frozenset(tools) for tools in (["left"], ["right"], ["left", "right"]))


def reach(bob: frozenset[str] | None) -> Reach:
    """Return a workspace in which bob reaches these tools, or is not a member."""
    return {EVERYBODY: BOTH} | ({} if bob is None else {"bob": bob})


@dataclass
class Run:
    """A history under construction: a workspace from time 2 on, bob's key from time 4 on. The times are invented."""

    changes: list[Change] = field(default_factory=list)
    authorizations: list[Authorize] = field(default_factory=list)
    listed: dict[str, bool] | None = None

    def __post_init__(self) -> None:
        self.apply(1, 2, 1, reach(LEFT))
        self.issue(3, 4)

    def issue(self, begin: int, end: int, attempt: int = 1, *, code: str = OK, key: str = "k") -> None:
        """Add an attempt to issue a key of bob's."""
        self.changes.append(
            Issue(key=key, attempt=attempt, workspace="w", subject="bob", begin=begin, end=end, code=code)
        )

    def rotate(self, begin: int, end: int, attempt: int = 1, *, grace: int = 0, code: str = OK) -> None:
        """Add an attempt to rotate the key, to `next`."""
        self.changes.append(
            Rotate(
                key="next",
                attempt=attempt,
                workspace="w",
                subject="bob",
                predecessor="k",
                grace=grace,
                begin=begin,
                end=end,
                code=code,
            )
        )

    def revoke(self, begin: int, end: int, code: str = OK) -> None:
        """Add an attempt to revoke the key."""
        self.changes.append(Revoke(key="k", begin=begin, end=end, code=code))

    def apply(self, begin: int, end: int, version: int, reach: Reach | None, code: str = OK) -> None:
        """Add an attempt to apply a version of the workspace."""
        self.changes.append(Apply(workspace="w", version=version, reach=reach, begin=begin, end=end, code=code))

    def suspend(self, begin: int, end: int, number: int, *, resume: bool = False, code: str = OK) -> None:
        """Add an attempt to suspend the key, or to resume it."""
        self.changes.append(Suspend(key="k", number=number, suspended=not resume, begin=begin, end=end, code=code))

    def limit(self, begin: int, end: int, number: int, limits: Limits, code: str = OK) -> None:
        """Add an attempt to limit the key."""
        self.changes.append(Limit(key="k", number=number, limits=limits, begin=begin, end=end, code=code))

    def ask(
        self,
        begin: int,
        end: int,
        outcome: Outcome,
        *,
        token: int = 1,
        tool: str = "",
        source: str = "",
        last: bool = False,
        key: str = "k",
    ) -> None:
        """Add a query about a token of the key."""
        self.authorizations.append(
            Authorize(key=key, token=token, begin=begin, end=end, outcome=outcome, tool=tool, source=source, last=last)
        )

    def kinds(self) -> list[str]:
        """Return the kinds of violations that the checker finds."""
        return [each.kind for each in check(History(tuple(self.changes), tuple(self.authorizations), self.listed))]
