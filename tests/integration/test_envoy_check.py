"""Check, which Envoy's filter ext_authz calls, without an Envoy that calls it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.envoy import auth_pb2
from skilder.envoy.auth_pb2_grpc import AuthorizationStub
from skilder.keys.v1 import key_pb2
from skilder.keys.v1.activity_service_pb2 import VERDICT_DENIED, VERDICT_GRANTED, ActivityFilter, ListActivityRequest
from tests.support.service import refusal
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from tests.support.service import Client, Service

MCP = {"mcp_server": "slack"}
POST = "slack_post_message"


def asked(token: str | None, *, body: bytes = b"", source: str = "", **fields: Any) -> auth_pb2.CheckRequest:
    """Return the question about a request, as Envoy asks it."""
    headers = {"x-skilder-user": "evil"} | ({"authorization": f"Bearer {token}"} if token else {})
    http: dict[str, Any] = {"method": "GET", "path": "/a?b=1", "headers": headers, "raw_body": body}
    request = auth_pb2.CheckRequest()
    extensions = fields.pop("extensions", {})
    if body:
        http |= {"method": "POST", "headers": headers | {"content-type": "application/json"}}
    http |= fields
    attributes = request.attributes
    attributes.request.http.CopyFrom(auth_pb2.AttributeContext.HttpRequest(**http))
    attributes.source.address.socket_address.address = source
    attributes.context_extensions.update(extensions)
    return request


def calls(tool: str) -> bytes:
    """Return the body that calls a tool."""
    return json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool}}).encode()


async def check(client: Client, request: auth_pb2.CheckRequest) -> auth_pb2.CheckResponse:
    """Ask about a request."""
    stub: Any = AuthorizationStub(client.channel)
    response: auth_pb2.CheckResponse = await stub.Check(request)
    return response


def headers_of(response: auth_pb2.CheckResponse) -> dict[str, str]:
    """Return the headers that a response sets."""
    return {each.header.key: each.header.value for each in response.ok_response.headers}


async def test_a_key_is_let_through(service: Service) -> None:
    """With its identity, and without the client's own."""
    issued = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob")
    response = await check(service.service, asked(issued.token))
    assert response.status.code == 0
    version = (await service.service.authorize(issued.token)).granted.tool_set.version
    assert headers_of(response) == {
        "x-skilder-key": issued.key.id,
        "x-skilder-workspace": "acme",
        "x-skilder-user": "bob",
        "x-skilder-tool-set-version": version,
    }
    assert set(response.ok_response.headers_to_remove) == {"authorization", "x-api-key"}
    shared = await service.operator.issue()
    response = await check(service.service, asked(shared.token))
    assert "x-skilder-user" in response.ok_response.headers_to_remove
    assert await service.metric("calls_total", method="Authorization/Check", code="OK") == 2


async def test_a_bad_key_is_refused(service: Service) -> None:
    """With 401, a challenge and JSON, from the first call after it was revoked."""
    issued = await service.operator.issue()
    assert (await check(service.service, asked(issued.token))).status.code == 0
    await service.operator.revoke(key_id=issued.key.id)
    response = await check(service.service, asked(issued.token))
    assert response.status.code == grpc.StatusCode.UNAUTHENTICATED.value[0]
    denied = response.denied_response
    assert denied.status.code == 401
    assert {each.header.key: each.header.value for each in denied.headers} == {
        "content-type": "application/json",
        "cache-control": "no-store",
        "www-authenticate": 'Bearer realm="skilder", error="invalid_token"',
    }
    assert json.loads(denied.body) == {
        "error": "invalid_token",
        "reason": "revoked",
        "message": "The key was revoked.",
    }
    nobody = await check(service.service, asked(None))
    assert (nobody.denied_response.status.code, json.loads(nobody.denied_response.body)["reason"]) == (
        401,
        "key_missing",
    )


async def test_a_tool_is_checked(service: Service) -> None:
    """The one in the body, on the server of the route."""
    limited = await service.operator.issue(hat_limit={"hat_ids": ["customer-care"]})
    for token, tool, status in (
        (limited.token, "slack_get_channel_history", None),
        (limited.token, POST, 403),
        (limited.token, "no_such_tool", 403),
        (limited.token, " ", 400),
        (limited.token, "a" * 300, 400),
        ("WSK_not-a-token", POST, 401),
    ):
        response = await check(service.service, asked(token, body=calls(tool), extensions=MCP))
        assert (response.denied_response.status.code or None) == status, tool
    for server, status in (("slack", None), ("git", 403), ("nothing-like-it", 403)):
        response = await check(service.service, asked(limited.token, extensions={"mcp_server": server}))
        assert (response.denied_response.status.code or None) == status, server
    pad = b" " * 100_000
    response = await check(service.service, asked(limited.token, body=calls(POST) + pad, extensions=MCP))
    assert json.loads(response.denied_response.body)["reason"] == "tool_not_allowed"
    partial = {"authorization": f"Bearer {limited.token}", "x-envoy-auth-partial-body": "true"}
    response = await check(service.service, asked(None, body=calls(POST), extensions=MCP, headers=partial))
    assert response.denied_response.status.code == 413


@GRPCIO_IF_SHORT
async def test_the_address_of_the_client_counts(service: Service) -> None:
    """An address that is none is no address."""
    issued = await service.operator.issue(network_limit={"networks": ["198.51.100.0/24"]})
    for source, status in (("198.51.100.7", None), ("203.0.113.9", 403), ("", 403), ("/a.sock", 403)):
        response = await check(service.service, asked(issued.token, source=source))
        assert (response.denied_response.status.code or None) == status, source


async def test_the_key_goes_out_of_the_query(service: Service) -> None:
    """The path that goes on is set whole."""
    issued = await service.operator.issue()
    request = asked(None, path=f"/a?b=1&api_key={issued.token}&c=%20", extensions={"key_parameter": "api_key"})
    assert headers_of(await check(service.service, request))[":path"] == "/a?b=1&c=%20"


async def test_raw_headers_are_read_too(service: Service) -> None:
    """Each value of a header by itself."""
    issued = await service.operator.issue()
    request = asked(None, headers={})
    bearer = f"Bearer {issued.token}".encode()
    request.attributes.request.http.header_map.headers.add(key="Authorization", raw_value=bearer)
    assert (await check(service.service, request)).status.code == 0
    request.attributes.request.http.header_map.headers.add(key="Authorization", raw_value=bearer)
    response = await check(service.service, request)
    assert json.loads(response.denied_response.body)["reason"] == "key_ambiguous"


@GRPCIO_IF_SHORT
async def test_only_a_caller_may_ask(service: Service) -> None:
    """And a caller with limits about these only; what fails is never a denial."""
    issued = await service.operator.issue()
    stranger = await service.client("no-such-token-0123456789abcdef-0123456789")
    assert (await refusal(check(stranger, asked(issued.token)))).code is grpc.StatusCode.UNAUTHENTICATED
    assert (await refusal(check(service.auditor, asked(issued.token)))).code is grpc.StatusCode.PERMISSION_DENIED
    assert (await refusal(check(service.of_slack, asked(issued.token)))).reason == "FOREIGN_MCP_SERVER"
    assert (await check(service.of_slack, asked(issued.token, extensions=MCP))).status.code == 0
    typo = await refusal(check(service.service, asked(issued.token, extensions={"mcpserver": "slack"})))
    assert (typo.code, list(typo.fields)) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        ["attributes.context_extensions"],
    )
    empty = await refusal(check(service.service, asked(issued.token, extensions={"mcp_server": ""})))
    assert empty.code is grpc.StatusCode.INVALID_ARGUMENT
    assert (await refusal(check(service.service, auth_pb2.CheckRequest()))).code is grpc.StatusCode.INVALID_ARGUMENT
    long = await refusal(check(service.service, asked(issued.token, body=b"a" * 2**20)))
    assert long.reason == "MESSAGE_TOO_LONG"


@GRPCIO_IF_SHORT
async def test_what_envoy_adds_to_its_contract_is_ignored(service: Service) -> None:
    """Unlike in our own."""
    issued = await service.operator.issue()
    body = asked(issued.token).SerializeToString() + b"\xfa\x3f\x01a"
    call: Any = service.service.channel.unary_unary("/envoy.service.auth.v3.Authorization/Check")
    assert auth_pb2.CheckResponse.FromString(await call(body)).status.code == 0
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(b"\xff")
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_check_is_counted_as_use_of_the_key(empty_service: Service) -> None:
    """With its tool and the gateway's name, as Authorize is."""
    await empty_service.operator.apply(small_workspace())
    issued = await empty_service.operator.issue()
    for tool in (POST, "no_such_tool"):
        await check(empty_service.service, asked(issued.token, body=calls(tool), extensions=MCP))
    found: set[tuple[str, str, int]] = set()
    async with asyncio.timeout(60):
        while len(found) < 2:
            request = ListActivityRequest(workspace_id="acme", filter=ActivityFilter(key_id=issued.key.id))
            page = await empty_service.operator.activity.ListActivity(request)
            found = {(each.tool_id, each.caller, each.verdict) for each in page.activities}
            await asyncio.sleep(0.1)
    assert {caller for _, caller, _ in found} == {"service"}
    assert ("slack.post", VERDICT_GRANTED) in {(tool, verdict) for tool, _, verdict in found}
    assert VERDICT_DENIED in {verdict for _, _, verdict in found}
