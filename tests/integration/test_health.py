"""The standard health service, which every gRPC tool expects. It needs no token."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.support.service import TOKENS, Service, serving
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    from pathlib import Path

SERVICES = (
    "skilder.keys.v1.ActivityService",
    "skilder.keys.v1.AuthorizationService",
    "skilder.keys.v1.CatalogService",
    "skilder.keys.v1.KeyService",
    "skilder.keys.v1.RuntimeService",
)


@pytest.mark.parametrize("name", ["", *SERVICES])
async def test_health_covers_the_server_and_each_service(empty_service: Service, name: str) -> None:
    """As grpc_health_probe calls it, with no token."""
    anybody = await empty_service.client(None)
    stub: Any = health_pb2_grpc.HealthStub(anybody.channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=name))
    assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_of_an_unknown_service_is_not_found(empty_service: Service) -> None:
    """As the standard says."""
    stub: Any = health_pb2_grpc.HealthStub(empty_service.operator.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def test_an_open_watch_gets_not_serving_and_does_not_delay_the_stop(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """The server stops long before its drain time is over."""
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(30):
        async with serving(database_url, tmp_path, transport=transport, drain_timeout=600) as service:
            # This channel outlives the server: the channels of `service` are closed before it stops.
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(service.address))
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
        assert await watch.code() is grpc.StatusCode.UNAVAILABLE


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """Return a frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def header(name: str, value: str) -> bytes:
    """Return a header field as a literal without indexing (RFC 7541, 6.2.2)."""
    return b"\0" + b"".join(bytes([len(each)]) + each.encode() for each in (name, value))


async def test_a_watch_that_is_not_read_blocks_nobody(transport: str, database_url: str, tmp_path: Path) -> None:
    """A client that reads not one byte of the response delays neither the status nor the stop of the server."""
    headers = {
        ":method": "POST",
        ":scheme": "http",
        ":path": "/grpc.health.v1.Health/Watch",
        ":authority": "x",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    opening = (
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
        + frame(4, 0, 0, struct.pack(">HI", 4, 0))  # SETTINGS: a stream's window starts at zero bytes
        + frame(1, 4, 1, b"".join(header(*each) for each in headers.items()))  # HEADERS
        + frame(0, 1, 1, bytes(5))  # DATA: an empty message, the last
    )
    async with contextlib.AsyncExitStack() as stack, asyncio.timeout(30):
        async with serving(database_url, tmp_path, transport=transport, drain_timeout=1) as service:
            host, _, port = service.address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            stack.callback(writer.close)
            writer.write(opening)
            # Response headers do not count against the window: once they have come, the watch is open.
            kind = None
            while kind != 1:
                head = await reader.readexactly(9)
                kind = head[3]
                await reader.readexactly(int.from_bytes(head[:3], "big"))
            channel = await stack.enter_async_context(grpc.aio.insecure_channel(service.address))
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


async def test_an_unknown_caller_is_refused_before_sending_a_request(empty_service: Service) -> None:
    """A call that never sends its message takes no slot."""
    anybody = await empty_service.client(None)
    call: Any = anybody.channel.stream_unary("/skilder.keys.v1.AuthorizationService/Authorize")()
    assert await call.code() is grpc.StatusCode.UNAUTHENTICATED


@GRPCIO_IF_SHORT
async def test_a_caller_that_does_not_send_its_request_runs_into_the_limit(
    transport: str, database_url: str, tmp_path: Path
) -> None:
    """The service's time limit covers reading the request too; a caller that sends nothing at all gets the status."""
    async with serving(database_url, tmp_path, transport=transport, call_timeout=0.3, lease=0.2) as service:
        metadata = (("authorization", f"Bearer {TOKENS['service']}"),)
        method: Any = service.service.channel.stream_unary("/skilder.keys.v1.AuthorizationService/Authorize")
        assert await method(metadata=metadata).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await method(iter([]), metadata=metadata).code() is grpc.StatusCode.INVALID_ARGUMENT
