"""Callers that the callers file limits to workspaces and to MCP servers, and callers that change their token."""

from __future__ import annotations

import hashlib
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1.catalog_service_pb2 import ListWorkspacesRequest
from skilder.keys.v1.common_pb2 import ToolName
from tests.support.calls import METHODS, OF_EACH_KIND, call, delete_workspace, list_workspaces
from tests.support.service import Refusal, refusal, serving, write_callers
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT, with_envoy_if_short
from tests.support.valid import is_map, valid_requests
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from google.protobuf.message import Message

    from tests.support.service import Client, Service

FOREIGN = (grpc.StatusCode.PERMISSION_DENIED, "FOREIGN_WORKSPACE")
FOREIGN_SERVER = (grpc.StatusCode.PERMISSION_DENIED, "FOREIGN_MCP_SERVER")
NARROWED = {"CatalogService/ListWorkspaces", "RuntimeService/RotateOwnKey"}
"""Methods that name no workspace: they show only those that the caller is allowed, or are about its own key."""


async def outcome(client: Client, method: str, request: Message) -> tuple[grpc.StatusCode, str] | None:
    """Return the code and the reason with which a call fails; None if it does not."""
    try:
        await call(client, method, request)
    except grpc.aio.AioRpcError as error:
        refused = Refusal.of(error)
        return refused.code, refused.reason
    return None


async def verdict(client: Client, request: pb.AuthorizeRequest) -> object:
    """Return `granted` or `denied`; the code and the reason if the call fails."""
    try:
        response: pb.AuthorizeResponse = await client.authorization.Authorize(request)
    except grpc.aio.AioRpcError as error:
        refused = Refusal.of(error)
        return refused.code, refused.reason
    return response.WhichOneof("verdict")


def digest(token: str) -> str:
    """Return a token as the callers file has it."""
    return hashlib.sha256(token.encode()).hexdigest()


@asynccontextmanager
async def limited(
    database_url: str, folder: Path, transport: str, **fields: Any
) -> AsyncIterator[tuple[Service, Client]]:
    """Serve, also a caller with some fields."""
    token = "token-of-the-limited-caller-0123456789"
    write_callers(folder / "callers.yaml", [{"name": "limited", "token_sha256": digest(token)} | fields])
    async with serving(database_url, folder, transport=transport) as service:
        yield service, await service.client(token)


def about(message: Any, ids: dict[str, str]) -> None:
    """Let a request be about a workspace and one of its keys, without an actor."""
    for field, value in message.ListFields():
        if field.name in ids:
            setattr(message, field.name, ids[field.name])
        elif field.name in ("actor", "page_token"):
            message.ClearField(field.name)
        elif is_map(field):
            continue
        elif field.message_type is not None and field.message_type.full_name.startswith("skilder."):
            for each in value if field.is_repeated else (value,):
                about(each, ids)
        if field.name in ("workspace", "key"):
            value.id = ids["workspace_id" if field.name == "workspace" else "key_id"]


@pytest.mark.parametrize("method", [each for each in METHODS if each not in NARROWED])
@with_envoy_if_short(method=OF_EACH_KIND)
async def test_every_method_refuses_a_foreign_workspace(service: Service, method: str) -> None:
    """Whether the request names the workspace, a key or a token. The same request about its own is not refused so."""
    await service.operator.apply(small_workspace("other"))
    for workspace_id in ("other", "acme"):
        for request in valid_requests()[method]:
            if getattr(request, "unproven", False):
                continue  # it names no workspace, so it is refused whatever the limit: see the next test
            issued = await service.operator.issue(workspace_id=workspace_id)
            about(request, {"workspace_id": workspace_id, "key_id": issued.key.id, "token": issued.token})
            for warm in (False, True):
                if warm:
                    await service.service.authorize(issued.token)
                found = await outcome(service.of_acme, method, request)
                assert (found == FOREIGN) == (workspace_id == "other"), (found, request)


@GRPCIO_IF_SHORT
async def test_a_request_that_leaves_its_workspace_out_is_refused(service: Service) -> None:
    """Empty never means more."""
    for method, descriptor in METHODS.items():
        if {"workspace", "workspace_id"} & set(descriptor.input_type.fields_by_name):
            assert (await refusal(call(service.of_acme, method, b""))).reason == "FOREIGN_WORKSPACE", method


@GRPCIO_IF_SHORT
async def test_lists_of_workspaces_have_only_those_that_the_caller_is_allowed(service: Service) -> None:
    """Also with an actor and a user who are in others, page by page, and with deleted ones."""
    for workspace_id in ("abc", "other", "zoo"):
        await service.operator.apply(small_workspace(workspace_id))
    for fields in ({}, {"actor": "ada"}, {"user_id": "bob"}, {"actor": "ada", "user_id": "bob"}):
        everything = await list_workspaces(service.operator, **fields)
        assert [each.id for each in everything.workspaces] == ["abc", "acme", "other", "zoo"]
        listed = await list_workspaces(service.of_acme, **fields)
        assert [each.id for each in listed.workspaces] == ["acme"]
    for workspace_id in ("acme", "other"):
        await delete_workspace(service.operator, workspace_id)
    assert not (await list_workspaces(service.of_acme)).workspaces
    assert [each.id for each in (await list_workspaces(service.of_acme, show_deleted=True)).workspaces] == ["acme"]


@GRPCIO_IF_SHORT
async def test_pages_of_a_limited_callers_workspaces(transport: str, database_url: str, tmp_path: Path) -> None:
    """Each page continues behind the one before."""
    names = [f"w-{number}" for number in range(5)]
    async with limited(database_url, tmp_path, transport, role="operator", workspaces=[*names, "gone"]) as (
        service,
        client,
    ):
        for each in (*names, "w-9", "a"):
            await service.operator.apply(small_workspace(each))
        found, token = [], ""
        while page := await client.catalog.ListWorkspaces(ListWorkspacesRequest(page_size=2, page_token=token)):
            found += [each.id for each in page.workspaces]
            token = page.next_page_token
            if not token:
                break
        assert found == names


@pytest.mark.parametrize("limit", ["workspaces", "mcp_servers"])
@GRPCIO_IF_SHORT
async def test_an_empty_limit_allows_nothing(transport: str, database_url: str, tmp_path: Path, limit: str) -> None:
    """Not everything."""
    fields: dict[str, Any] = {"role": "service", limit: []}
    async with limited(database_url, tmp_path, transport, **fields) as (service, client):
        await service.operator.apply(small_workspace())
        token = (await service.operator.issue()).token
        for _ in range(2):
            found = await refusal(client.authorize(token, tool_id="slack.post"))
            assert (found.code, found.reason) == (FOREIGN if limit == "workspaces" else FOREIGN_SERVER)


async def test_a_caller_limited_to_servers_asks_about_their_tools_only(service: Service) -> None:
    """By the tool's own server, cold and warm, one by one and in a batch; what is no tool is denied as to others."""
    token = (await service.operator.issue()).token
    client = service.of_slack
    cases: dict[str | None, object] = {
        "slack.post": "granted",
        "slack.history": "granted",
        "web.search": FOREIGN_SERVER,
        "git.commit": FOREIGN_SERVER,
        "git.push": "denied",  # disabled
        "slack.delete": "denied",
        None: FOREIGN_SERVER,
        "": (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST"),
    }
    for tool_id, expected in cases.items():
        request = pb.AuthorizeRequest(token=token)
        if tool_id is not None:
            request.tool_id = tool_id
        for _ in range(3):
            assert await verdict(client, request) == expected, tool_id
        if not isinstance(expected, str):
            queries = [pb.AuthorizeRequest(token=token, tool_id="slack.post"), request]
            batch = pb.BatchAuthorizeRequest(requests=queries)
            assert await outcome(client, "AuthorizationService/BatchAuthorize", batch) == expected
    narrow = (await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})).token
    for _ in range(2):
        assert await verdict(client, pb.AuthorizeRequest(token=narrow, tool_id="slack.post")) == "denied"
        assert await verdict(client, pb.AuthorizeRequest(token=narrow, tool_id="git.commit")) == FOREIGN_SERVER
    read = pb.ReadToolSetRequest(request=pb.AuthorizeRequest(token=token))
    assert await outcome(client, "AuthorizationService/ReadToolSet", read) == FOREIGN_SERVER


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        ({"tool_name": ToolName(mcp_server="slack", name="slack_post_message")}, "granted"),
        ({"tool_name": ToolName(mcp_server="slack", name="nothing_like_it")}, "denied"),
        ({"tool_name": ToolName(mcp_server="git", name="git_commit")}, FOREIGN_SERVER),
        ({"tool_name": ToolName(mcp_server="nowhere", name="nothing")}, FOREIGN_SERVER),
        ({"mcp_server": "slack"}, "granted"),
        ({"mcp_server": "slack", "view": pb.TOOL_SET_VIEW_FULL}, "granted"),
        ({"mcp_server": "slack", "view": pb.TOOL_SET_VIEW_NONE}, "granted"),
        ({"mcp_server": "git"}, FOREIGN_SERVER),
        ({"mcp_server": "nowhere"}, FOREIGN_SERVER),
        ({"mcp_server": "git", "view": pb.TOOL_SET_VIEW_NONE}, FOREIGN_SERVER),
        ({"view": pb.TOOL_SET_VIEW_NONE}, FOREIGN_SERVER),
        ({"view": pb.TOOL_SET_VIEW_FULL}, FOREIGN_SERVER),
    ],
    ids=str,
)
@TOGETHER_IF_SHORT
async def test_a_caller_limited_to_servers_names_one_of_them(
    service: Service, scope: dict[str, Any], expected: object
) -> None:
    """By the name of a tool, or for a part of the tool set; whatever the workspace has, cold and warm."""
    token = (await service.operator.issue()).token
    request = pb.AuthorizeRequest(token=token, **scope)
    for _ in range(2):
        assert await verdict(service.of_slack, request) == expected
        await service.service.authorization.Authorize(request)  # so that memory has it
    read = pb.ReadToolSetRequest(request=request)
    batch = pb.BatchAuthorizeRequest(requests=[pb.AuthorizeRequest(token=token, tool_id="slack.post"), request])
    if expected == FOREIGN_SERVER:
        assert await outcome(service.of_slack, "AuthorizationService/BatchAuthorize", batch) == expected
        if "tool_name" not in scope and scope.get("view") != pb.TOOL_SET_VIEW_NONE:
            assert await outcome(service.of_slack, "AuthorizationService/ReadToolSet", read) == expected


async def test_a_held_version_lifts_no_limit(service: Service) -> None:
    """A caller that names the right version of a tool set must name a tool or a server all the same."""
    token = (await service.operator.issue()).token
    version = (await service.service.authorize(token)).granted.tool_set.version
    for _ in range(2):
        request = pb.AuthorizeRequest(token=token, tool_set_version=version)
        assert await verdict(service.of_slack, request) == FOREIGN_SERVER


async def test_a_tool_that_moves_to_another_server_changes_sides(service: Service) -> None:
    """At once: the limit goes by the state of the workspace."""
    token = (await service.operator.issue()).token
    request = pb.AuthorizeRequest(token=token, tool_id="web.search")
    assert await verdict(service.of_slack, request) == FOREIGN_SERVER
    moved = small_workspace()
    next(each for each in moved.tools if each.id == "web.search").mcp_server = "slack"
    await service.operator.apply(moved)
    assert await verdict(service.of_slack, request) == "granted"
    await service.operator.apply(small_workspace())
    assert await verdict(service.of_slack, request) == FOREIGN_SERVER


@GRPCIO_IF_SHORT
async def test_both_tokens_of_a_caller_work(transport: str, database_url: str, tmp_path: Path) -> None:
    """Both are the same caller, with the same limits; after a start with one of them, the other is refused."""
    old, new = ("old-token-of-the-gateway-0123456789", "new-token-of-the-gateway-0123456789")
    more = {"name": "gateway", "role": "service", "workspaces": ["acme"], "token_sha256": [digest(old), digest(new)]}
    write_callers(tmp_path / "callers.yaml", [more])
    async with serving(database_url, tmp_path, transport=transport) as service:
        await service.operator.apply(small_workspace())
        await service.operator.apply(small_workspace("other"))
        token = (await service.operator.issue()).token
        foreign = (await service.operator.issue(workspace_id="other")).token
        for client in [await service.client(each) for each in (old, new)]:
            for _ in range(2):
                assert (await client.authorize(token)).HasField("granted")
                assert (await refusal(client.authorize(foreign))).reason == "FOREIGN_WORKSPACE"
    write_callers(tmp_path / "callers.yaml", [more | {"token_sha256": digest(new)}])
    async with serving(database_url, tmp_path, transport=transport) as service:
        assert (await (await service.client(new)).authorize(token)).HasField("granted")
        assert (await refusal((await service.client(old)).authorize(token))).reason == "UNAUTHENTICATED"
