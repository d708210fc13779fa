"""Follow the events of one workspace, or of all, as they are committed.

A stream reads again and again what comes after its position, which goes with each response as its cursor. It keeps
nothing else, so it needs little memory, and any process can go on with its cursor. Nobody is notified: a notification
would make all commits of the database wait for one another.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from skilder_keys.app.audit_reads import require_auditor
from skilder_keys.domain.errors import (
    BusyError,
    EventsPrunedError,
    FieldViolation,
    InvalidRequestError,
    UnavailableError,
)
from skilder_keys.domain.event_positions import NumberPosition, Snapshot, SnapshotPosition
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.paging import listing
from skilder_keys.storage import event_streams

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Iterator

    from skilder_keys.domain.audit_events import AuditEvent, EventSelection
    from skilder_keys.domain.ids import UserId, WorkspaceId
    from skilder_keys.domain.paging import PageTokens
    from skilder_keys.storage.database import Connection, Database

_POLL_SECONDS = 0.25
_BEAT_SECONDS = 10.0
"""After so many seconds without an event a response without events is sent; the contract promises one every 15."""
_ANOTHER_HISTORY = "is of another history: the database was restored or replaced; list the events to see what there is"
_SHUTTING_DOWN = "The server is shutting down: call again, with the last cursor."


@dataclass(frozen=True, slots=True)
class Sent:
    """What one response has: events, and the cursor after them."""

    events: list[AuditEvent]
    cursor: str


class Source(Protocol):
    """Where a stream reads."""

    async def start(self, connection: Connection) -> None:
        """Check the position, or set it to now. Call it in a snapshot."""

    async def has_more(self, connection: Connection) -> bool:
        """Return whether there is something to read."""

    async def read(self, connection: Connection) -> tuple[list[AuditEvent], bool]:
        """Return the next events, and whether there may be more now. Call it in a snapshot."""

    def position(self) -> str:
        """Return the position after what was read, as text."""


class EventStreams:
    """The streams of this process.

    Attributes:
        open: How many there are.
    """

    def __init__(
        self,
        database: Database,
        page_tokens: PageTokens,
        clock: Callable[[], float],
        *,
        max_streams: int,
        seconds: float,
    ) -> None:
        """Make the use case.

        Args:
            database: The database.
            page_tokens: Seals cursors.
            clock: Returns a time in seconds, which only goes forward.
            max_streams: The most streams at a time.
            seconds: How long a stream lasts at most.
        """
        self.open = 0
        self._database = database
        self._page_tokens = page_tokens
        self._clock = clock
        self._max_streams = max_streams
        self._seconds = seconds
        self._draining = asyncio.Event()

    def drain(self) -> None:
        """End all streams, and refuse new ones."""
        self._draining.set()

    async def follow(
        self, selection: EventSelection, *, cursor: str | None, after_number: int | None, actor: UserId | None
    ) -> AsyncGenerator[Sent, None]:
        """Check a request, and return its responses. The first comes at once, with a cursor.

        Args:
            selection: What to follow.
            cursor: Where to start; None for now, unless there is a number.
            after_number: The number after which to start.
            actor: For whom; None for the caller itself.

        Raises:
            InvalidRequestError: Names every invalid field.
            WorkspaceNotFoundError: There is no such workspace.
            ActorNotMemberError, ActorNotAllowedError: The actor is not an admin of the workspace.
            EventsPrunedError: The events that come next were pruned; later, too.
            BusyError: There are too many streams.
            UnavailableError: The database does not respond, or the process shuts down; later, too.
        """
        followed = listing("FollowEvents", actor, selection)
        _check(selection, after_number, actor)
        position = None if cursor is None else self._page_tokens.open_cursor(followed, cursor)
        source: Source
        if selection.workspace_id is None:
            source = _AllWorkspaces(selection, position)
        else:
            source = _OneWorkspace(selection, selection.workspace_id, position, after_number, actor)
        self._require_room()
        async with self._database.snapshot() as snapshot:
            await source.start(snapshot)
        return self._responses(source, followed)

    async def _responses(self, source: Source, followed: str) -> AsyncGenerator[Sent, None]:
        self._require_room()  # others may have come in the meantime
        with self._counted():
            due = self._clock()
            end = due + self._seconds
            more = False
            while True:
                events: list[AuditEvent] = []
                is_due = self._clock() >= due
                if not (more or is_due):
                    async with self._database.connection() as connection:
                        more = await source.has_more(connection)
                if more or is_due:
                    async with self._database.snapshot() as snapshot:
                        events, more = await source.read(snapshot)
                if events or is_due:
                    yield Sent(events, self._page_tokens.seal(followed, source.position()))
                    due = self._clock() + _BEAT_SECONDS
                if self._draining.is_set():
                    raise UnavailableError(_SHUTTING_DOWN)
                if self._clock() >= end:
                    return
                if not more:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._draining.wait(), _POLL_SECONDS)

    def _require_room(self) -> None:
        if self._draining.is_set():
            raise UnavailableError(_SHUTTING_DOWN)
        if self.open >= self._max_streams:
            raise BusyError("Too many calls follow events: end one, or try again later.")

    @contextmanager
    def _counted(self) -> Iterator[None]:
        self.open += 1
        try:
            yield
        finally:
            self.open -= 1


class _OneWorkspace:
    def __init__(
        self,
        selection: EventSelection,
        workspace_id: WorkspaceId,
        position: str | None,
        after_number: int | None,
        actor: UserId | None,
    ) -> None:
        self._filter = selection.filter
        self._workspace_id = workspace_id
        self._after_number = after_number
        self._actor = actor
        self._position = NumberPosition(after_number or 0) if position is None else NumberPosition.decode(position)
        self._from_now = position is None and after_number is None

    async def start(self, connection: Connection) -> None:
        await require_auditor(connection, self._workspace_id, self._actor)
        head = await event_streams.head_of(connection, self._workspace_id)
        if self._from_now:
            self._position = NumberPosition(head.number, head.hash)
        elif self._position.number > head.number:
            if self._after_number is None:
                raise InvalidRequestError(FieldViolation("cursor", _ANOTHER_HISTORY))
            words = f"is {self._after_number}; the last event of the workspace has the number {head.number}"
            raise InvalidRequestError(FieldViolation("after_number", words))
        elif self._position.hash:
            hash_ = await event_streams.hash_of(connection, self._workspace_id, self._position.number)
            if hash_ not in {None, self._position.hash}:
                raise InvalidRequestError(FieldViolation("cursor", _ANOTHER_HISTORY))
        self._require_kept(head.pruned)

    async def has_more(self, connection: Connection) -> bool:
        return await event_streams.has_after(connection, self._workspace_id, self._position)

    async def read(self, connection: Connection) -> tuple[list[AuditEvent], bool]:
        if self._actor is not None:
            await require_auditor(connection, self._workspace_id, self._actor)
        self._require_kept((await event_streams.head_of(connection, self._workspace_id)).pruned)
        events, self._position, more = await event_streams.read_after(
            connection, self._workspace_id, self._filter, self._position
        )
        return events, more

    def position(self) -> str:
        return self._position.encode()

    def _require_kept(self, pruned: int) -> None:
        if self._position.number < pruned:
            raise EventsPrunedError(first_number=str(pruned + 1))


_NOWHERE = SnapshotPosition(Snapshot("", 0, 0, ""), 0)
"""The position of a stream that has not started."""


class _AllWorkspaces:
    def __init__(self, selection: EventSelection, position: str | None) -> None:
        self._filter = selection.filter
        self._from_now = position is None
        self._position = _NOWHERE if position is None else SnapshotPosition.decode(position)

    async def start(self, connection: Connection) -> None:
        if self._from_now:
            self._position = await event_streams.now(connection)
        elif not await event_streams.is_continued(connection, self._position):
            if await event_streams.pruned_lately(connection, self._position):
                raise EventsPrunedError(first_number="")
            raise InvalidRequestError(FieldViolation("cursor", _ANOTHER_HISTORY))

    async def has_more(self, connection: Connection) -> bool:
        return await event_streams.has_unseen(connection, self._position)

    async def read(self, connection: Connection) -> tuple[list[AuditEvent], bool]:
        events, position, more = await event_streams.read_unseen(connection, self._filter, self._position)
        # When all that a snapshot has was read, it adds up.
        if position.now is None and position.count != self._position.count:
            begun = self._position.now is not None
            expected = self._position.expected if begun else await event_streams.count(connection)
            if position.count != expected:
                raise EventsPrunedError(first_number="")
        self._position = position
        return events, more

    def position(self) -> str:
        return self._position.encode()


def _check(selection: EventSelection, after_number: int | None, actor: UserId | None) -> None:
    violations = Violations()
    if selection.workspace_id is not None:
        violations.identifier("workspace_id", selection.workspace_id)
    elif actor is not None:
        violations.add("all_workspaces", "is not for an actor, who may not see every workspace: set workspace_id")
    elif after_number is not None:
        violations.add("after_number", "is set, but a number counts in one workspace: set cursor, or nothing")
    if after_number is not None and after_number < 0:
        violations.add("after_number", f"is {after_number}; a number is 0 or more")
    selection.filter.check(violations)
    violations.actor(actor)
    violations.raise_if_any()
