"""What the clients of a run saw: every call with its begin and its end.

All clients live in one process, so all times are of one clock, `time.monotonic_ns`. A call begins before its request is
sent and ends after its answer has come, so whatever it did or saw happened in between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

OK = "OK"
UNDER_WAY = "UNDER_WAY"
"""The code of a change that has not been answered yet."""

FORGED = 0
"""The number of a token with a key's id and a secret that was never issued."""

EVERYBODY = "*"
"""Whose reach a workspace key has."""

Reach = Mapping[str, frozenset[str]]
"""Who is in a workspace, EVERYBODY too, and the tools that each of them reaches."""


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant: of these tools or, where one tool was asked about, of that one."""

    tools: frozenset[str]

    def __str__(self) -> str:
        """For people."""
        return f"granted [{' '.join(sorted(self.tools))}]"


@dataclass(frozen=True, slots=True)
class Denied:
    """A denial; the reason without its prefix, e.g. `REVOKED`."""

    reason: str

    def __str__(self) -> str:
        """For people."""
        return f"denied {self.reason}"


@dataclass(frozen=True, slots=True)
class Failed:
    """A call that was not answered; the name of its status code."""

    code: str

    def __str__(self) -> str:
        """For people."""
        return f"failed {self.code}"


Answer = Granted | Denied | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorize:
    """A token that was asked about. Of a batch, each item is one of these, with the batch's begin and end.

    Attributes:
        key: The key, by the name that the run gave it.
        token: The number of the attempt to issue it which answered this token, or FORGED.
        tool: The tool that was asked about; empty for all.
        via: The server that was asked.
        last: Whether it was asked at the end of the run, when all was well again and an answer is owed.
    """

    key: str
    token: int
    begin: int
    end: int
    answer: Answer
    tool: str = ""
    via: str = ""
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """An attempt to issue a key. All attempts for a key have the same request_id, so each renews the key's secret.

    Attributes:
        attempt: Its number among the attempts for this key, from 1; it also names the token that it answered.
        subject: Whose reach the key has: a user, or EVERYBODY.
        code: The status it ended with.
    """

    key: str
    attempt: int
    workspace: str
    subject: str
    begin: int
    end: int = 0
    code: str = UNDER_WAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoke:
    """An attempt to revoke a key."""

    key: str
    begin: int
    end: int = 0
    code: str = UNDER_WAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """An attempt to bring a workspace to a version.

    A workspace has one applier, who names the version before in each call, so that no attempt can undo a later change;
    who tries until one attempt at a version succeeds; and who only then goes on to the next.

    Attributes:
        version: The version it makes.
        reach: Who reaches what in it; None for the deletion of the workspace.
    """

    workspace: str
    version: int
    reach: Reach | None
    begin: int
    end: int = 0
    code: str = UNDER_WAY


Change = Issue | Revoke | Apply


@dataclass(frozen=True, slots=True)
class History:
    """The calls of a run.

    Attributes:
        changes: Every attempt to change something.
        authorizations: Every query about a token.
        listed: Whether each key that ListKeys showed at the end is active; None where the run did not get so far.
    """

    changes: tuple[Change, ...]
    authorizations: tuple[Authorize, ...]
    listed: Mapping[str, bool] | None = None


@dataclass
class Recorder:
    """Writes the history while it happens. Changes are in it from their begin on: they may work before they answer."""

    authorizations: list[Authorize] = field(default_factory=list)
    listed: Mapping[str, bool] | None = None
    _changes: list[Change] = field(default_factory=list)

    def begin(self, change: Change) -> int:
        """Record a change that is about to be asked for; answers its place."""
        self._changes.append(change)
        return len(self._changes) - 1

    def end(self, place: int, code: str) -> None:
        """Record how a change ended, now."""
        self._changes[place] = replace(self._changes[place], end=now(), code=code)

    def history(self, since: int = 0) -> History:
        """Return all changes so far, and the authorizations from a place on."""
        return History(tuple(self._changes), tuple(self.authorizations[since:]), self.listed)


def now() -> int:
    """Return the time, in nanoseconds."""
    return time.monotonic_ns()
