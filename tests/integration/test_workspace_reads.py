"""GetWorkspace and ListWorkspaces for an actor: a member sees the workspace, and nobody sees more than their own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1.workspace_pb2 import MEMBER_ROLE_ADMIN, MemberRole
from tests.support.calls import delete_workspace, get_workspace, list_workspaces, remove
from tests.support.service import refusal
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from tests.support.service import Client, Service

pytestmark = GRPCIO_IF_SHORT


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


async def roles(client: Client, **fields: Any) -> dict[str, str]:
    """Return the role of the requested user in each listed workspace."""
    page = await list_workspaces(client, **fields)
    assert not page.next_page_token
    return {each.id: MemberRole.Name(each.member_role).removeprefix("MEMBER_ROLE_") for each in page.workspaces}


async def in_two_workspaces(service: Service) -> None:
    """Make `globex` without `cyd` and `initech` without `bob`, where `mallory` is an admin, beside `acme`."""
    for id_, missing in (("globex", "cyd"), ("initech", "bob")):
        workspace = small_workspace(id_)
        remove(workspace.members, missing)
        if id_ == "initech":
            workspace.members.add(user_id="mallory", role=MEMBER_ROLE_ADMIN)
        await service.operator.apply(workspace)


async def test_the_workspaces_of_a_user_are_listed_with_their_role(service: Service) -> None:
    """For a caller that acts for itself, of any user; without a user, no role is told."""
    await in_two_workspaces(service)
    assert await roles(service.operator, user_id="ada") == dict.fromkeys(["acme", "globex", "initech"], "ADMIN")
    assert await roles(service.operator, user_id="bob") == dict.fromkeys(["acme", "globex"], "EDITOR")
    assert await roles(service.auditor, user_id="mallory") == {"initech": "ADMIN"}
    assert await roles(service.operator, user_id="nobody") == {}
    everything = dict.fromkeys(["acme", "globex", "initech"], "UNSPECIFIED")
    assert await roles(service.operator) == await roles(service.console, actor="ada") == everything
    assert await listed(service.operator, user_id="ada", page_size=2) == [["acme", "globex"], ["initech"]]


async def test_an_actor_sees_of_another_user_only_the_workspaces_of_both(service: Service) -> None:
    """What they see in each of them by GetWorkspace, and nothing of those that they are not in."""
    await in_two_workspaces(service)
    client = service.console
    assert await roles(client, user_id="bob", actor="bob") == dict.fromkeys(["acme", "globex"], "EDITOR")
    assert await roles(client, user_id="cyd", actor="bob") == {"acme": "VIEWER"}
    assert await roles(client, user_id="ada", actor="mallory") == {"initech": "ADMIN"}
    assert await roles(client, user_id="bob", actor="mallory") == await roles(client, user_id="ada", actor="no") == {}
    assert await listed(client, user_id="ada", actor="bob", page_size=1) == [["acme"], ["globex"]]


async def test_deleted_workspaces_are_listed_on_request(service: Service) -> None:
    """With the time, for a caller that acts for itself. They have no members, so no person sees one."""
    await in_two_workspaces(service)
    deletion = await delete_workspace(service.operator, "globex")
    page = await list_workspaces(service.operator, show_deleted=True)
    assert [each.id for each in page.workspaces] == ["acme", "globex", "initech"]
    assert [each.HasField("deleted_at") for each in page.workspaces] == [False, True, False]
    assert page.workspaces[1].deleted_at == deletion.deleted_at
    assert page.workspaces[1].version == 2
    assert await listed(service.operator, show_deleted=True, page_size=2) == [["acme", "globex"], ["initech"]]
    assert await listed(service.operator) == [["acme", "initech"]]
    for fields in ({"actor": "ada"}, {"user_id": "ada"}, {"user_id": "ada", "actor": "ada"}):
        assert await listed(service.operator, show_deleted=True, **fields) == [["acme", "initech"]]


async def test_a_member_by_hand_does_not_bring_a_deleted_workspace_back(
    service: Service, sql: asyncpg.Connection[Any]
) -> None:
    """Not for themselves, nor for who asks about them."""
    await delete_workspace(service.operator)
    await sql.execute("INSERT INTO member (workspace_id, user_id, role) VALUES ('acme', 'ada', 'admin')")
    for fields in ({"actor": "ada"}, {"user_id": "ada"}, {"user_id": "ada", "actor": "ada"}):
        assert await listed(service.operator, show_deleted=True, **fields) == [[]]


@pytest.mark.parametrize("user", ["jürgen.müßig@acme.example", "auth0|5f7c8ec7", "o'brien", "100%_x", "名" * 255])
async def test_any_user_id_finds_its_workspaces(service: Service, user: str) -> None:
    """Exactly that one: nothing in it is a pattern."""
    workspace = small_workspace("globex")
    workspace.members.add(user_id=user, role=MEMBER_ROLE_ADMIN)
    workspace.members.add(user_id="100-yx", role=MEMBER_ROLE_ADMIN)
    await service.operator.apply(workspace)
    assert await roles(service.operator, user_id=user) == {"globex": "ADMIN"}
    assert await roles(service.console, user_id=user, actor=user) == {"globex": "ADMIN"}


@pytest.mark.parametrize("user", [" ada", "a\nb", "x" * 256])
async def test_an_invalid_user_is_refused_by_its_field(service: Service, user: str) -> None:
    """As an actor is."""
    refused = await refusal(list_workspaces(service.operator, user_id=user))
    assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["user_id"])
