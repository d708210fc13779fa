"""GetWorkspace and ListWorkspaces for an actor: a member sees the workspace, and nobody sees more than their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1.workspace_pb2 import MEMBER_ROLE_ADMIN
from tests.support.calls import delete_workspace, get_workspace, list_workspaces, remove
from tests.support.service import refusal
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from tests.support.service import Client, Service


@pytest.mark.parametrize("actor", ["ada", "bob", "cyd"])
async def test_every_member_sees_the_workspace(service: Service, actor: str) -> None:
    """With the same contents as a caller that acts for itself, whatever their role."""
    assert await get_workspace(service.console, actor=actor) == await get_workspace(service.operator)


@pytest.mark.parametrize("actor", ["mallory", "ADA", "support", "everyone"])
async def test_nobody_else_sees_it(service: Service, actor: str) -> None:
    """Not a member of another workspace, nor a member once they have left."""
    other = small_workspace("globex")
    other.members.add(user_id="mallory", role=MEMBER_ROLE_ADMIN)
    await service.operator.apply(other)
    for client in (service.console, service.operator):
        refused = await refusal(get_workspace(client, actor=actor))
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, "ACTOR_NOT_MEMBER")
    workspace = small_workspace()
    remove(workspace.members, "bob")
    await service.operator.apply(workspace)
    assert (await refusal(get_workspace(service.console, actor="bob"))).reason == "ACTOR_NOT_MEMBER"


async def test_a_workspace_that_is_not_there_is_not_found(service: Service) -> None:
    """For an actor too, also once it was deleted."""
    assert (await refusal(get_workspace(service.console, "nowhere", actor="ada"))).reason == "WORKSPACE_NOT_FOUND"
    await delete_workspace(service.operator)
    assert (await refusal(get_workspace(service.console, actor="ada"))).reason == "WORKSPACE_NOT_FOUND"
    assert not (await list_workspaces(service.console, actor="ada")).workspaces


async def listed(client: Client, **fields: Any) -> list[list[str]]:
    """Return the ids of all pages."""
    found = [await list_workspaces(client, **fields)]
    while found[-1].next_page_token:
        found.append(await list_workspaces(client, **fields, page_token=found[-1].next_page_token))
    return [[each.id for each in page.workspaces] for page in found]


async def test_an_actor_sees_the_workspaces_they_are_in(empty_service: Service) -> None:
    """In order of id, page by page; one that they joined, left or that was deleted counts at once."""
    for index in range(7):
        workspace = small_workspace(f"w{index}")
        if index % 2:
            remove(workspace.members, "bob")
        await empty_service.operator.apply(workspace)
    client = empty_service.console
    assert await listed(client, actor="ada", page_size=3) == [["w0", "w1", "w2"], ["w3", "w4", "w5"], ["w6"]]
    assert await listed(client, actor="bob", page_size=2) == [["w0", "w2"], ["w4", "w6"]]
    assert await listed(client, actor="mallory") == [[]]
    await empty_service.operator.apply(small_workspace("w3"))
    await delete_workspace(empty_service.operator, "w4")
    gone = small_workspace("w0")
    remove(gone.members, "bob")
    await empty_service.operator.apply(gone)
    assert await listed(client, actor="bob") == [["w2", "w3", "w6"]]
    assert await listed(empty_service.operator) == [["w0", "w1", "w2", "w3", "w5", "w6"]]
    summaries = {each.id: each for each in (await list_workspaces(empty_service.operator)).workspaces}
    for each in (await list_workspaces(client, actor="bob")).workspaces:
        assert each == summaries[each.id]


async def test_a_page_token_is_good_for_its_actor_only(service: Service) -> None:
    """Not for another one, nor for none; neither for an actor where it was made without one."""
    await service.operator.apply(small_workspace("globex"))
    tokens = {
        actor: (await list_workspaces(service.operator, actor=actor, page_size=1)).next_page_token
        for actor in ("", "ada", "bob")
    }
    for made_for, token in tokens.items():
        for actor in tokens:
            call = list_workspaces(service.operator, actor=actor, page_token=token)
            if actor == made_for:
                assert [each.id for each in (await call).workspaces] == ["globex"]
            else:
                assert list((await refusal(call)).fields) == ["page_token"]


@pytest.mark.parametrize("actor", [" ada", "a\nb", "x" * 256])
async def test_an_invalid_actor_is_refused_by_its_field(service: Service, actor: str) -> None:
    """In reads as in changes."""
    for call in (get_workspace(service.operator, actor=actor), list_workspaces(service.operator, actor=actor)):
        refused = await refusal(call)
        assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["actor"])


async def test_a_member_by_sql_counts(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Reads ask the database."""
    await sql.execute("INSERT INTO member (workspace_id, user_id, role) VALUES ('acme', 'dee', 'viewer')")
    assert (await get_workspace(service.console, actor="dee")).workspace.id == "acme"
    assert await listed(service.console, actor="dee") == [["acme"]]
    await sql.execute("DELETE FROM member WHERE user_id = 'dee'")
    assert (await refusal(get_workspace(service.console, actor="dee"))).reason == "ACTOR_NOT_MEMBER"
    assert await listed(service.console, actor="dee") == [[]]
