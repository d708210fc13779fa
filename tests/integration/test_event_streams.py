"""What followers are sent: each event once, whatever the order of commits, and wherever they start again."""

from __future__ import annotations

import asyncio
import random
import time
from collections import defaultdict
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.app.event_streams import EventStreams, Sent
from skilder_keys.domain.audit_events import AuditAction, AuditEvent, EventFilter, EventSelection
from skilder_keys.domain.errors import BusyError, EventsPrunedError, InvalidRequestError, UnavailableError
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.paging import PageTokens
from tests.support.lengths import by_form
from tests.support.rows import insert, without_events

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from skilder_keys.storage.database import Database

    Sql = asyncpg.Connection[Any]
    Event = tuple[str, int]

WORKSPACES = ("acme", "globex", "initech")
WRITERS = 4
ACTIONS = (AuditAction.WORKSPACE_UPDATED, AuditAction.WORKSPACE_APPLIED)
EVERYTHING = EventFilter()


def streams_of(database: Database, **settings: Any) -> EventStreams:
    """Return the streams of a process of their own, which may be another one each time."""
    defaults: dict[str, Any] = {"max_streams": 10, "seconds": 60.0}
    return EventStreams(database, PageTokens(b"k" * 32), time.monotonic, **defaults | settings)


async def add(sql: Sql, workspace_id: str, action: AuditAction = ACTIONS[0], count: int = 1) -> None:
    """Add events as the service does."""
    await sql.execute(
        "INSERT INTO audit_event (action, workspace_id, caller, peer, details)"
        " SELECT $1, $2, 'operator', '', '{}' FROM generate_series(1, $3)",
        action.value,
        workspace_id,
        count,
    )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for events and send responses without events often, and read few events at a time."""
    monkeypatch.setattr("skilder_keys.app.event_streams._POLL_SECONDS", 0.002)
    monkeypatch.setattr("skilder_keys.app.event_streams._BEAT_SECONDS", 0.02)
    monkeypatch.setattr("skilder_keys.storage.event_streams.MOST", 3)
    monkeypatch.setattr("skilder_keys.storage.event_streams.SCANNED", 4)


@pytest.fixture
async def workspaces(sql: Sql) -> None:
    """Three workspaces without any event."""
    async with without_events(sql):
        for each in WORKSPACES:
            await insert(sql, "workspace", id=each, name=each, version=1)


def key_of(event: AuditEvent) -> Event:
    """Return what an event is known by."""
    return event.workspace_id, event.number or 0


@dataclass
class Follower:
    """Follows events, and starts again with the last cursor whenever it is told to.

    Attributes:
        found: The events so far.
    """

    database: Database
    selection: EventSelection
    found: list[Event] = field(default_factory=list)
    cursor: str | None = None
    stream: AsyncGenerator[Sent, None] | None = None

    async def next(self) -> Sent:
        """Return the next response; connect first if there is no stream."""
        if self.stream is None:
            self.stream = await streams_of(self.database).follow(
                self.selection, cursor=self.cursor, after_number=None, actor=None
            )
        sent = await anext(self.stream)
        assert len(sent.events) <= 3
        self.found += map(key_of, sent.events)
        self.cursor = sent.cursor
        return sent

    async def break_off(self, *, losing: bool = False) -> None:
        """End the stream, after a response that never arrived if `losing`."""
        if self.stream is not None:
            async with aclosing(self.stream) as stream:
                if losing:
                    await anext(stream)
            self.stream = None

    async def until(self, count: int) -> None:
        """Read until there are this many events."""
        async with asyncio.timeout(30):
            while len(self.found) < count:
                await self.next()


@dataclass
class Writers:
    """Several connections whose transactions end in any order."""

    connections: list[Sql]
    chance: random.Random
    open: dict[int, Any] = field(default_factory=dict)

    async def write(self) -> None:
        """Add some events, in the transaction of a connection."""
        number = self.chance.randrange(len(self.connections))
        if number not in self.open:
            self.open[number] = self.connections[number].transaction()
            await self.open[number].start()
        count = self.chance.choice((1, 1, 2, 9))
        await add(self.connections[number], self.chance.choice(WORKSPACES), self.chance.choice(ACTIONS), count)

    async def end(self) -> None:
        """Commit one of the transactions, or sometimes undo it."""
        if self.open:
            transaction = self.open.pop(self.chance.choice(list(self.open)))
            await (transaction.rollback() if self.chance.random() < 0.2 else transaction.commit())

    async def commit(self) -> None:
        """Commit all."""
        for transaction in self.open.values():
            await transaction.commit()


async def check(follower: Follower, sql: Sql) -> None:
    """Read to the end; what was found must be what the table has, those of each workspace in order."""
    selection, actions = follower.selection, follower.selection.filter.actions
    record = await sql.fetch("SELECT workspace_id, number, action FROM audit_event ORDER BY workspace_id, number")
    assert len(record) > 20
    wanted = [
        (row["workspace_id"], row["number"])
        for row in record
        if selection.workspace_id in (None, row["workspace_id"])
        and (actions is None or AuditAction(row["action"]) in actions)
    ]
    await follower.until(len(wanted))
    assert sorted(follower.found) == wanted
    by_workspace = defaultdict(list)
    for workspace_id, number in follower.found:
        by_workspace[workspace_id].append(number)
    assert all(numbers == sorted(numbers) for numbers in by_workspace.values())


@pytest.mark.usefixtures("workspaces")
@pytest.mark.parametrize("seed", range(by_form(2, 16, 60)))
async def test_each_event_is_sent_once(
    database: Database, database_url: str, sql: Sql, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Writers commit in any order or not at all, and followers break off at any time; compared with the table."""
    chance = random.Random(seed)  # noqa: S311 - repeatable
    # Unseen events are counted, or are too many for that.
    monkeypatch.setattr("skilder_keys.storage.event_streams.COUNTED", (2, 200_000)[seed % 2])
    async with AsyncExitStack() as stack:
        connections = [await asyncpg.connect(database_url) for _ in range(WRITERS)]
        for each in connections:
            stack.push_async_callback(each.close)
        writers = Writers(connections, chance)
        followers = [
            Follower(database, EventSelection(None if workspace_id is None else WorkspaceId(workspace_id), some))
            for workspace_id in (None, None, "acme", "globex")
            for some in (EVERYTHING, EventFilter(actions=ACTIONS[:1]))
        ]
        for follower in followers:
            stack.push_async_callback(follower.break_off)
            await follower.next()
        for _ in range(150):
            follower = chance.choice(followers)
            match chance.choice(("write", "write", "end", "read", "break", "lose")):
                case "write":
                    await writers.write()
                case "end":
                    await writers.end()
                case "read":
                    await follower.next()
                case "break":
                    await follower.break_off()
                case "lose":
                    await follower.break_off(losing=True)
        await writers.commit()
        for follower in followers:
            await check(follower, sql)


@pytest.mark.usefixtures("workspaces")
async def test_a_transaction_that_commits_late_is_not_left_out(database: Database, database_url: str, sql: Sql) -> None:
    """Although one with a higher id was sent before, also to those who start between the two."""
    other = await asyncpg.connect(database_url)
    late = other.transaction()
    await late.start()
    await add(other, "acme")
    early = Follower(database, EventSelection(None, EVERYTHING))
    await early.next()
    await add(sql, "globex")
    await early.until(1)
    between = Follower(database, EventSelection(None, EVERYTHING))
    await between.next()
    await early.break_off()
    await late.commit()
    await early.until(2)
    await between.until(1)
    assert early.found == [("globex", 1), ("acme", 1)]
    assert between.found == [("acme", 1)]
    for each in (early, between):
        await each.break_off()
    await other.close()


@pytest.mark.own_service
@pytest.mark.usefixtures("workspaces")
@pytest.mark.parametrize("counted", [3, 200_000])
async def test_events_that_are_missing_are_noticed(
    database: Database, sql: Sql, monkeypatch: pytest.MonkeyPatch, counted: int
) -> None:
    """When a follower goes on or, if too many are unseen to be counted, when it has read them."""
    monkeypatch.setattr("skilder_keys.storage.event_streams.COUNTED", counted)
    await add(sql, "globex")
    follower = Follower(database, EventSelection(None, EVERYTHING))
    await follower.next()
    await follower.break_off()
    await add(sql, "acme", count=20)
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("ALTER TABLE audit_event DISABLE TRIGGER audit_event_refuse_change")
    await sql.execute("DELETE FROM audit_event WHERE workspace_id = 'acme' AND number = 7")
    await sql.execute("ALTER TABLE audit_event ENABLE ALWAYS TRIGGER audit_event_refuse_change")
    await sql.execute("RESET session_replication_role")
    if counted > 20:
        assert "is of another history" in str(await refused(database, None, cursor=follower.cursor))
        return
    with pytest.raises(EventsPrunedError):
        await follower.until(20)
    assert [number for _, number in follower.found] == [number for number in range(1, 20) if number != 7][:18]


async def refused(database: Database, workspace_id: str | None, **start: Any) -> Exception:
    """Return the error with which a stream does not start."""
    selection = EventSelection(None if workspace_id is None else WorkspaceId(workspace_id), EVERYTHING)
    options = {"cursor": None, "after_number": None, "actor": None} | start
    with pytest.raises((InvalidRequestError, EventsPrunedError)) as found:
        await streams_of(database).follow(selection, **options)
    return found.value


async def undo(sql: Sql, *, after: int) -> None:
    """Bring `acme` back to an earlier event, as a restore of the database does."""
    await sql.execute("SET session_replication_role = replica")
    await sql.execute("ALTER TABLE audit_event DISABLE TRIGGER audit_event_refuse_change")
    await sql.execute("DELETE FROM audit_event WHERE workspace_id = 'acme' AND number > $1", after)
    await sql.execute("ALTER TABLE audit_event ENABLE ALWAYS TRIGGER audit_event_refuse_change")
    await sql.execute(
        "UPDATE audit_head SET (number, hash) = (SELECT number, audit_event.hash FROM audit_event"
        " WHERE workspace_id = 'acme' ORDER BY number DESC LIMIT 1) WHERE workspace_id = 'acme'"
    )
    await sql.execute("RESET session_replication_role")


@pytest.mark.own_service
@pytest.mark.usefixtures("workspaces")
@pytest.mark.parametrize("workspace_id", ["acme", None])
@pytest.mark.parametrize("added", [0, 1, 5])
@pytest.mark.parametrize("again", [False, True])
async def test_a_cursor_of_another_history_is_refused(
    database: Database, sql: Sql, workspace_id: str | None, added: int, *, again: bool
) -> None:
    """Where what was sent is gone, whether as much has come since or not, also from transactions with the same ids."""
    await add(sql, "acme", count=2)
    selection = EventSelection(None if workspace_id is None else WorkspaceId(workspace_id), EVERYTHING)
    follower = Follower(database, selection)
    await follower.next()
    await add(sql, "acme")
    await follower.until(1)
    await follower.break_off()
    await undo(sql, after=2)
    if added:
        await add(sql, "acme", count=added)
    if again:
        await sql.execute("ALTER TABLE audit_event DISABLE TRIGGER audit_event_refuse_change")
        await sql.execute("UPDATE audit_event SET transaction = '3' WHERE number > 2")
    error = await refused(database, workspace_id, cursor=follower.cursor)
    assert "is of another history" in str(error)


@pytest.mark.usefixtures("workspaces")
async def test_a_number_starts_in_one_workspace(database: Database, sql: Sql) -> None:
    """After it; 0 is from the beginning, and a number that is not there yet is a mistake."""
    await add(sql, "acme", count=5)
    for number in (0, 3, 5):
        stream = await streams_of(database).follow(
            EventSelection(WorkspaceId("acme"), EVERYTHING), cursor=None, after_number=number, actor=None
        )
        found: list[int] = []
        async with aclosing(stream), asyncio.timeout(30):
            async for sent in stream:
                found += [each.number or 0 for each in sent.events]
                if not sent.events:
                    break
        assert found == list(range(number + 1, 6))
    assert "the last event of the workspace has the number 5" in str(await refused(database, "acme", after_number=6))
    assert "a number counts in one workspace" in str(await refused(database, None, after_number=0))


@pytest.mark.usefixtures("workspaces")
async def test_there_are_never_too_many_streams(database: Database) -> None:
    """A stream that ends gives its place back."""
    streams = streams_of(database, max_streams=2)
    selection = EventSelection(WorkspaceId("acme"), EVERYTHING)

    async def follow() -> AsyncGenerator[Sent, None]:
        return await streams.follow(selection, cursor=None, after_number=None, actor=None)

    running = [await follow(), await follow()]
    for each in running:
        await anext(each)
    with pytest.raises(BusyError):
        await follow()
    await running[0].aclose()
    assert streams.open == 1
    # Two that were let in at the same time compete for the last place.
    late = [await follow(), await follow()]
    await anext(late[0])
    with pytest.raises(BusyError):
        await anext(late[1])
    streams.drain()
    with pytest.raises(UnavailableError, match="with the last cursor"):
        async for _ in running[1]:
            pass
    with pytest.raises(UnavailableError, match="with the last cursor"):
        await follow()


@pytest.mark.usefixtures("workspaces")
async def test_a_stream_ends_after_its_time(database: Database, sql: Sql) -> None:
    """Also while there is always something to send."""
    stream = await streams_of(database, seconds=0.1).follow(
        EventSelection(None, EVERYTHING), cursor=None, after_number=None, actor=None
    )
    async with asyncio.timeout(30):
        async for _ in stream:
            await add(sql, "acme")
