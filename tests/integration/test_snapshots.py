"""Workspaces in memory: read once for all keys, and after a change only the parts that it touched."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from unittest.mock import AsyncMock

import pytest

from skilder_keys.app.authorization import memory
from skilder_keys.domain.difference import Part
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.token import KeyType
from skilder_keys.storage import snapshots
from tests.support.calls import part
from tests.support.fence import LONG, warm
from tests.support.fleet import Process, process, until
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from skilder.keys.v1.workspace_pb2 import Workspace
    from skilder_keys.storage.database import Connection
    from skilder_keys.storage.snapshots import SnapshotRead, Wanted

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too

ACME = WorkspaceId("acme")


class Reads:
    """What is read of workspaces from here on. The reads wait until the test lets them go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.wanted: list[dict[Part, set[str] | None]] = []
        self.released = asyncio.Event()
        self.released.set()
        self._original = snapshots.read
        monkeypatch.setattr(snapshots, "read", self._read)

    async def _read(self, connection: Connection, workspace_id: WorkspaceId, wanted: Wanted) -> SnapshotRead:
        self.wanted.append({kind: None if ids is None else set(ids) for kind, ids in wanted.items()})
        found = await self._original(connection, workspace_id, wanted)
        await self.released.wait()
        return found

    def take(self) -> list[dict[Part, set[str] | None]]:
        """Return what was read, and forget it."""
        taken, self.wanted = self.wanted, []
        return taken


@pytest.fixture
def reads(one: Process, monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Note the reads from here on. On a busy machine too, changes wait for what is read ahead of them."""
    assert one
    monkeypatch.setattr(memory, "_AHEAD_SECONDS", 60.0)
    return Reads(monkeypatch)


async def test_a_workspace_is_read_once_for_all_its_keys(one: Process, reads: Reads) -> None:
    """Of whatever reach and type, and however many calls come at once."""
    tokens = [(await one.issue())[1] for _ in range(5)]
    tokens += [(await one.issue(hat_ids=("everyone",)))[1], (await one.issue(KeyType.USER, user_id="bob"))[1]]
    assert set(await asyncio.gather(*(one.outcome(token) for token in tokens * 5))) == {"granted"}
    assert reads.take() == [dict(snapshots.EVERYTHING)]
    assert len(one.snapshots) == 1


def add_member(workspace: Workspace) -> None:
    """Add a member."""
    workspace.members.add(user_id="yuri", role=part(workspace.members, "bob").role)


def move_member(workspace: Workspace) -> None:
    """Move a member into another team."""
    part(workspace.members, "bob").team_ids[:] = ["engineering"]


def disable_tool(workspace: Workspace) -> None:
    """Switch a tool off."""
    part(workspace.tools, "git.commit").disabled = True


def rename_skill(workspace: Workspace) -> None:
    """Rename a skill."""
    part(workspace.skills, "code").name = "Programming"


def change_skill(workspace: Workspace) -> None:
    """Take a tool from a skill."""
    del part(workspace.skills, "code").tool_ids[0]


def move_hat(workspace: Workspace) -> None:
    """Give a hat to another team."""
    part(workspace.hats, "engineer").team_ids[:] = ["support"]


def describe(workspace: Workspace) -> None:
    """Change texts, which a tool set may have."""
    part(workspace.hats, "engineer").description = "Writes code."
    part(workspace.hats, "engineer").instructions = "Be brief."
    part(workspace.skills, "code").description = "Code."


@pytest.mark.parametrize(
    ("change", "of_bob", "of_nobody"),
    [
        (add_member, [], []),
        (move_member, [{Part.MEMBER: {"bob"}}], []),
        (disable_tool, [{Part.TOOL: {"git.commit"}}], [{Part.TOOL: {"git.commit"}}]),
        (rename_skill, [{Part.SKILL: {"code"}}], [{Part.SKILL: {"code"}}]),
        (change_skill, [{Part.SKILL: {"code"}}], [{Part.SKILL: {"code"}}]),
        (move_hat, [{Part.HAT: {"engineer"}}], [{Part.HAT: {"engineer"}}]),
        (
            describe,
            [{Part.HAT: {"engineer"}, Part.SKILL: {"code"}}],
            [{Part.HAT: {"engineer"}, Part.SKILL: {"code"}}],
        ),
    ],
)
async def test_a_change_costs_what_it_changes(
    one: Process,
    reads: Reads,
    database_url: str,
    change: Callable[[Workspace], None],
    of_bob: list[dict[Part, set[str]]],
    of_nobody: list[dict[Part, set[str]]],
) -> None:
    """Only the touched part is read again, once for all keys; and no key is. The answers are those of a new process."""
    tokens = [(await one.issue())[1], (await one.issue(hat_ids=("engineer",)))[1]]
    users = (await one.issue(KeyType.USER, user_id="bob"))[1]
    for token in (*tokens, users):
        await warm(one, token)
    changed = small_workspace()
    change(changed)
    for expected, asked in ((of_nobody, tokens), (of_bob, [users])):
        for desired in (changed, small_workspace()):
            reads.take()
            await one.apply(desired)
            ahead = reads.take()
            checks, keys = one.hasher.checks, len(one.key_cache)
            lent = one.database.lent
            answers = [await one.ask(token) for token in asked * 3]
            later = reads.take()
            assert ahead + later == expected
            assert all(set(wanted) == {Part.MEMBER} for wanted in later)
            assert (one.hasher.checks, len(one.key_cache)) == (checks, keys)
            assert one.database.lent == lent + len(later)
            async with process(database_url) as other:
                assert answers == [await other.ask(token) for token in asked * 3]
        for token in (*tokens, users):
            await warm(one, token)


async def test_a_change_of_another_member_leaves_all_others_alone(one: Process, reads: Reads) -> None:
    """A member who leaves and comes back; the key of that user is the only one that reads anything."""
    _, bobs = await one.issue(KeyType.USER, user_id="bob")
    _, anns = await one.issue(KeyType.USER, user_id="ada")
    _, shared = await one.issue()
    for token in (bobs, anns, shared):
        await warm(one, token)
    for outcome in ("MEMBER_REMOVED", "granted"):
        workspace = small_workspace()
        if outcome == "MEMBER_REMOVED":
            workspace.members.remove(part(workspace.members, "bob"))
        await one.apply(workspace)
        reads.take()
        lent = one.database.lent
        assert [await one.outcome(token) for token in (anns, shared)] == ["granted", "granted"]
        assert one.database.lent == lent
        assert [await one.outcome(bobs) for _ in range(3)] == [outcome] * 3
        assert reads.take() == [{Part.MEMBER: {"bob"}}]


async def test_all_of_a_kind_is_read_where_very_many_were_touched(one: Process, reads: Reads) -> None:
    """More than a hundred; fewer are read one by one, also those of several changes."""
    _, token = await one.issue()
    await warm(one, token)
    workspace = small_workspace()
    for count, expected in ((3, {f"extra-{number}" for number in range(3)}), (150, None)):
        for number in range(count):
            if all(tool.id != f"extra-{number}" for tool in workspace.tools):
                workspace.tools.add(id=f"extra-{number}", name=f"extra-{number}", mcp_server="slack")
        reads.take()
        await one.apply(workspace)
        assert await one.outcome(token) == "granted"
        assert reads.take() == [{Part.TOOL: expected}]


async def test_no_call_waits_for_what_was_read_ahead(one: Process, reads: Reads, sql: Sql) -> None:
    """The workspace is complete before the change, and right after it."""
    _, token = await one.issue()
    await warm(one, token)
    reads.take()
    for count in range(1, 6):
        epoch = one.lease.epoch
        await sql.execute("UPDATE hat SET name = name || '.' WHERE (workspace_id, id) = ('acme', 'engineer')")
        while one.lease.epoch == epoch:
            assert one.snapshots.current(ACME) is not None
            await asyncio.sleep(0)
        hits = one.memory.hits
        hats = (await one.ask(token)).granted.tool_set.hats
        assert one.memory.hits == hits + 1
        assert [hat.name for hat in hats if hat.id == "engineer"] == ["Engineer" + "." * count]
        assert reads.take() == [{Part.HAT: {"engineer"}}]


async def test_nothing_is_read_ahead_for_nobody(one: Process, reads: Reads, sql: Sql) -> None:
    """Not of a workspace that no key has asked about since the last change, and not if it was deleted."""
    _, token = await one.issue()
    await warm(one, token)
    reads.take()
    switch = "UPDATE tool SET disabled = NOT disabled WHERE (workspace_id, id) = ('acme', 'web.search')"
    for statement in (switch, switch, "UPDATE workspace SET deleted_at = now() WHERE id = 'acme'"):
        epoch = one.lease.epoch
        await sql.execute(statement)
        await until(lambda epoch=epoch: one.lease.epoch > epoch)  # type: ignore[misc]
    assert reads.take() == [{Part.TOOL: {"web.search"}}]
    assert await one.outcome(token) == "WORKSPACE_GONE"


async def test_a_change_does_not_wait_long_for_what_is_read_ahead(
    one: Process, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is in force while the read hangs, and the next call reads for itself."""
    _, token = await one.issue()
    await warm(one, token)
    reads.take()
    monkeypatch.setattr(memory, "_AHEAD_SECONDS", 0.5)
    reads.released.clear()
    workspace = small_workspace()
    disable_tool(workspace)
    await one.apply(workspace)
    assert reads.take() == [{Part.TOOL: {"git.commit"}}]
    assert one.snapshots.current(ACME) is None
    reads.released.set()
    assert await one.outcome(token, "git.commit") == "TOOL_NOT_ALLOWED"
    assert reads.take() == [{Part.TOOL: {"git.commit"}}]


async def test_a_change_does_not_wait_for_a_read_ahead_that_fails(
    one: Process, reads: Reads, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next call meets the outage, if it still lasts."""
    _, token = await one.issue()
    await warm(one, token)
    reads.take()
    read = AsyncMock(side_effect=UnavailableError)
    with monkeypatch.context() as outage:
        outage.setattr(snapshots, "read", read)
        workspace = small_workspace()
        disable_tool(workspace)
        await one.apply(workspace)
        assert read.await_count == 1
    assert await one.outcome(token, "git.commit") == "TOOL_NOT_ALLOWED"
    assert reads.take() == [{Part.TOOL: {"git.commit"}}]


async def test_a_load_that_a_change_overtook_answers_those_who_waited(
    one: Process, reads: Reads, database_url: str
) -> None:
    """By the state that it read. Who comes after the change never sees that state."""
    _, token = await one.issue()
    await warm(one, token)
    async with process(database_url, lease=LONG) as other:
        one.snapshots.drop_all()
        reads.take()
        reads.released.clear()
        early = [asyncio.create_task(one.ask(token)) for _ in range(3)]
        while not reads.wanted:
            await asyncio.sleep(0.001)
        workspace = small_workspace()
        move_hat(workspace)
        disable_tool(workspace)
        await other.apply(workspace)
        late = [asyncio.create_task(one.ask(token, "git.commit")) for _ in range(3)]
        while len(reads.wanted) == 1:
            await asyncio.sleep(0.001)
        reads.released.set()
        before = await asyncio.gather(*early)
        after = await asyncio.gather(*late)
    assert len({each.granted.tool_set.version for each in before}) == 1
    assert "git.commit" in [tool.id for tool in before[0].granted.tool_set.tools]
    assert not any(each.HasField("granted") for each in after)
    assert "git.commit" not in [tool.id for tool in (await one.ask(token)).granted.tool_set.tools]


async def test_answers_keep_up_with_changes_that_come_without_end(one: Process, sql: Sql) -> None:
    """A tool that is switched all the time in SQL: each call is answered, and at the end by the last state."""
    tokens = [(await one.issue())[1], (await one.issue(KeyType.USER, user_id="ada"))[1]]
    for token in tokens:
        await warm(one, token)

    seen: set[str] = set()

    async def switch() -> None:
        for number in range(5000):
            await sql.execute(
                "UPDATE tool SET disabled = NOT disabled WHERE workspace_id = 'acme' AND id = 'web.search'"
            )
            if number > 60 and len(seen) == 2:  # several changes are applied at once, perhaps always an even number
                break
        await sql.execute("UPDATE tool SET disabled = false WHERE workspace_id = 'acme'")

    switching = asyncio.create_task(switch())
    while not switching.done():
        await asyncio.sleep(0)
        seen |= {await one.outcome(token, "web.search") for token in tokens}
    await switching
    assert seen == {"granted", "TOOL_NOT_ALLOWED"}
    async with asyncio.timeout(60):
        while one.lease.epoch < await sql.fetchval("SELECT epoch FROM fence"):
            await asyncio.sleep(0.002)
    assert [await one.outcome(token, "web.search") for token in tokens] == ["granted", "granted"]


async def test_without_a_lease_a_workspace_is_used_at_exactly_its_version(
    one: Process, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read once a version; the key is read by each call."""
    _, token = await one.issue()
    await one.outcome(token)
    async with process(database_url) as other:
        reads = Reads(monkeypatch)
        for _ in range(2):
            assert [await other.outcome(token, "git.commit") for _ in range(3)] == ["granted"] * 3
            workspace = small_workspace()
            disable_tool(workspace)
            await one.apply(workspace)
            assert [await other.outcome(token, "git.commit") for _ in range(3)] == ["TOOL_NOT_ALLOWED"] * 3
            await one.apply()
        assert len([each for each in reads.take() if each == dict(snapshots.EVERYTHING)]) == 4
        assert len(other.snapshots) == 0


async def test_tool_sets_are_bounded_without_a_lease_too(one: Process, database_url: str) -> None:
    """The workspace stays; its tool sets are made again when they are needed."""
    _, token = await one.issue()
    async with process(database_url, snapshot_bytes=1) as other:
        for tool in ("git.commit", "web.search", None):
            assert await other.outcome(token, tool) == "granted"
            held = await other.snapshots.at(ACME, 1, None)
            assert held is not None
            assert held.grown == 0


async def test_the_workspaces_not_used_for_longest_go_first(database_url: str) -> None:
    """With room for about two; they are read again when they are needed."""
    async with process(database_url, lease=LONG) as made:
        names = [WorkspaceId(f"w{number}") for number in range(3)]
        tokens = []
        for name in names:
            await made.apply(small_workspace(name))
            tokens.append((await made.issue(workspace_id=name))[1])
        await made.follow()
        await warm(made, tokens[0])
        room = 2 * made.snapshots.weight + 1000
    async with process(database_url, lease=LONG, snapshot_bytes=room) as made:
        await made.follow()
        for at in (0, 1, 0, 2):
            await warm(made, tokens[at])
        assert [made.snapshots.current(name) is not None for name in names] == [True, False, True]
        assert made.snapshots.weight <= room
        assert made.memory.evicted_workspaces == 1
        await warm(made, tokens[1])
        assert made.snapshots.current(names[1]) is not None


async def test_an_outage_of_a_load_is_reported_and_leaves_nothing_behind(
    one: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never as a denial; the next call loads again."""
    _, token = await one.issue()
    await warm(one, token)
    one.snapshots.drop_all()
    original = snapshots.read

    async def failing(*_: object) -> SnapshotRead:
        raise UnavailableError

    monkeypatch.setattr(snapshots, "read", failing)
    for found in await asyncio.gather(*(one.outcome(token) for _ in range(3)), return_exceptions=True):
        assert isinstance(found, UnavailableError)
    monkeypatch.setattr(snapshots, "read", original)
    assert await one.outcome(token) == "granted"


async def test_a_tool_is_granted_with_every_way_to_it(one: Process) -> None:
    """The same bytes each time; a tool out of reach has no ways."""
    _, token = await one.issue()
    for _ in range(2):
        tool = (await one.ask(token, "slack.history")).granted.tool
        assert (tool.tool.id, len(tool.paths)) == ("slack.history", 3)
    _, limited = await one.issue(hat_ids=("everyone",))
    assert await one.outcome(limited, "git.push") == "TOOL_NOT_ALLOWED"
