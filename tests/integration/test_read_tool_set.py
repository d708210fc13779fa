"""ReadToolSet: decided as Authorize decides, and sent in parts of one state, however large it is."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any
from unittest.mock import ANY

import grpc
import pytest
from google.protobuf.json_format import ParseDict

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder.keys.v1.workspace_pb2 import HAT_AUDIENCE_WORKSPACE, Tool, Workspace
from skilder_keys.app.authorization.encoding import EncodedToolSet
from skilder_keys.app.authorization.query import AuthorizeQuery
from skilder_keys.domain.token import KeyType, Token
from tests.support.calls import get_key, part
from tests.support.command_line import CommandLine
from tests.support.fleet import process
from tests.support.ids import new_key_id
from tests.support.large_tool_set import PARTS, workspace_with_large_tool_set
from tests.support.lengths import by_form
from tests.support.service import TOKENS, Refusal, Service, refusal, serving
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.service import Client

METHOD = "AuthorizationService/ReadToolSet"
DEFAULT_LIMIT = 4 * 2**20
"""The most bytes that a client of gRPC accepts by default."""


def reading(client: Client, token: str, **options: Any) -> Any:
    """Start to read what a token reaches."""
    return client.authorization.ReadToolSet(pb.ReadToolSetRequest(request=pb.AuthorizeRequest(token=token)), **options)


async def responses(client: Client, request: pb.ReadToolSetRequest | str) -> list[pb.ReadToolSetResponse]:
    """Return all responses to a request, or to one about a token."""
    asked = pb.ReadToolSetRequest(request=pb.AuthorizeRequest(token=request)) if isinstance(request, str) else request
    return [each async for each in client.authorization.ReadToolSet(asked)]


async def narrow(service: Service) -> Client:
    """Return a client whose window for a stream stays small, so that what it does not read is not sent."""
    return await service.client(TOKENS["service"], options=[("grpc.http2.bdp_probe", 0)])


async def refused(client: Client, request: pb.ReadToolSetRequest | str) -> Refusal:
    """Make a call that must fail before its first response."""
    return await refusal(responses(client, request))


async def large(service: Service) -> str:
    """Apply a workspace whose tool set has several parts, and return the token of a key that reaches all of it."""
    await service.operator.apply(workspace_with_large_tool_set())
    return (await service.operator.issue(workspace_id="large")).token


@asynccontextmanager
async def serving_large(
    transport: str, database_url: str, folder: Path, **settings: Any
) -> AsyncIterator[tuple[Service, str]]:
    """Serve the workspace of `large` with small buffers, so that a client that does not read stops the service."""
    async with process(database_url) as made:
        await made.apply(workspace_with_large_tool_set())
        _, token = await made.issue(workspace_id="large")
    async with serving(database_url, folder, transport=transport, max_message_bytes=2**16, **settings) as service:
        yield service, token


async def logged(service: Service) -> list[dict[str, Any]]:
    """Return the log lines of the method, once there is one."""
    async with asyncio.timeout(60):
        while not (lines := service.log.calls(METHOD)):
            await asyncio.sleep(0.01)
    return lines


async def test_a_small_tool_set_is_one_part(service: Service) -> None:
    """The same as that of Authorize, for keys of every kind, cold and warm."""
    orders: list[dict[str, Any]] = [
        {},
        {"hat_limit": {"hat_ids": ["everyone"]}},
        {"type": key_pb2.KEY_TYPE_USER, "user_id": "bob"},
        {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"},
    ]
    for order in orders:
        token = (await service.operator.issue(**order)).token
        for _ in range(2):
            found = await responses(service.service, token)
            granted = (await service.service.authorize(token)).granted
            assert found == [pb.ReadToolSetResponse(tool_set=granted.tool_set)]


async def test_a_large_tool_set_is_named_and_read_in_parts(service: Service) -> None:
    """No response is too long for a client with gRPC's own limit, and the parts together are the workspace."""
    token = await large(service)
    granted = (await service.service.authorize(token)).granted
    assert granted.WhichOneof("reach") == "tool_set_version"
    batch = await service.service.authorization.BatchAuthorize(
        pb.BatchAuthorizeRequest(requests=[pb.AuthorizeRequest(token=token)] * 2)
    )
    assert [each.granted for each in batch.responses] == [granted] * 2
    assert not batch.tool_sets

    parts = await responses(service.service, token)
    assert len(parts) == PARTS
    assert sum(each.ByteSize() for each in parts) > DEFAULT_LIMIT
    assert all(0 < each.ByteSize() <= 2**20 + 100 for each in parts)
    assert {each.tool_set.version for each in parts} == {granted.tool_set_version}
    whole = await service.service.read_tool_set(token)
    workspace = workspace_with_large_tool_set()
    assert [(each.id, list(each.skill_ids)) for each in whole.hats] == [
        (each.id, list(each.skill_ids)) for each in workspace.hats
    ]
    assert [(each.id, list(each.tool_ids)) for each in whole.skills] == [
        (each.id, list(each.tool_ids)) for each in workspace.skills
    ]
    assert [(each.id, each.name, each.mcp_server) for each in whole.tools] == [
        (each.id, each.name, each.mcp_server) for each in workspace.tools
    ]
    one = workspace.tools[7].id
    tool = (await service.service.authorize(token, tool_id=one)).granted.tool
    assert (tool.tool.id, tool.tool_set_version) == (one, granted.tool_set_version)


@GRPCIO_IF_SHORT
async def test_a_skill_with_long_ids_fits_into_a_part(service: Service) -> None:
    """It cannot be cut, so the ids of its tools have a bound of their own."""
    workspace = Workspace(id="wide", name="Wide")
    ids = sorted(f"{number:\N{ROBOT FACE}>255}" for number in range(3_200))
    workspace.tools.extend(Tool(id=each, name=each[-4:], mcp_server="s") for each in ids)
    skill = workspace.skills.add(id="wide", name="Wide", tool_ids=ids)
    workspace.hats.add(id="hat", name="Hat", audience=HAT_AUDIENCE_WORKSPACE, skill_ids=["wide"])
    found = await refusal(service.operator.apply(workspace))
    assert found.fields == {"workspace.skills[0].tool_ids": ANY}
    del skill.tool_ids[3_100:]
    await service.operator.apply(workspace)
    token = (await service.operator.issue(workspace_id="wide")).token
    parts = await responses(service.service, token)
    assert max(each.ByteSize() for each in parts) > 3_000_000
    whole = await service.service.read_tool_set(token)
    assert [list(each.tool_ids) for each in whole.skills] == [ids[:3_100]]
    assert [each.id for each in whole.tools] == ids[:3_100]


@GRPCIO_IF_SHORT
async def test_the_command_prints_a_large_tool_set(service: Service, tmp_path: Path) -> None:
    """All of it, as text and as JSON."""
    token = await large(service)
    command = CommandLine(service, tmp_path)
    whole = await service.service.read_tool_set(token)
    document = await command.json("authorize", stdin=token)
    assert ParseDict(document["granted"]["tool_set"], pb.ToolSet()) == whole
    printed = (await command("authorize", stdin=token)).stdout
    assert printed.startswith("granted\n")
    assert f"{len(whole.tools)}, version {whole.version}" in printed
    assert all(each.id in printed for each in whole.tools)


async def test_a_denial_is_the_only_response(service: Service) -> None:
    """The same as that of Authorize; it is counted and logged as a denial."""
    good, revoked = await service.operator.issue(), await service.operator.issue()
    await service.operator.revoke(key_id=revoked.key.id)
    for number, (token, reason) in enumerate(
        (
            ("no token", "MALFORMED"),
            (Token.mint(KeyType.WORKSPACE, new_key_id()).reveal(), "UNKNOWN"),
            (revoked.token, "REVOKED"),
            (revoked.token, "REVOKED"),
        ),
        1,
    ):
        found = await responses(service.service, token)
        assert found == [pb.ReadToolSetResponse(denied=(await service.service.authorize(token)).denied)]
        assert pb.DenialReason.Name(found[0].denied.reason) == f"DENIAL_REASON_{reason}"
        assert service.log.calls(METHOD)[-1]["denied"] == reason
        assert await service.metric("calls_total", method=METHOD, code="OK") == number
    assert await service.metric("denials_total", reason="REVOKED") == 4
    await service.operator.revoke(key_id=good.key.id)
    assert [each.WhichOneof("part") for each in await responses(service.service, good.token)] == ["denied"]


@GRPCIO_IF_SHORT
async def test_a_request_about_one_tool_is_refused(service: Service) -> None:
    """Or about none, by an empty id; and a request without the request for Authorize."""
    issued = await service.operator.issue()
    for tool_id in ("web.search", ""):
        request = pb.ReadToolSetRequest(request=pb.AuthorizeRequest(token=issued.token, tool_id=tool_id))
        found = await refused(service.service, request)
        assert (found.code, found.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert list(found.fields) == ["request.tool_id"]
    request = pb.ReadToolSetRequest(request=pb.AuthorizeRequest(token=issued.token, tool_set_version="\N{KEY}"))
    assert list((await refused(service.service, request)).fields) == ["request.tool_set_version"]
    found = await refused(service.service, pb.ReadToolSetRequest())
    assert (found.reason, list(found.fields)) == ("INVALID_REQUEST", ["request"])
    assert await service.metric("calls_total", method=METHOD, code="INVALID_ARGUMENT") == 4


@GRPCIO_IF_SHORT
async def test_a_version_is_ignored(service: Service) -> None:
    """Whoever reads wants all of it."""
    token = (await service.operator.issue()).token
    whole = await responses(service.service, token)
    for version in (whole[0].tool_set.version, "x" * 32):
        request = pb.ReadToolSetRequest(request=pb.AuthorizeRequest(token=token, tool_set_version=version))
        assert await responses(service.service, request) == whole


@GRPCIO_IF_SHORT
async def test_only_callers_with_the_ability_may_read(service: Service) -> None:
    """And a runtime instance only what keys of its own workspace reach."""
    await service.operator.apply(small_workspace("globex"))
    own, foreign = await service.operator.issue(), await service.operator.issue(workspace_id="globex")
    runtime = await service.operator.issue(type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="runtime-7")
    instance = await service.client(runtime.token)
    assert (await refused(service.console, own.token)).reason == "CALLER_NOT_ALLOWED"
    assert (await refused(await service.client(None), own.token)).reason == "UNAUTHENTICATED"
    for _ in range(2):
        assert (await responses(instance, own.token))[0].HasField("tool_set")
        found = await refused(instance, foreign.token)
        assert (found.code, found.reason) == (grpc.StatusCode.PERMISSION_DENIED, "FOREIGN_WORKSPACE")
        await service.service.authorize(foreign.token)


async def test_a_call_is_logged_once_and_recorded_as_a_use(service: Service) -> None:
    """At its end, without the token."""
    issued = await service.operator.issue()
    await service.service.read_tool_set(issued.token, compression=grpc.Compression.Gzip)
    assert (await get_key(service.operator, issued.key.id)).HasField("last_used_at")
    (line,) = await logged(service)
    assert (line["code"], line["key"], line["caller"]) == ("OK", issued.key.id, "service")
    assert line["peer"].startswith("ipv4:127.0.0.1:")
    assert issued.token not in service.log.text()


@GRPCIO_IF_SHORT
async def test_all_parts_are_of_one_state(service: Service) -> None:
    """A change between Authorize and the read shows in the read; a change during the read shows in the next one."""
    token = await large(service)
    before = (await service.service.authorize(token)).granted.tool_set_version
    workspace = workspace_with_large_tool_set()
    for tool in workspace.tools:
        tool.mcp_server = f"2{tool.mcp_server[1:]}"
    await service.operator.apply(workspace)
    call = reading(await narrow(service), token)
    found = [await call.read()]
    second = found[0].tool_set.version
    assert second != before
    part(workspace.hats, "hat").name = "Third"
    await service.operator.apply(workspace)
    found += [each async for each in call]
    assert len(found) == PARTS
    assert {each.tool_set.version for each in found} == {second}
    assert {tool.mcp_server[0] for each in found for tool in each.tool_set.tools} == {"2"}
    assert [hat.name for each in found for hat in each.tool_set.hats] == ["Hat"]
    after = await service.service.read_tool_set(token)
    assert [hat.name for hat in after.hats] == ["Third"]
    assert after.version != second


@GRPCIO_IF_SHORT
async def test_a_client_may_cancel_in_the_middle(transport: str, database_url: str, tmp_path: Path) -> None:
    """The call ends and its place is free again."""
    async with serving_large(transport, database_url, tmp_path, max_calls=1) as (service, token):
        for number in range(1, 4):
            call = reading(await narrow(service), token)
            assert (await call.read()).HasField("tool_set")
            call.cancel()
            async with asyncio.timeout(60):
                while len(service.log.calls(METHOD)) < number:
                    await asyncio.sleep(0.01)
        assert {line["code"] for line in service.log.calls(METHOD)} == {"CANCELLED"}
        assert len(await responses(service.service, token)) == PARTS


@pytest.mark.parametrize("transport", by_form(["envoy"], ["grpcio", "envoy"]), indirect=True)
async def test_a_client_that_does_not_read_is_cut_off(transport: str, database_url: str, tmp_path: Path) -> None:
    """By the service's own time limit; and by the client's, if it set one."""
    async with serving_large(transport, database_url, tmp_path, call_timeout=5) as (service, token):
        call = reading(await narrow(service), token)
        assert (await call.read()).HasField("tool_set")
        (line,) = await logged(service)
        assert line["code"] == "DEADLINE_EXCEEDED"
        found = await refusal(_rest(call))
        assert (found.code, found.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")
        call = reading(await narrow(service), token, timeout=2)
        assert (await call.read()).HasField("tool_set")
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert (await service.service.authorize(token)).granted.HasField("tool_set_version")


@ONLY_GRPCIO
@pytest.mark.own_service
async def test_a_slow_client_takes_little_memory(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are made as the client reads, each one when there is room for it."""
    made = 0
    parts = EncodedToolSet.parts

    def counted(encoded: EncodedToolSet) -> Iterator[bytes]:
        nonlocal made
        for each in parts(encoded):
            made += 1
            yield each

    monkeypatch.setattr(EncodedToolSet, "parts", counted)
    token = await large(service)
    call = reading(await narrow(service), token)
    await call.initial_metadata()
    for _ in range(20):  # other calls go on, and give the stream every opportunity
        await service.service.authorize(token)
    assert made <= PARTS // 2
    assert len([each async for each in call]) == PARTS
    assert made == PARTS


@GRPCIO_IF_SHORT
async def test_a_stream_ends_well_while_the_service_drains(transport: str, database_url: str, tmp_path: Path) -> None:
    """A running call may take as long as the drain takes."""
    async with (
        AsyncExitStack() as clients,
        serving_large(transport, database_url, tmp_path, drain_timeout=30) as (service, token),
    ):
        served, service.stack = service.stack, clients
        call = reading(await narrow(service), token)
        found = [await call.read()]
        closing = asyncio.create_task(served.aclose())
        found += [each async for each in call]
        assert len(found) == PARTS
        await closing


async def test_reading_from_memory_needs_no_database(database_url: str) -> None:
    """Of a warm key; and what is read is what Authorize grants."""
    async with process(database_url) as one:
        await one.apply()
        await one.follow()
        _, token = await one.issue()
        whole = (await one.ask(token)).granted.tool_set
        lent, checks = one.database.lent, one.hasher.checks
        decision, parts = await one.authorizer.read(AuthorizeQuery(token))
        assert decision.denied is None
        assert [pb.ReadToolSetResponse.FromString(each) for each in parts] == [pb.ReadToolSetResponse(tool_set=whole)]
        assert (one.database.lent, one.hasher.checks) == (lent, checks)


async def _rest(call: Any) -> list[pb.ReadToolSetResponse]:
    return [each async for each in call]
