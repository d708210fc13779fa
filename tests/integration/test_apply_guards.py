"""A mistaken ApplyWorkspace can be previewed (dry_run) or refused (max_removals)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1.workspace_pb2 import MEMBER_ROLE_ADMIN, Workspace
from tests.support.calls import delete_workspace, get_workspace, list_workspaces, part, remove
from tests.support.changes import CHANGES
from tests.support.fence import epoch, insert_laggard
from tests.support.service import Client, Refusal, Service, refusal
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

pytestmark = GRPCIO_IF_SHORT

EVERYTHING = "SELECT version, updated_at FROM workspace UNION ALL SELECT id, at FROM audit_event"


async def outcome(client: Client, workspace: Workspace, **fields: Any) -> object:
    """Apply a workspace and return the response or, where it is refused, the refusal."""
    try:
        return await client.apply(workspace, **fields)
    except grpc.aio.AioRpcError as error:
        return Refusal.of(error)


async def test_a_dry_run_returns_what_the_apply_returns(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """For every kind of change the version and changes are the same, and nothing is written before the apply."""
    for name, change, _ in CHANGES:
        workspace = small_workspace()
        change(workspace)
        before = await get_workspace(service.operator)
        rows = await sql.fetch(EVERYTHING)
        before_epoch = await epoch(sql)
        seen = await service.operator.apply(workspace, dry_run=True)
        assert await get_workspace(service.operator) == before, name
        assert await sql.fetch(EVERYTHING) == rows, name
        assert await epoch(sql) == before_epoch, name
        assert await service.operator.apply(workspace) == seen, name
        again = await service.operator.apply(workspace, dry_run=True)
        assert (again.version, list(again.changes)) == (seen.version, []), name
        await service.operator.apply(small_workspace())


async def test_a_dry_run_creates_no_workspace(service: Service) -> None:
    """It reports what the first apply would do, and the id stays free."""
    seen = await service.console.apply(small_workspace("globex"), dry_run=True, expected_version=0, actor="ada")
    assert seen.version == 1
    assert [each.id for each in (await list_workspaces(service.operator)).workspaces] == ["acme"]
    assert await service.console.apply(small_workspace("globex"), expected_version=0, actor="ada") == seen


async def test_a_dry_run_refuses_what_the_apply_refuses(service: Service) -> None:
    """With the same status, reason, metadata and fields."""
    await service.operator.apply(small_workspace("gone"))
    await delete_workspace(service.operator, "gone")
    dangling, promoted = small_workspace(), small_workspace()
    remove(dangling.teams, "engineering")
    part(promoted.members, "bob").role = MEMBER_ROLE_ADMIN
    asked: list[tuple[Workspace, dict[str, Any]]] = [
        (dangling, {}),
        (promoted, {"actor": "bob"}),
        (promoted, {"actor": "dan"}),
        (small_workspace(), {"expected_version": 7}),
        (small_workspace(), {"expected_version": -1, "max_removals": -1}),
        (small_workspace("globex"), {"expected_version": 1}),
        (small_workspace("gone"), {}),
        (Workspace(id="acme", name="Acme"), {}),
        (Workspace(id="acme", name="Acme"), {"max_removals": 18}),
    ]
    for workspace, fields in asked:
        dry = await outcome(service.operator, workspace, dry_run=True, **fields)
        assert isinstance(dry, Refusal)
        assert await outcome(service.operator, workspace, **fields) == dry
    assert (await get_workspace(service.operator)).version == 1


async def test_a_dry_run_waits_for_no_lock(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """A running apply does not delay it, and it does not delay an apply."""
    async with sql.transaction():
        await sql.execute("SELECT FROM workspace WHERE id = 'acme' FOR UPDATE")
        await sql.execute("UPDATE fence SET epoch = epoch")
        async with asyncio.timeout(10):
            changed = small_workspace()
            remove(changed.hats, "engineer")
            seen = await service.operator.apply(changed, dry_run=True)
    assert (seen.version, len(seen.changes)) == (2, 1)


@pytest.mark.parametrize("dry_run", [True, False])
async def test_removing_more_than_half_of_the_parts_needs_max_removals(service: Service, *, dry_run: bool) -> None:
    """The refusal gives the number of removals; with that number the apply succeeds."""
    emptied = Workspace(id="acme", name="Acme")
    for fields, allowed in (({}, "9"), ({"max_removals": 18}, "18"), ({"max_removals": 0}, "0")):
        refused = await refusal(service.operator.apply(emptied, dry_run=dry_run, **fields))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_CHANGED")
        assert refused.metadata == {"count": "19", "allowed": allowed}
        assert "max_removals to 19" in refused.message
    assert (await get_workspace(service.operator)).version == 1
    count = int(refused.metadata["count"])
    response = await service.operator.apply(emptied, max_removals=count, dry_run=dry_run)
    assert (response.version, len(response.changes)) == (2, 19)
    assert len((await get_workspace(service.operator)).workspace.hats) == (4 if dry_run else 0)


async def test_max_removals_0_allows_no_removal(service: Service) -> None:
    """Additions and updates pass; a part with another id counts as removed."""
    workspace = small_workspace()
    workspace.hats.add(id="new", name="New")
    part(workspace.hats, "engineer").ClearField("skill_ids")
    assert (await service.operator.apply(workspace, max_removals=0)).version == 2
    part(workspace.hats, "new").id = "newer"
    refused = await refusal(service.operator.apply(workspace, max_removals=0))
    assert refused.metadata == {"count": "1", "allowed": "0"}
    assert (await service.operator.apply(workspace, max_removals=1)).version == 3


async def test_a_negative_max_removals_is_refused_by_its_field(service: Service) -> None:
    """Together with the other fields at fault."""
    refused = await refusal(service.operator.apply(small_workspace(), max_removals=-1, expected_version=-1))
    assert refused.code == grpc.StatusCode.INVALID_ARGUMENT
    assert list(refused.fields) == ["expected_version", "max_removals"]


async def test_an_apply_that_changes_nothing_waits_for_the_fence_and_leaves_no_trace(
    service: Service, sql: asyncpg.Connection[Any]
) -> None:
    """A retry cannot know whether the first try waited. A dry run has nothing to wait for."""
    rows = await sql.fetch(EVERYTHING)
    laggard = await insert_laggard(sql, 3600)
    async with asyncio.timeout(10):
        await service.operator.apply(small_workspace(), dry_run=True)
    applying = asyncio.ensure_future(service.operator.apply(small_workspace()))
    done, _ = await asyncio.wait([applying], timeout=0.5)
    assert not done, "it waits for a reader that has not applied the last change"
    await sql.execute("DELETE FROM reader WHERE id = $1", laggard)
    assert (await applying).version == 1
    assert await sql.fetch(EVERYTHING) == rows
