"""What a call has beside its message: content type, path, deadline and headers; cancelled calls and closed connections.

The grpcio transport is tested as well as the Envoy transport, where clients should see the same.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import asyncpg
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_service_pb2
from tests.support.certificates import Authority
from tests.support.fleet import until
from tests.support.frames import (
    AUTHORIZE,
    GET_KEY,
    KNOWN,
    WHOLE,
    Code,
    Served,
    ask,
    reason_of,
    request,
    start_call,
)
from tests.support.http2 import PATIENCE, Connection, connected, framed
from tests.support.service import serving, write_callers
from tests.support.transport import with_envoy_if_short
from tests.support.waiting import until_running
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.http2 import Stream


@pytest.mark.parametrize(
    "content_type",
    ["application/grpc", "application/grpc+proto", "application/grpc;charset=utf-8", "application/grpc+x"],
)
async def test_every_grpc_content_type_is_accepted(connection: Connection, content_type: str) -> None:
    """Whatever follows `application/grpc`."""
    response = await ask(connection, WHOLE, content_type=content_type)
    assert reason_of(response) == pb.DENIAL_REASON_MALFORMED


@pytest.mark.parametrize("content_type", [None, "application/json", "application/grpcx", "application/grpc-web"])
async def test_another_content_type_is_refused_with_an_http_status(
    served: Served, connection: Connection, content_type: str | None
) -> None:
    """With 415 and without a gRPC status. The grpcio transport accepts it."""
    response = await ask(connection, WHOLE, content_type=content_type)
    if served.transport == "envoy":
        assert (response.headers[":status"], response.code) == ("415", None)
    else:
        assert reason_of(response) == pb.DENIAL_REASON_MALFORMED


async def test_a_call_is_a_post(served: Served, connection: Connection) -> None:
    """Any other HTTP method may get any response, but it does not make the call."""
    for frames in ([], [WHOLE]):
        response = await ask(connection, *frames, method="GET")
        assert response.code is None
        if served.transport == "envoy":
            assert response.headers[":status"] == "415"
        else:
            assert response.reset


@pytest.mark.parametrize("ends", [True, False])
@pytest.mark.parametrize(
    "path", ["/skilder.keys.v1.AuthorizationService/Nope", f"{AUTHORIZE}/", "/skilder.keys.v1.NoService/Nope", "/x"]
)
async def test_an_unknown_method_is_refused_with_headers_alone(
    connection: Connection, path: str, *, ends: bool
) -> None:
    """As UNIMPLEMENTED, whether or not the request has ended."""
    stream = connection.call(path, KNOWN)
    await stream.send(WHOLE, end=ends)
    response = await stream.response()
    assert response.code is Code.UNIMPLEMENTED
    assert (response.trailers, response.body) == (None, b"")
    stream.reset()


@pytest.mark.parametrize("path", [AUTHORIZE, GET_KEY])
async def test_the_server_enforces_the_deadline_while_the_request_is_missing(connection: Connection, path: str) -> None:
    """A client that enforces no deadline itself gets the status when the time is over."""
    stream = await start_call(connection, WHOLE[:7], path=path, grpc_timeout="50m")
    assert (await stream.response()).code is Code.DEADLINE_EXCEEDED


@asynccontextmanager
async def nobody_reads_keys(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """Lock the table of keys, so that every read of it waits; yield the connection that holds the lock."""
    sql = await asyncpg.connect(database_url)
    try:
        async with sql.transaction():
            await sql.execute("LOCK TABLE key IN ACCESS EXCLUSIVE MODE")
            yield sql
    finally:
        await sql.close()


async def test_the_server_enforces_the_deadline_while_the_response_is_missing(
    served: Served, connection: Connection
) -> None:
    """It ends the call and its own query. A load that Authorize shares with other callers goes on."""
    service = served.service
    fresh = await service.operator.issue()
    by_id = framed(key_service_pb2.GetKeyRequest(key_id=fresh.key.id).SerializeToString())
    async with nobody_reads_keys(service.database_url) as sql:
        for path, frame in ((GET_KEY, by_id), (AUTHORIZE, request(fresh.token))):
            method = path.removeprefix("/skilder.keys.v1.")
            calls = len(service.log.calls(method))
            response = await ask(connection, frame, path=path, fields={"grpc-timeout": "50m"})
            assert response.code is Code.DEADLINE_EXCEEDED
            async with asyncio.timeout(PATIENCE):
                while len(service.log.calls(method)) == calls:
                    await asyncio.sleep(0)
            assert service.log.calls(method)[-1]["code"] == "CANCELLED"
            if path == GET_KEY:
                await until_running(sql, 0)
    assert (await served.service.operator.authorize(fresh.token)).HasField("granted")


@pytest.mark.parametrize("value", ["50", "m", "soon", "-5m", "5x", ""])
async def test_an_invalid_deadline_does_no_harm(served: Served, connection: Connection, value: str) -> None:
    """The Envoy transport then uses the service's own limit; grpcio refuses the call."""
    response = await ask(connection, WHOLE, fields={"grpc-timeout": value})
    if served.transport == "envoy":
        assert reason_of(response) == pb.DENIAL_REASON_MALFORMED
    else:
        assert response.code is Code.INTERNAL


async def test_a_status_carries_its_details(connection: Connection) -> None:
    """In valid base64, with a readable message."""
    response = await ask(connection, WHOLE, fields={"authorization": "Bearer unknown"})
    assert (response.code, response.reason) == (Code.UNAUTHENTICATED, "UNAUTHENTICATED")
    response = await ask(connection, request("x", tool_id="\n" * 2000))
    assert (response.code, response.reason) == (Code.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert response.details.startswith("tool_id ")


@pytest.mark.parametrize("path", [AUTHORIZE, GET_KEY])
async def test_headers_cannot_fake_a_clients_identity(
    transport: str, database_url: str, tmp_path: Path, path: str
) -> None:
    """A certificate in a header makes nobody a caller, and the log has the real address."""
    san = "spiffe://acme.example/gateway"
    certificate = Authority(tmp_path, "anybody").issue("gateway", f"URI:{san}").certificate
    forged = {
        "x-forwarded-client-cert": f'Hash=00;Cert="{quote(certificate.read_text("ascii"), safe="")}";URI={san}',
        "x-forwarded-peer": "192.0.2.1:1",
        "x-forwarded-for": "192.0.2.1",
        "x-real-ip": "192.0.2.1",
        "x-envoy-external-address": "192.0.2.1",
        "x-envoy-original-path": AUTHORIZE,
        "x-envoy-upstream-rq-timeout-ms": "1",
        "forwarded": "for=192.0.2.1",
    }
    write_callers(tmp_path / "callers.yaml", [{"name": "gateway", "role": "operator", "san": san}])
    decisions = tmp_path / "decisions"
    async with (
        serving(database_url, tmp_path, transport=transport, decision_log_file=decisions) as service,
        connected(service.address) as connection,
    ):
        stream = connection.call(path, forged)
        await stream.send(WHOLE, end=True)
        assert (await stream.response()).code is Code.UNAUTHENTICATED
        plain, other = [await ask(connection, WHOLE, path=path, fields=fields) for fields in ({}, forged)]
        assert (plain.code, plain.body, plain.details) == (other.code, other.body, other.details)
        failed = service.log.calls(path.removeprefix("/skilder.keys.v1."))
        if path == AUTHORIZE:
            await until(lambda: decisions.exists() and decisions.read_bytes().count(b"\n") == 2)
            calls = [*failed, *map(json.loads, decisions.read_text("utf-8").splitlines())]
        else:
            calls = failed
        assert [call.get("caller") for call in calls] == [None, "operator", "operator"]
        assert {call["peer"] for call in calls} == {f"ipv4:{connection.local_address}"}


@pytest.mark.parametrize("waits_for", ["its request", "the end of it", "Postgres"])
@with_envoy_if_short(waits_for=["Postgres"])
async def test_a_cancelled_call_frees_its_slot(
    transport: str, database_url: str, tmp_path: Path, waits_for: str
) -> None:
    """As many calls as allowed can be cancelled again and again, whatever they wait for, and others are served."""
    places = 3
    async with (
        serving(
            database_url, tmp_path, transport=transport, max_calls=places, lock_timeout=60, statement_timeout=60
        ) as service,
        connected(service.address) as connection,
        connected(service.address) as other,
    ):
        await service.operator.apply(small_workspace())
        keys = [await service.operator.issue() for _ in range(places)]
        async with nobody_reads_keys(database_url), asyncio.timeout(PATIENCE):
            for _ in range(places + 2):
                streams: list[Stream] = []
                while (await ask(other, WHOLE)).code is Code.OK:
                    stream = connection.call(AUTHORIZE, KNOWN)
                    frame = request(keys[len(streams) % places].token)
                    frames = {"its request": [], "the end of it": [frame[:7]], "Postgres": [frame, b""]}
                    await stream.send(*frames[waits_for], end=waits_for == "Postgres")
                    streams.append(stream)
                for stream in streams:
                    stream.reset()
                while (await ask(other, WHOLE)).code is not Code.OK:
                    pass
        assert reason_of(await ask(connection, WHOLE)) == pb.DENIAL_REASON_MALFORMED
        refused = await service.metric("calls_refused_total")
        method = AUTHORIZE.removeprefix("/skilder.keys.v1.")
        assert await service.metric("calls_total", method=method, code="RESOURCE_EXHAUSTED") == refused >= places + 2


async def test_an_old_connection_ends_after_its_calls(transport: str, database_url: str, tmp_path: Path) -> None:
    """Its client gets GOAWAY; running calls get their responses, and then the connection closes."""
    async with (
        serving(database_url, tmp_path, transport=transport, max_connection_age=1) as service,
        connected(service.address) as connection,
    ):
        calls = [await start_call(connection, WHOLE[:7], path=path) for path in (AUTHORIZE, GET_KEY)]
        async with asyncio.timeout(PATIENCE):
            await connection.last_goaway.wait()
        assert not connection.ended.is_set()
        for call in calls:
            await call.send(WHOLE[7:], end=True)
        assert [(await call.response()).code for call in calls] == [Code.OK, Code.INVALID_ARGUMENT]
        async with asyncio.timeout(PATIENCE):
            await connection.ended.wait()
