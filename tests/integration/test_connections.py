"""Idle connections are bounded, closed after some time, and do not use up the files that others need."""

from __future__ import annotations

import asyncio
import resource
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skilder_keys.transports import connections
from tests.support.certificates import Authority
from tests.support.http2 import PATIENCE, connected
from tests.support.process import FRESH, serving_process
from tests.support.service import serving
from tests.support.transport import ONLY_GRPCIO

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.support.service import Service

FILES = 400
"""The soft limit of open files when the service starts."""


async def is_served(address: str) -> bool:
    """Return whether a new client is served."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        probe: Any = health_pb2_grpc.HealthStub(channel)
        try:
            await probe.Check(health_pb2.HealthCheckRequest(), timeout=PATIENCE / 4)
        except grpc.aio.AioRpcError:
            return False
        return True


@asynccontextmanager
async def silent(address: str, count: int) -> AsyncIterator[list[asyncio.StreamReader]]:
    """Open TCP connections and send nothing on them."""
    host, _, port = address.rpartition(":")
    opened = [await asyncio.open_connection(host, int(port)) for _ in range(count)]
    try:
        yield [reader for reader, _ in opened]
    finally:
        for _, writer in opened:
            writer.close()


@asynccontextmanager
async def few_files() -> AsyncIterator[None]:
    """Lower the soft limit of open files for processes that are started meanwhile."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Files that this process has open already stay open.
    resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_low_soft_limit_of_files_shuts_nobody_out(transport: str, database_url: str, tmp_path: Path) -> None:
    """The server raises it at the start: more silent connections than the old limit still leave room for others."""
    if resource.getrlimit(resource.RLIMIT_NOFILE)[1] < 4 * FILES:
        pytest.skip("the hard limit of files is too low here: raise it (ulimit -Hn)")
    async with AsyncExitStack() as stack:
        async with few_files():
            server = stack.enter_context(
                serving_process(tmp_path, transport=transport, command=FRESH, SKILDER_KEYS_DATABASE_URL=database_url)
            )
        address = await asyncio.to_thread(lambda: server.address)
        async with silent(address, FILES + 50):
            assert await is_served(address)


async def test_connections_are_bounded(transport: str, database_url: str, tmp_path: Path) -> None:
    """One over the bound is closed; there is room again when another has ended."""
    async with serving(database_url, tmp_path, transport=transport, max_connections=20) as service:
        assert await is_served(service.address)
        async with silent(service.address, 40) as readers, asyncio.timeout(PATIENCE):
            while sum(reader.at_eof() for reader in readers) < 20:
                await asyncio.sleep(0.05)
            assert sum(reader.at_eof() for reader in readers) <= 21
        async with asyncio.timeout(PATIENCE):
            while not await is_served(service.address):
                await asyncio.sleep(0.1)


@ONLY_GRPCIO
async def test_silent_connections_are_closed(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: str
) -> None:
    """Those without a handshake in time, and those without a call for some time. A running call is not disturbed."""
    monkeypatch.setattr(connections, "HANDSHAKE_SECONDS", 0.5)
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.5)
    async with serving(database_url, tmp_path, transport=transport) as service, silent(service.address, 5) as readers:
        async with connected(service.address) as idle, asyncio.timeout(PATIENCE):
            watch: Any = health_pb2_grpc.HealthStub(service.operator.channel).Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            for reader in readers:
                await reader.read()
            await idle.goaway.wait()
        assert not watch.done()
        watch.cancel()


async def test_failed_handshakes_are_not_logged(transport: str, database_url: str, tmp_path: Path) -> None:
    """Anybody can cause them by sending something else."""
    certificate = Authority(tmp_path, "authority").issue("server", "DNS:localhost")
    variables = {
        "SKILDER_KEYS_DATABASE_URL": database_url,
        "SKILDER_KEYS_TLS_CERT": str(certificate.certificate),
        "SKILDER_KEYS_TLS_KEY": str(certificate.key),
    }
    # gRPC reads at its import what it may log.
    with serving_process(tmp_path, transport=transport, command=FRESH, **variables) as server:
        address = await asyncio.to_thread(lambda: server.address)
        host, _, port = address.rpartition(":")
        before = len(server.lines)
        for data in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01" + bytes(200), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"):
            for _ in range(5):
                reader, writer = await asyncio.open_connection(host, int(port))
                writer.write(data * 20)
                async with asyncio.timeout(PATIENCE):
                    with suppress(ConnectionError):
                        await reader.read()
                writer.close()
        assert server.lines[before:] == []


@pytest.mark.parametrize(("size", "taken"), [(9_000, True), (15_500, True), (17_000, False)])
async def test_the_limit_of_metadata_is_exact(empty_service: Service, size: int, *, taken: bool) -> None:
    """Each of many calls has the same outcome, with both transports."""
    options = [(name, 2**20) for name in ("grpc.max_metadata_size", "grpc.absolute_max_metadata_size")]
    async with grpc.aio.insecure_channel(empty_service.address, options=options) as channel:
        probe: Any = health_pb2_grpc.HealthStub(channel)
        for _ in range(30):
            call = probe.Check(health_pb2.HealthCheckRequest(), metadata=(("x-large", "b" * size),))
            assert (await call.code() is grpc.StatusCode.OK) == taken


def test_fewer_connections_than_files_are_allowed() -> None:
    """Some files are kept for the database and the rest; at least one connection is always allowed."""
    code = (
        "import resource; from skilder_keys.transports.connections import allowed;"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (1024, 1024));"
        "print(allowed(100, 10), 900 > allowed(10_000, 10) > 800, allowed(10_000, 2_000))"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert printed.split() == ["100", "True", "1"]
