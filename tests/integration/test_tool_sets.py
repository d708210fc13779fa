"""Tool sets: found once for all keys of one reach, bounded, and never of another version than requested."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.app.authorization.tool_sets import SharedToolSet, ToolSets
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.domain.ids import HatId, TeamId, WorkspaceId
from skilder_keys.domain.permissions import NOTHING, Reach
from skilder_keys.storage import catalog
from tests.support.calls import part
from tests.support.fence import LONG
from tests.support.fleet import Process, process
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from skilder_keys.storage.database import Connection

ACME = WorkspaceId("acme")
ALL = Reach(None, None)


def limited(*hats: str) -> Reach:
    """Return the reach of a key that is limited to these hats."""
    return Reach(None, frozenset(map(HatId, hats)))


@pytest.fixture
def one(writer: Process) -> Process:
    """A process with the workspace at version 1, and nothing in memory."""
    return writer


class Reads:
    """Counts the reads of catalogs; they wait until the test lets them go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        self.released = asyncio.Event()
        self.released.set()
        self._original = catalog.load_catalog
        monkeypatch.setattr(catalog, "load_catalog", self._load)

    async def _load(self, connection: Connection, workspace_id: WorkspaceId, **options: Any) -> Any:
        self.count += 1
        found = await self._original(connection, workspace_id, **options)
        await self.released.wait()
        return found


@pytest.fixture
def reads(one: Process, monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Count the reads from here on."""
    assert one
    return Reads(monkeypatch)


async def got(tool_sets: ToolSets, version: int = 1, reach: Reach = ALL) -> SharedToolSet:
    """Return a tool set of `acme` that must exist."""
    found = await tool_sets.get(ACME, version, reach)
    assert found is not None
    return found


def hats(found: SharedToolSet) -> list[str]:
    """Return the hats in a tool set's message."""
    return [hat.id for hat in pb.Granted.FromString(found.field).tool_set.hats]


async def test_a_tool_set_is_made_once(one: Process, reads: Reads) -> None:
    """For each reach; the catalog behind them is read once for all."""
    first = await got(one.tool_sets)
    assert await got(one.tool_sets, reach=Reach(None, None)) is first
    other = await got(one.tool_sets, reach=limited("everyone"))
    team = await got(one.tool_sets, reach=Reach(frozenset({TeamId("support")}), None))
    assert (hats(other), hats(team)) == (["everyone"], ["customer-care", "everyone", "support-desk"])
    assert len(one.tool_sets) == 3
    assert reads.count == 1


async def test_concurrent_callers_share_one_tool_set_load(one: Process, reads: Reads) -> None:
    """A caller that is cancelled does not stop it for the others."""
    reads.released.clear()
    tasks = [asyncio.create_task(got(one.tool_sets)) for _ in range(20)]
    tasks += [asyncio.create_task(got(one.tool_sets, reach=limited("everyone"))) for _ in range(20)]
    while not reads.count:
        await asyncio.sleep(0.001)
    tasks[0].cancel()
    await asyncio.sleep(0)
    reads.released.set()
    found = await asyncio.gather(*tasks[1:])
    assert tasks[0].cancelled()
    assert len({id(each) for each in found}) == 2
    assert reads.count == 1


async def test_only_the_current_version_is_found(one: Process) -> None:
    """An older or a future one is not, and the request is not remembered."""
    assert await one.tool_sets.get(ACME, 2, ALL) is None
    workspace = small_workspace()
    part(workspace.hats, "everyone").name = "All"
    assert await one.apply(workspace) == 2
    assert await one.tool_sets.get(ACME, 1, ALL) is None
    assert hats(await got(one.tool_sets, 2)) == ["customer-care", "engineer", "everyone", "support-desk"]


async def test_a_version_in_memory_stays_what_it_was(one: Process) -> None:
    """For calls that began with it; a key that is read afterwards uses the new version."""
    old = await got(one.tool_sets)
    workspace = small_workspace()
    part(workspace.hats, "everyone").name = "All"
    await one.apply(workspace)
    assert await got(one.tool_sets, 1) is old
    assert (await got(one.tool_sets, 2)).version != old.version


async def test_the_empty_tool_set_needs_no_database(one: Process) -> None:
    """It is the same one for every workspace."""
    lent = one.database.lent
    found = await one.tool_sets.get(WorkspaceId("nowhere"), 7, NOTHING)
    assert found is one.tool_sets.nothing
    assert hats(found) == []
    assert one.database.lent == lent


async def test_a_failed_load_fails_for_all_and_is_not_remembered(one: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next caller loads again."""
    original = catalog.load_catalog

    async def fail(*_: object, **__: object) -> Any:
        raise UnavailableError("gone")

    monkeypatch.setattr(catalog, "load_catalog", fail)
    found = await asyncio.gather(*(one.tool_sets.get(ACME, 1, ALL) for _ in range(3)), return_exceptions=True)
    assert [type(each) for each in found] == [UnavailableError] * 3
    monkeypatch.setattr(catalog, "load_catalog", original)
    assert hats(await got(one.tool_sets, reach=limited("engineer"))) == ["engineer"]
    assert len(await asyncio.gather(*(got(one.tool_sets) for _ in range(3)))) == 3


async def test_the_least_recently_used_tool_set_is_evicted_first(one: Process) -> None:
    """By total size; a tool set that is too large on its own is kept alone."""
    names = ("everyone", "engineer", "support-desk", "customer-care")
    weights = [(await got(one.tool_sets, reach=limited(name))).weight for name in names]
    room = ToolSets(one.database, sum(weights) - 1)
    first, second, third = [await got(room, reach=limited(name)) for name in names[:3]]
    assert len(room) == 3
    room.use(first)
    fourth = await got(room, reach=limited(names[3]))
    assert [each.evicted for each in (first, second, third, fourth)] == [False, True, False, False]
    again = await got(room, reach=limited(names[1]))
    assert again is not second
    assert again.version == second.version
    room.use(second)
    tight = ToolSets(one.database, 1)
    large, small = await got(tight), await got(tight, reach=limited("everyone"))
    assert (large.evicted, small.evicted, len(tight)) == (True, False, 1)


async def test_keys_of_an_evicted_tool_set_are_read_again(database_url: str) -> None:
    """That costs a query, and never causes a wrong denial."""
    async with process(database_url, lease=LONG) as made:
        await made.apply()
        await made.follow()
        _, token = await made.issue()
        for _ in range(5):
            assert await made.outcome(token, "git.commit") == "granted"
            known = made.cache.find(token)
            assert known is not None
            known.tool_set.evicted = True
            assert made.cache.find(token) is None
            made.tool_sets.clear()
            lent = made.database.lent
            assert await made.outcome(token, "git.commit") == "granted"
            assert made.database.lent > lent
            assert await made.outcome(token, "git.push") == "TOOL_NOT_ALLOWED"


async def test_cleared_tool_sets_are_gone(one: Process, reads: Reads) -> None:
    """For new callers, and for keys that still hold them."""
    found = await got(one.tool_sets)
    one.tool_sets.clear()
    assert found.evicted
    assert len(one.tool_sets) == 0
    again = await got(one.tool_sets)
    assert again is not found
    assert reads.count == 2


async def test_a_load_that_runs_while_tool_sets_are_cleared_is_not_kept(one: Process, reads: Reads) -> None:
    """It read a database that may have lost that version since."""
    reads.released.clear()
    task = asyncio.create_task(got(one.tool_sets))
    while not reads.count:
        await asyncio.sleep(0.001)
    one.tool_sets.clear()
    late = asyncio.create_task(got(one.tool_sets))
    await asyncio.sleep(0)
    reads.released.set()
    old, new = await task, await late
    assert new is not old
    assert await got(one.tool_sets) is not old
    assert reads.count >= 2


async def test_a_tool_is_granted_with_every_way_to_it(one: Process) -> None:
    """The same bytes each time; a tool out of reach has no ways."""
    found = await got(one.tool_sets)
    for _ in range(2):
        field = found.grant("slack.history")
        assert field is not None
        tool = pb.Granted.FromString(field).tool
        assert (tool.tool.id, len(tool.paths)) == ("slack.history", 3)
        assert found.grant("git.push") is None
        assert found.grant("") is None
    assert one.tool_sets.nothing.grant("web.search") is None
