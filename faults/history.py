"""What the clients of a run saw: every call with its begin and its end.

All clients are in one process, so all times are by one clock, `time.monotonic_ns`. A call begins before its request is
sent and ends after its response has come, so whatever it did or saw happened in between.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

OK = "OK"
UNDER_WAY = "UNDER_WAY"
"""The code of a change that has not returned yet."""

FORGED = 0
"""The number of a token with a key's id and a secret that was never issued."""

EVERYBODY = "*"
"""Whose reach a workspace key has."""

SOURCES = ("", "10.0.0.7", "192.0.2.7")
"""The addresses from which a token is used; empty if the caller does not say."""
BLOCKS = ("10.0.0.0/8", "192.0.2.0/24")
"""The networks of these addresses."""

Reach = Mapping[str, frozenset[str]]
"""The members of a workspace and EVERYBODY, with the tools that each of them reaches."""


def hat_of(tool: str) -> str:
    """Return the hat that has a tool. Each hat has tools of its own, and their ids begin with the hat's."""
    return tool.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant of these tools or, for a query about one tool, of that one."""

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
    """A failed call, with the name of its status code."""

    code: str

    def __str__(self) -> str:
        """For people."""
        return f"failed {self.code}"


Outcome = Granted | Denied | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Authorize:
    """A query about a token. Each item of a batch is one of these, with the batch's begin and end.

    Attributes:
        key: The name of the key in the run.
        token: The number of the attempt to issue the key, also by a rotation, that returned this token, or FORGED.
        tool: The tool of the query, or empty for all tools.
        source: The address from which the token was used, one of SOURCES.
        via: The server that was called.
        last: Whether the call was made at the end of the run, when all works again and it must succeed.
    """

    key: str
    token: int
    begin: int
    end: int
    outcome: Outcome
    tool: str = ""
    source: str = ""
    via: str = ""
    last: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """An attempt to issue a key. All attempts for a key have the same request_id, so each renews the key's secret.

    Attributes:
        attempt: Its number among the attempts for this key, from 1; also the number of the token that it returned.
        subject: Whose reach the key has: a user's, or EVERYBODY's.
        code: The status code.
    """

    key: str
    attempt: int
    workspace: str
    subject: str
    begin: int
    end: int = 0
    code: str = UNDER_WAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Rotate:
    """An attempt to rotate a key: to issue its successor, as with `Issue`, and to let the key expire after a grace.

    Attributes:
        key: The name of the successor.
        predecessor: The name of the key.
        grace: In nanoseconds.
    """

    key: str
    attempt: int
    workspace: str
    subject: str
    predecessor: str
    grace: int
    begin: int
    end: int = 0
    code: str = UNDER_WAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Revoke:
    """An attempt to revoke a key, alone, with its family, or with all that match a filter."""

    key: str
    begin: int
    end: int = 0
    code: str = UNDER_WAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Suspend:
    """An attempt to suspend a key, or to resume it. One client does so, and goes on only when an attempt has succeeded.

    Attributes:
        number: Its number among the suspensions and resumptions of the key, from 1; retries have the same.
        suspended: Whether the key is suspended afterwards.
    """

    key: str
    number: int
    suspended: bool
    begin: int
    end: int = 0
    code: str = UNDER_WAY


@dataclass(frozen=True, slots=True)
class Limits:
    """What a key is limited to.

    Attributes:
        hats: The hats; None for every hat.
        networks: Some of BLOCKS; None for any address, also none.
    """

    hats: frozenset[str] | None = None
    networks: frozenset[str] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """An attempt to limit a key. One client does so, as with `Apply`: no attempt can undo a later one.

    Attributes:
        number: Its number among the limits of the key, from 1; retries have the same.
        limits: To what it is limited afterwards.
    """

    key: str
    number: int
    limits: Limits
    begin: int
    end: int = 0
    code: str = UNDER_WAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Apply:
    """An attempt to bring a workspace to a version.

    Each workspace has one client that applies changes. It gives the expected version in each call, so that no attempt
    can undo a later change. It retries until one attempt at a version succeeds, and only then goes on to the next.

    Attributes:
        version: The version that it makes.
        reach: Who reaches which tools in that version; None for the deletion of the workspace.
    """

    workspace: str
    version: int
    reach: Reach | None
    begin: int
    end: int = 0
    code: str = UNDER_WAY


Change = Issue | Rotate | Revoke | Suspend | Limit | Apply


@dataclass(frozen=True, slots=True)
class History:
    """The calls of a run.

    Attributes:
        changes: Every attempt at a change.
        authorizations: Every query about a token.
        listed: Whether each key is active, as ListKeys showed at the end; None if the run stopped before.
    """

    changes: tuple[Change, ...]
    authorizations: tuple[Authorize, ...]
    listed: Mapping[str, bool] | None = None


@dataclass
class Recorder:
    """Records the history. A change is in it from its begin on: it may take effect before it returns."""

    authorizations: list[Authorize] = field(default_factory=list)
    listed: Mapping[str, bool] | None = None
    _changes: list[Change] = field(default_factory=list)

    def begin(self, change: Change) -> int:
        """Record a change that is about to be made; return its index."""
        self._changes.append(change)
        return len(self._changes) - 1

    def end(self, place: int, code: str) -> None:
        """Record the end of a change, now."""
        self._changes[place] = replace(self._changes[place], end=now(), code=code)

    def history(self, since: int = 0) -> History:
        """Return all changes so far, and the authorizations from an index on."""
        return History(tuple(self._changes), tuple(self.authorizations[since:]), self.listed)


def now() -> int:
    """Return the time in nanoseconds."""
    return time.monotonic_ns()
