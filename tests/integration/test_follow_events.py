"""FollowEvents through both transports: who may follow, how a stream begins and ends, and what it costs the service."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import audit_service_pb2 as pb
from skilder.keys.v1.key_service_pb2 import ResumeKeyRequest, SuspendKeyRequest
from skilder.keys.v1.workspace_pb2 import MEMBER_ROLE_VIEWER
from tests.support.calls import part
from tests.support.command_line import CommandLine
from tests.support.grpcurl import grpcurl, required
from tests.support.service import TOKENS, Refusal, Service, refusal, serving
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from tests.support.service import Client

METHOD = "AuditService/FollowEvents"


def follow(client: Client, **fields: Any) -> Any:
    """Start to follow events; of workspace `acme` by default."""
    wanted = fields if fields.get("all_workspaces") else {"workspace_id": "acme"} | fields
    return client.audit.FollowEvents(pb.FollowEventsRequest(**wanted))


@asynccontextmanager
async def following(client: Client, **fields: Any) -> AsyncIterator[Any]:
    """Yield a stream that has begun; its first response must have no events."""
    stream = follow(client, **fields)
    try:
        first = await stream.read()
        assert first.cursor
        assert not first.events
        yield stream
    finally:
        stream.cancel()


async def numbers(stream: Any, count: int) -> list[int]:
    """Return the numbers of the next events of a stream."""
    found: list[int] = []
    async with asyncio.timeout(30):
        while len(found) < count:
            found += [each.number for each in (await stream.read()).events]
    return found


async def refused(client: Client, **fields: Any) -> Refusal:
    """Follow events, which must fail before the first response."""
    return await refusal(follow(client, **fields).read())


async def ended(stream: Any) -> Refusal:
    """Read a stream that fails to its end."""

    async def rest() -> list[pb.FollowEventsResponse]:
        return [each async for each in stream]

    async with asyncio.timeout(60):
        return await refusal(rest())


async def logged(service: Service, count: int = 1) -> list[dict[str, Any]]:
    """Return the log lines of the method, once there are so many."""
    async with asyncio.timeout(60):
        while len(lines := service.log.calls(METHOD)) < count:
            await asyncio.sleep(0.01)
    return lines


async def test_events_arrive_and_a_cursor_goes_on(service: Service) -> None:
    """Of one workspace and of all; through another connection, with what happened in the meantime."""
    auditor = service.auditor
    async with following(auditor) as one, following(auditor, all_workspaces=True) as everything:
        await service.operator.apply(small_workspace("other"))
        await service.operator.issue()
        first = await one.read()
        assert [each.number for each in first.events] == [2]
        found: list[Any] = []
        while len(found) < 2:
            last = await everything.read()
            found += last.events
        assert [(each.workspace_id, each.number) for each in found] == [("other", 1), ("acme", 2)]
    await service.operator.issue()
    await service.operator.issue()
    again = await service.client(TOKENS["auditor"])
    assert await numbers(follow(again, cursor=first.cursor), 2) == [3, 4]
    assert await numbers(follow(again, all_workspaces=True, cursor=last.cursor), 2) == [3, 4]
    assert await numbers(follow(again, after_number=1), 3) == [2, 3, 4]


@GRPCIO_IF_SHORT
async def test_who_may_follow(service: Service) -> None:
    """Admins their workspace, and all workspaces nobody on behalf of a person or with a limit."""
    async with following(service.console, actor="ada"):
        pass
    assert (await refused(service.console, actor="bob")).reason == "ACTOR_NOT_ALLOWED"
    assert (await refused(service.console)).reason == "ACTOR_REQUIRED"
    assert (await refused(service.service)).reason == "CALLER_NOT_ALLOWED"
    assert (await refused(service.of_acme, all_workspaces=True)).reason == "FOREIGN_WORKSPACE"
    assert (await refused(service.auditor, workspace_id="nowhere")).reason == "WORKSPACE_NOT_FOUND"
    for client, fields, name in (
        (service.console, {"all_workspaces": True, "actor": "ada"}, "all_workspaces"),
        (service.auditor, {"all_workspaces": True, "workspace_id": "acme"}, "all_workspaces"),
        (service.auditor, {"workspace_id": ""}, "workspace_id"),
        (service.auditor, {"after_number": -1}, "after_number"),
        (service.auditor, {"cursor": ""}, "cursor"),
        (service.auditor, {"cursor": "abc"}, "cursor"),
    ):
        assert list((await refused(client, **fields)).fields) == [name]
    async with following(service.auditor) as stream:
        await service.operator.issue()
        cursor = (await stream.read()).cursor
    others: list[dict[str, Any]] = [
        {"actor": "ada"},
        {"filter": pb.EventFilter(user_id="bob")},
        {"all_workspaces": True},
    ]
    for other in others:
        assert list((await refused(service.operator, cursor=cursor, **other)).fields) == ["cursor"]


@GRPCIO_IF_SHORT
async def test_an_admin_who_is_none_any_more_sees_no_more(service: Service) -> None:
    """Not even the event that says so."""
    workspace = small_workspace()
    async with following(service.console, actor="ada") as stream:
        part(workspace.members, "ada").role = MEMBER_ROLE_VIEWER
        await service.operator.apply(workspace)
        assert (await ended(stream)).reason == "ACTOR_NOT_ALLOWED"


@GRPCIO_IF_SHORT
async def test_a_stream_ends_with_its_time(transport: str, database_url: str, tmp_path: Path) -> None:
    """With OK, and the last cursor goes on; the call is logged and counted once, and leaves its place."""
    async with serving(database_url, tmp_path, transport=transport, max_connection_age=1, max_streams=1) as service:
        await service.operator.apply(small_workspace())
        async with asyncio.timeout(60):
            responses = [each async for each in follow(service.auditor)]
        await service.operator.issue()
        assert await numbers(follow(service.auditor, cursor=responses[-1].cursor), 1) == [2]
        (line, *_) = await logged(service)
        assert (line["code"], line["workspace"], line["caller"]) == ("OK", "acme", "auditor")
        assert await service.metric("calls_total", method=METHOD, code="OK") == 1


async def test_streams_end_at_once_when_the_service_drains(transport: str, database_url: str, tmp_path: Path) -> None:
    """With a hint to go on, although the drain could take long."""
    async with (
        AsyncExitStack() as clients,
        serving(database_url, tmp_path, transport=transport, drain_timeout=600, max_connection_age=3600) as service,
    ):
        await service.operator.apply(small_workspace())
        served, service.stack = service.stack, clients
        async with following(await service.client(TOKENS["auditor"])) as stream:
            closing = asyncio.create_task(served.aclose())
            found = await ended(stream)
            assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
            assert "with the last cursor" in found.message
        async with asyncio.timeout(60):
            await closing


@GRPCIO_IF_SHORT
async def test_more_streams_than_allowed_are_refused(transport: str, database_url: str, tmp_path: Path) -> None:
    """As BUSY, until one ends, in whatever way."""
    async with serving(database_url, tmp_path, transport=transport, max_streams=2) as service:
        await service.operator.apply(small_workspace())
        async with following(service.auditor), following(service.operator, all_workspaces=True):
            assert await service.metric("event_streams") == 2
            found = await refused(service.auditor)
            assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "BUSY")
            await service.operator.issue()
        lines = await logged(service, 3)
        assert sorted(line["code"] for line in lines) == ["CANCELLED", "CANCELLED", "UNAVAILABLE"]
        async with following(service.auditor):
            assert await service.metric("event_streams") == 1


@ONLY_GRPCIO
@pytest.mark.own_service
async def test_a_client_that_does_not_read_is_cut(
    service: Service, sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It learns why when it reads again, and what it has not read is not held for it."""
    monkeypatch.setattr("skilder_keys.rpc.pipeline._WRITE_SECONDS", 0.2)
    client = await service.client(TOKENS["auditor"], options=[("grpc.http2.bdp_probe", 0)])
    await sql.execute(
        "INSERT INTO audit_event (action, workspace_id, caller, peer, details) SELECT 'workspace.updated', 'acme',"
        " 'operator', '', jsonb_build_object('name', repeat('x', 200000)) FROM generate_series(1, 40)"
    )
    stream = follow(client, after_number=0)
    first = await stream.read()
    (line,) = await logged(service)
    assert (line["code"], line["reason"]) == ("UNAVAILABLE", "BUSY")
    rest: list[Any] = []

    async def read_on() -> None:
        rest.extend([each async for each in stream])

    found = await refusal(read_on())
    assert (found.code, found.reason) == (grpc.StatusCode.UNAVAILABLE, "BUSY")
    assert "read too slowly" in found.message
    assert len(rest) < 10
    got = [each.number for response in [first, *rest] for each in response.events]
    more = await numbers(follow(service.auditor, cursor=[first, *rest][-1].cursor), 41 - len(got))
    assert got + more == list(range(1, 42))


@ONLY_GRPCIO
async def test_grpcurl_follows(service: Service) -> None:
    """As people try it first."""
    required()
    await service.operator.issue()
    output = await asyncio.to_thread(
        grpcurl,
        service.address,
        METHOD,
        json.dumps({"workspace_id": "acme", "after_number": "0"}),
        TOKENS["auditor"],
        3,
    )
    document, _ = json.JSONDecoder().raw_decode(output)
    assert [each["number"] for each in document["events"]] == ["1", "2"]


@ONLY_GRPCIO
async def test_the_commands_show_events(service: Service, tmp_path: Path) -> None:
    """In a pipe a line for each, with tabs; as JSON the messages of the API; and with a key its last events."""
    command = CommandLine(service, tmp_path)
    issued = await service.operator.issue(actor="ada")
    for number in range(5):
        await service.operator.keys.SuspendKey(SuspendKeyRequest(key_id=issued.key.id, reason=f"Why {number}"))
        await service.operator.keys.ResumeKey(ResumeKeyRequest(key_id=issued.key.id))
    listed = await command("audit", "list", "-w", "acme", "--by", "ada", "--action", "key.issued", caller="auditor")
    heading, row = listed.stdout.splitlines()
    assert heading.split("\t") == ["number", "time", "action", "by", "key", "what"]
    assert [row.split("\t")[place] for place in (0, 2, 3, 4)] == ["2", "key.issued", "user ada", issued.key.id]
    document = await command.json("audit", "list", "-w", "acme", "--limit", "2")
    assert [each["number"] for each in document["events"]] == ["12", "11"]
    shown = (await command("keys", "show", issued.key.id)).stdout
    events = [line for line in shown.splitlines() if line.startswith("event\t")]
    assert len(events) == 5
    assert events[1].endswith("key.suspended by caller operator: Why 4")
    assert "event" not in (await command("keys", "show", issued.key.id, "--actor", "bob")).stdout
    wrong = await command("audit", "follow", "-w", "acme", "--after-number", "99")
    assert (wrong.returncode, "--after-number is 99" in wrong.stderr) == (2, True)
    assert (await command("audit", "follow")).returncode == 2
