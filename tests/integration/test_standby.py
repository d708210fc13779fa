"""Standbys and failover: the service uses the primary, whichever host that is, and no other."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import grpc
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage.database import Database, DatabaseOptions
from skilder_keys.storage.migrations import migrate
from tests.support.pooler import pooler
from tests.support.process import run_command
from tests.support.service import serving
from tests.support.stock import StockServer, stock_server, stock_standby
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.service import Service

PASSWORD = "pass@/:%word"


@pytest.fixture
def pair() -> Iterator[tuple[StockServer, StockServer]]:
    """A primary and its streaming standby."""
    with stock_server() as primary, stock_standby(primary) as standby:
        yield primary, standby


def of_both(*servers: StockServer) -> str:
    """Return a URL with the hosts of both servers, in order."""
    hosts = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    return urlsplit(servers[0].tcp_url())._replace(netloc=f"postgres:{servers[0].password}@{hosts}").geturl()


async def test_a_standby_is_refused_and_named(pair: tuple[StockServer, StockServer], tmp_path: Path) -> None:
    """By `serve` and by `migrate`, with its host and port."""
    primary, standby = pair
    await migrate(primary.url())
    for command in ("serve", "migrate"):
        variables = {"SKILDER_KEYS_DATABASE_URL": standby.tcp_url(), "SKILDER_KEYS_LISTEN": "127.0.0.1:0"}
        done = await asyncio.to_thread(run_command, command, folder=tmp_path, **variables)
        assert done.returncode == 6, done.stderr
        assert f"127.0.0.1:{standby.port}: is a standby" in done.stderr
        assert "Traceback" not in done.stderr
        assert primary.password not in done.stderr


async def test_the_primary_is_found_among_several_hosts_and_after_a_failover(
    transport: str, pair: tuple[StockServer, StockServer], tmp_path: Path
) -> None:
    """In any order. While there is no primary calls are UNAVAILABLE; once there is one, they work."""
    primary, standby = pair
    await migrate(of_both(standby, primary))
    async with serving(of_both(standby, primary), tmp_path, transport=transport, lease=0.5) as service:
        await service.operator.apply(small_workspace())
        kept, revoked = [await service.operator.issue() for _ in range(2)]
        assert (await service.service.authorize(kept.token)).HasField("granted")
        await service.operator.revoke(key_id=revoked.key.id)

        await asyncio.to_thread(primary.stop)
        await until_code(service, kept.token, grpc.StatusCode.UNAVAILABLE)
        await asyncio.to_thread(standby.promote)
        await until_code(service, kept.token, grpc.StatusCode.OK)
        assert (await service.service.authorize(kept.token)).HasField("granted")
        assert await service.service.denial(revoked.token) == "REVOKED"
        await service.operator.revoke(key_id=kept.key.id)
        assert await service.service.denial(kept.token) == "REVOKED"


async def test_a_pooler_that_switches_to_a_standby_gives_no_decisions(
    pair: tuple[StockServer, StockServer], tmp_path: Path
) -> None:
    """The pooler's client connections outlive the switch, so every transaction checks again."""
    primary, standby = pair
    await migrate(primary.url())
    with pooler(primary) as pool:
        async with serving(pool.url("postgres"), tmp_path, transport="grpcio", lease=0.5) as service:
            await service.operator.apply(small_workspace())
            issued = await service.operator.issue()
            assert (await service.service.authorize(issued.token)).HasField("granted")
            await asyncio.to_thread(pool.turn_to, standby)
            await until_code(service, issued.token, grpc.StatusCode.UNAVAILABLE)
            for _ in range(20):
                assert await code(service, issued.token) is grpc.StatusCode.UNAVAILABLE
            await asyncio.to_thread(primary.stop)
            await asyncio.to_thread(standby.promote)
            await until_code(service, issued.token, grpc.StatusCode.OK)


@asynccontextmanager
async def silent_host() -> AsyncIterator[tuple[int, list[asyncio.StreamWriter]]]:
    """Yield the port of a host that accepts connections and sends nothing, and its connections so far."""
    taken: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: taken.append(writer), "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1], taken
    finally:
        server.close()
        for writer in taken:
            writer.close()


async def test_the_error_names_the_problem_of_each_host(tmp_path: Path) -> None:
    """Refused, silent, unknown: each with its host and port, and without the password."""
    async with silent_host() as (port, _):
        hosts = f"127.0.0.1:1,127.0.0.1:{port},no-such-host.invalid:7"
        url = f"postgresql://keys:pass%40%2F%3A%25word@{hosts}/keys?connect_timeout=1&sslmode=disable"
        for command in ("serve", "migrate"):
            variables = {"SKILDER_KEYS_DATABASE_URL": url, "SKILDER_KEYS_LISTEN": "127.0.0.1:0"}
            done = await asyncio.to_thread(run_command, command, folder=tmp_path, **variables)
            assert done.returncode == 6, done.stderr
            for words in ("127.0.0.1:1: ", f"127.0.0.1:{port}: no answer in time", "no-such-host.invalid:7: "):
                assert words in done.stderr
            for spelling in (PASSWORD, "pass%40", "word"):
                assert spelling not in done.stderr


async def test_a_silent_host_does_not_take_the_time_of_the_next(stock_postgres: str) -> None:
    """Each host has its share of the time; afterwards the one that responded is tried first."""
    async with silent_host() as (port, taken):
        folder, _, socket_port = stock_postgres.partition("host=")[2].partition("&port=")
        url = f"postgresql://postgres@/postgres?host=127.0.0.1,{folder}&port={port},{socket_port}&sslmode=disable"
        database = await Database.open(DatabaseOptions(url))
        try:
            async with database.connection() as connection:
                assert await connection.fetchval("SELECT 1") == 1
            assert len(taken) == 1
        finally:
            await database.close()


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    """The cause has its address, for the log and not for callers."""
    with pytest.raises(UnavailableError) as caught:
        await Database.open(DatabaseOptions("postgresql://k:hunter2@127.0.0.1:1/k"))
    assert "127.0.0.1" not in str(caught.value)
    assert str(caught.value.__cause__).startswith("127.0.0.1:1: ")
    assert "hunter2" not in repr(caught.value.__cause__)


async def code(service: Service, token: str) -> grpc.StatusCode:
    """Authorize a token and return the status of the call; a good token must not be denied."""
    call = service.service.authorization.Authorize(pb.AuthorizeRequest(token=token))
    ended: grpc.StatusCode = await call.code()
    if ended is grpc.StatusCode.OK:
        assert (await call).HasField("granted")
    return ended


async def until_code(service: Service, token: str, wanted: grpc.StatusCode) -> None:
    """Wait until a call about a token ends with this status."""
    async with asyncio.timeout(60):
        while await code(service, token) is not wanted:
            await asyncio.sleep(0.01)
