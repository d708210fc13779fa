"""The guard for MCP servers, by the SDK's own client over streamable HTTP, with a real service."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from mcp.server import MCPServer
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, METHOD_NOT_FOUND, ToolListChangedNotification

from skilder_keys_client import AsyncClient, Connection
from skilder_keys_client.guards.mcp import McpGuard
from tests.support.mcp_http import listening, names, refused, session, text_of
from tests.support.scripted_server import scripted
from tests.support.service import TOKENS
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from skilder.keys.v1.key_service_pb2 import IssueKeyResponse
    from skilder.keys.v1.workspace_pb2 import Workspace
    from tests.support.service import Service

pytestmark = GRPCIO_IF_SHORT

HISTORY, POST = "slack_get_channel_history", "slack_post_message"
MODES = ["legacy", "2026-07-28"]
BEGIN = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "test", "version": "1"}},
}
JSON = {"accept": "application/json, text/event-stream"}


class Slack:
    """A server with tools, of which some are in the workspace of the tests, and what they have done."""

    def __init__(self) -> None:
        self.posted: list[str] = []
        self.server = MCPServer("slack", log_level="CRITICAL")
        self.server.tool(name=HISTORY)(lambda: "hello")
        self.server.tool(name=POST)(self.post)
        # A tool that another server of the workspace has, and one that none has.
        self.server.tool(name="web_search")(self.post)
        self.server.tool(name="slack_delete_channel")(self.post)
        self.server.resource("note://one", name="note")(lambda: "a note")

    def post(self, text: str = "") -> str:
        """Post a message."""
        self.posted.append(text)
        return "posted"


@asynccontextmanager
async def guarded(slack: Slack, address: str, *, patience: float | None = None, **options: Any) -> AsyncIterator[str]:
    """Serve a server that is guarded by the service at an address."""
    connection = Connection(address, token=TOKENS["service"], plaintext=True)
    async with AsyncClient(connection) as client:
        guard = McpGuard(client, mcp_server="slack", timeout=patience)
        async with listening(guard.protect(slack.server, **options)) as url:
            yield url


@pytest.fixture
async def issued(service: Service) -> IssueKeyResponse:
    """A key that reaches all tools of a workspace."""
    await service.operator.apply(small_workspace())
    return await service.operator.issue()


def bearer(token: str) -> dict[str, str]:
    """Return the header of a key."""
    return {"authorization": f"Bearer {token}"}


def without_replies() -> Workspace:
    """Return the workspace where no hat has the skill to post."""
    workspace = small_workspace()
    for hat in workspace.hats:
        kept = [each for each in hat.skill_ids if each != "slack-replies"]
        del hat.skill_ids[:]
        hat.skill_ids.extend(kept)
    return workspace


@pytest.mark.parametrize("mode", MODES)
async def test_a_key_loses_a_tool_and_its_life_in_a_session(
    service: Service, issued: IssueKeyResponse, mode: str
) -> None:
    """The next call is refused, and the list is another one."""
    slack, seen = Slack(), []

    async def note(message: Any) -> None:
        seen.append(type(message))

    async with (
        guarded(slack, service.address) as url,
        session(url, bearer(issued.token), mode=mode, message_handler=note) as client,
    ):
        assert await names(client) == [HISTORY, POST]
        assert text_of(await client.call_tool(POST, {"text": "1"})) == "posted"

        await service.operator.apply(without_replies())
        error = await refused(client.call_tool(POST, {"text": "2"}))
        assert (error.code, error.data) == (
            INVALID_PARAMS,
            {"error": "insufficient_scope", "reason": "TOOL_NOT_ALLOWED"},
        )
        assert await names(client) == [HISTORY]
        assert (ToolListChangedNotification in seen) is (mode == "legacy")
        assert text_of(await client.call_tool(HISTORY)) == "hello"

        await service.operator.revoke(key_id=issued.key.id)
        for call in (client.call_tool(HISTORY), client.list_tools()):
            await refused(call)
    assert slack.posted == ["1"]


@pytest.mark.parametrize("stateless", [False, True])
async def test_only_what_the_key_reaches_runs(service: Service, issued: IssueKeyResponse, stateless: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """A tool that another server has, one that none has, one with no possible name: all are refused alike."""
    slack = Slack()
    async with (
        guarded(slack, service.address, stateless_http=stateless) as url,
        session(url, {"x-api-key": issued.token}, mode="legacy") as client,
    ):
        messages = set()
        for name in ("web_search", "slack_delete_channel", "no_such_tool", "", "x" * 10_000, "\0"):
            error = await refused(client.call_tool(name))
            assert (error.code, error.data["reason"]) == (INVALID_PARAMS, "TOOL_NOT_ALLOWED"), name
            messages.add(error.message)
        for call in (client.list_resources(), client.read_resource("note://one"), client.list_prompts()):
            assert (await refused(call)).code == METHOD_NOT_FOUND
    assert slack.posted == []
    assert len(messages) <= 2


async def test_a_session_is_of_one_key(service: Service, issued: IssueKeyResponse) -> None:
    """With another key, which is as good, it is unknown; without a key nothing is served, and batches never are."""
    other = await service.operator.issue()
    call = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": POST, "arguments": {}}}
    slack = Slack()
    async with guarded(slack, service.address) as url, httpx.AsyncClient(trust_env=False, headers=JSON) as http:
        begun = await http.post(url, json=BEGIN, headers=bearer(issued.token))
        assert begun.status_code == 200
        own = {"mcp-session-id": begun.headers["mcp-session-id"], "mcp-protocol-version": "2025-06-18"}
        statuses = [
            (await http.request(method, url, json=call, headers=own | key)).status_code
            for method in ("POST", "DELETE")
            for key in (bearer(other.token), bearer("not-a-key"), {}, bearer(issued.token) | {"x-api-key": "a"})
        ]
        assert statuses == [404, 401, 401, 401] * 2
        batch = await http.post(url, json=[call, call], headers=own | bearer(issued.token))
        assert batch.status_code == 400
        assert slack.posted == []
        mine = await http.post(url, json=call, headers=own | bearer(issued.token))
        assert (mine.status_code, slack.posted) == (200, [""])


GOOD_KEY = {"message": {"granted": {"key": {"id": "k", "workspaceId": "acme"}}}}
OUTAGES: list[dict[str, Any]] = [
    {"status": {"code": "UNAVAILABLE", "reason": "BUSY", "retry_after_ms": 2500}, "repeat": True},
    {"status": {"code": "INTERNAL"}, "repeat": True},
    {"hang": True, "repeat": True},
]


@pytest.mark.parametrize("method", ["tools/list", "tools/call"])
@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_in_a_message(method: str, outage: dict[str, Any]) -> None:
    """It is an error that says to try again: never an empty list, and never a run."""
    slack = Slack()
    message = {"jsonrpc": "2.0", "id": 2, "method": method, "params": {"name": POST, "arguments": {}}}
    async with (
        scripted([GOOD_KEY, outage]) as script,
        guarded(slack, script.address, patience=0.3, stateless_http=True, json_response=True) as url,
        httpx.AsyncClient(trust_env=False, headers=JSON) as http,
    ):
        response = await http.post(url, json=message, headers=bearer("a"))
    error = response.json()["error"]
    assert (error["code"], error["data"]["error"]) == (INTERNAL_ERROR, "unavailable")
    assert "Try again" in error["message"]
    assert error["data"]["retry_after"] >= 1
    assert slack.posted == []


async def test_no_other_way_in(service: Service, issued: IssueKeyResponse) -> None:
    """A server that is guarded serves no other transport, such as an application that the guard did not make."""
    slack = Slack()
    async with (
        guarded(slack, service.address),
        listening(slack.server.streamable_http_app(stateless_http=True, json_response=True)) as url,
        httpx.AsyncClient(trust_env=False, headers=JSON | bearer(issued.token)) as http,
    ):
        for message in (BEGIN, {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": POST}}):
            response = await http.post(url, json=message)
            assert response.json()["error"]["data"]["error"] == "invalid_token"
    assert slack.posted == []
