"""Callers without credentials: they can reach little, and whatever they do, others are served."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.rpc.log_limiter import LINES
from skilder_keys.transports.grpcio import public
from skilder_keys.transports.grpcio.public import PublicLimits
from tests.support.frames import AUTHORIZE, Code, request
from tests.support.http2 import PATIENCE, connected, framed
from tests.support.lengths import by_form
from tests.support.service import TOKENS, serving
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO, with_envoy_if_short
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.http2 import Connection, Stream
    from tests.support.service import Service

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
REFLECTION = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo"
STREAMS = 100
"""The maximum of calls on one connection."""


async def is_served(service: Service) -> None:
    """Fail unless a probe without a token and a known caller are served at once."""
    channel = grpc.aio.insecure_channel(service.address, options=[("grpc.use_local_subchannel_pool", 1)])
    async with channel, asyncio.timeout(PATIENCE):
        probe: Any = health_pb2_grpc.HealthStub(channel)
        response = await probe.Check(health_pb2.HealthCheckRequest())
        assert response.status == health_pb2.HealthCheckResponse.SERVING
        watch = probe.Watch(health_pb2.HealthCheckRequest())
        assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()
    assert await service.service.denial("no token") == "MALFORMED"


async def opened(connection: Connection, path: str, *, count: int = STREAMS) -> list[Stream]:
    """Open calls that send nothing, and return when the server knows of them."""
    streams = [connection.call(path) for _ in range(count)]
    await connection.settled()
    return streams


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECTION, AUTHORIZE, "/x/y"])
@with_envoy_if_short(path=[CHECK, AUTHORIZE])
async def test_calls_that_send_nothing_block_nobody(empty_service: Service, transport: str, path: str) -> None:
    """Ten connections, each with its maximum: as many calls as there are slots in all.

    The short form has that many of one path with grpcio, else fewer, but still more than may wait at the same time.
    """
    connections = 10 if (path, transport) == (CHECK, "grpcio") else by_form(3, 10)
    async with AsyncExitStack() as stack:
        streams: list[Stream] = []
        for _ in range(connections):
            connection = await stack.enter_async_context(connected(empty_service.address))
            streams += await opened(connection, path)
            await is_served(empty_service)
        assert len(streams) == connections * STREAMS
        limits = PublicLimits()
        async with asyncio.timeout(PATIENCE):
            while sum(not stream.done.is_set() for stream in streams) > limits.calls:
                await asyncio.sleep(0.01)


async def test_the_oldest_waiting_call_gives_way(empty_service: Service) -> None:
    """First to other calls of its own connection; it gets a status that says so."""
    limits = PublicLimits()
    async with connected(empty_service.address) as first, connected(empty_service.address) as other:
        (bystander,) = await opened(other, CHECK, count=1)
        streams = await opened(first, CHECK, count=limits.calls_of_connection + 1)
        assert (await streams[0].response()).code is Code.RESOURCE_EXHAUSTED
        await bystander.send(framed(b""), end=True)
        response = await bystander.response()
        assert response.code is Code.OK
        await streams[-1].send(framed(b""), end=True)
        assert (await streams[-1].response()).code is Code.OK


async def test_many_concurrent_probes_are_served(empty_service: Service) -> None:
    """The maximum of a connection, on two connections: none of them waits for anything."""
    async with connected(empty_service.address) as one, connected(empty_service.address) as two:
        for connection in (one, two):
            streams = []
            for _ in range(PublicLimits().calls_of_connection):
                streams.append(connection.call(CHECK))
                await streams[-1].send(framed(b""), end=True)
            assert {(await stream.response()).code for stream in streams} == {Code.OK}


@ONLY_GRPCIO
@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECTION])
async def test_a_call_that_sends_nothing_runs_into_the_limit(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, transport: str
) -> None:
    """So does one that sends only a part of its request."""
    monkeypatch.setattr(public, "PublicLimits", lambda: PublicLimits(seconds=0.2))
    async with (
        serving(database_url, tmp_path, transport=transport) as service,
        connected(service.address) as connection,
    ):
        silent, slow = connection.call(path), connection.call(path)
        await slow.send(framed(b"", length=100))
        for stream in (silent, slow):
            assert (await stream.response()).code is Code.DEADLINE_EXCEEDED


@ONLY_GRPCIO
async def test_a_watch_has_a_time_limit(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """Also for a client that keeps its old connection."""
    monkeypatch.setattr(public, "PublicLimits", lambda: PublicLimits(lasting_seconds=0.2))
    async with (
        serving(database_url, tmp_path, transport=transport) as service,
        connected(service.address) as connection,
    ):
        stream = connection.call(WATCH)
        await stream.send(framed(b""), end=True)
        assert (await stream.response()).code is Code.DEADLINE_EXCEEDED


async def test_watches_of_a_connection_are_counted(empty_service: Service) -> None:
    """One above the maximum is refused. Others may still watch, and this one again when a watch has ended."""
    limits = PublicLimits()
    async with connected(empty_service.address) as connection:
        streams = []
        for _ in range(limits.lasting_of_connection + 1):
            streams.append(connection.call(WATCH))
            await streams[-1].send(framed(b""), end=True)
        await connection.settled()
        assert (await streams.pop().response()).code is Code.RESOURCE_EXHAUSTED
        await is_served(empty_service)
        connection.reset(streams.pop())
        async with asyncio.timeout(PATIENCE):
            while True:
                again = connection.call(WATCH)
                await again.send(framed(b""), end=True)
                async with asyncio.timeout(PATIENCE):
                    while not (again.done.is_set() or again.body):
                        await asyncio.sleep(0.01)
                if again.body:
                    break


@pytest.mark.parametrize("path", [CHECK, WATCH, REFLECTION])
async def test_anything_but_one_request_is_refused(empty_service: Service, path: str) -> None:
    """Also a message that is too long, and a stream that ends without a message."""
    async with connected(empty_service.address) as connection:
        for frames, code in (
            ([], Code.INVALID_ARGUMENT),
            ([framed(b"\xff\xff\xff")], Code.INVALID_ARGUMENT),
            ([framed(b"\x0a\x01x" * 2**13 * 3)[:16000]], None),
        ):
            stream = connection.call(path)
            await stream.send(b"".join(frames), end=code is not None)
            if code is not None:
                assert (await stream.response()).code is code
        long = framed(b"\x0a\x01x" * 22_000)
        stream = connection.call(path)
        for at in range(0, len(long), 16_000):
            await stream.send(long[at : at + 16_000], end=at + 16_000 >= len(long))
        assert (await stream.response()).code is Code.RESOURCE_EXHAUSTED
    await is_served(empty_service)


async def test_unknown_callers_are_refused_before_sending_a_request(empty_service: Service, transport: str) -> None:
    """A thousand calls of a method that needs credentials take no slots, whatever they send as such.

    The short form has three hundred with Envoy.
    """
    wrong = {"authorization": f"Bearer {TOKENS['operator'][:-1]}"}
    async with AsyncExitStack() as stack:
        for _ in range(10 if transport == "grpcio" else by_form(3, 10)):
            connection = await stack.enter_async_context(connected(empty_service.address))
            streams = [connection.call(AUTHORIZE, wrong) for _ in range(STREAMS)]
            assert {(await stream.response()).code for stream in streams} == {Code.UNAUTHENTICATED}
        response = await empty_service.operator.authorize("no token")
        assert response.denied.reason == pb.DENIAL_REASON_MALFORMED
        assert request("no token")


@pytest.mark.own_service
@GRPCIO_IF_SHORT
async def test_a_flood_of_refused_calls_does_not_flood_the_log(empty_service: Service) -> None:
    """The first are logged, the counts are exact, and other events are logged as always."""
    calls = 5 * LINES
    async with connected(empty_service.address) as connection:
        for _ in range(0, calls, 50):
            streams = [connection.call(AUTHORIZE) for _ in range(50)]
            assert {(await stream.response()).code for stream in streams} == {Code.UNAUTHENTICATED}
    for _ in range(LINES + 50):
        assert await empty_service.service.denial("no token") == "MALFORMED"
    await empty_service.operator.apply(small_workspace())
    refused = [each for each in empty_service.log.calls("AuthorizationService/Authorize") if each["code"] != "OK"]
    assert len(refused) == LINES
    assert len(empty_service.log.calls("CatalogService/ApplyWorkspace")) == 1
    labels = {"method": "AuthorizationService/Authorize", "code": "UNAUTHENTICATED"}
    assert await empty_service.metric("calls_total", **labels) == calls
    assert await empty_service.metric("denials_total", reason="MALFORMED") == LINES + 50
