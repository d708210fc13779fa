"""The proxy that simulates a bad network."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.proxy import Proxy

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

PATIENCE = 10.0
"""Seconds in which what is not held back arrives, however busy the machine."""

DELAY = 0.2
"""Seconds for which something is held back, or found to be."""


@pytest.fixture
async def proxy(tmp_path: Path) -> AsyncIterator[Proxy]:
    """A proxy to a server that echoes every line after the startup message."""

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        length = int.from_bytes(await reader.readexactly(4), "big")
        await reader.readexactly(length - 4)
        while line := await reader.readline():
            writer.write(line)
        writer.close()

    server = await asyncio.start_unix_server(echo, tmp_path / "socket")
    proxy = Proxy(tmp_path / "socket")
    async with proxy.serving():
        yield proxy
    server.close()


class End:
    """A client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    def send(self, line: bytes) -> None:
        """Send a line without waiting."""
        self.writer.write(line)

    async def receives(self, line: bytes) -> bool:
        """Return whether this line comes next; an empty one is the end of the connection."""
        async with asyncio.timeout(PATIENCE):
            return await self.reader.readline() == line

    async def receives_nothing(self) -> bool:
        """Return whether nothing comes for a while, not even the end."""
        try:
            async with asyncio.timeout(DELAY):
                await self.reader.readline()
        except TimeoutError:
            return True
        return False


@asynccontextmanager
async def connected(proxy: Proxy, name: str) -> AsyncIterator[End]:
    """Return a connection with this application_name."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
    parameters = (196608).to_bytes(4, "big") + f"user\0postgres\0application_name\0{name}\0\0".encode()
    writer.write((len(parameters) + 4).to_bytes(4, "big") + parameters)
    try:
        yield End(reader, writer)
    finally:
        writer.transport.abort()


async def test_bytes_pass(proxy: Proxy) -> None:
    """In both directions, and the proxy knows the connection's name."""
    async with connected(proxy, "one") as one, connected(proxy, "two") as two:
        one.send(b"hello\n")
        assert await one.receives(b"hello\n")
        two.send(b"hello\n")
        assert await two.receives(b"hello\n")
        assert proxy.names() == ["one", "two"]


async def test_a_stalled_network_holds_everything_and_loses_nothing(proxy: Proxy) -> None:
    """Held bytes come in order when it resumes, and connections made meanwhile work then."""
    async with connected(proxy, "old") as old:
        old.send(b"1\n")
        assert await old.receives(b"1\n")
        proxy.stall()
        old.send(b"2\n")
        assert await old.receives_nothing()
        async with connected(proxy, "new") as new:
            new.send(b"3\n")
            assert await new.receives_nothing()
            old.send(b"4\n")
            proxy.resume()
            assert await old.receives(b"2\n")
            assert await old.receives(b"4\n")
            assert await new.receives(b"3\n")


async def test_a_stalled_network_hides_that_the_other_end_is_gone(proxy: Proxy) -> None:
    """A frozen host closes nothing."""
    async with connected(proxy, "one") as one:
        one.send(b"1\n")
        assert await one.receives(b"1\n")
        proxy.stall()
        one.writer.write_eof()
        assert await one.receives_nothing()
        proxy.resume()
        assert await one.receives(b"")


async def test_one_name_alone_can_be_stalled(proxy: Proxy) -> None:
    """Other connections go on."""
    proxy.stall("one")
    async with connected(proxy, "one") as one, connected(proxy, "two") as two:
        one.send(b"1\n")
        two.send(b"2\n")
        assert await two.receives(b"2\n")
        assert await one.receives_nothing()
        proxy.resume()
        assert await one.receives(b"1\n")


async def test_responses_can_be_slow(proxy: Proxy) -> None:
    """For one name only; and fast again afterwards."""

    async def seconds(end: End) -> float:
        begin = time.monotonic()
        end.send(b"1\n")
        assert await end.receives(b"1\n")
        return time.monotonic() - begin

    async with connected(proxy, "one") as one, connected(proxy, "two") as two:
        proxy.slow(DELAY, "one")
        assert await seconds(one) >= DELAY
        assert await seconds(two) < DELAY
        proxy.slow(DELAY)
        assert await seconds(two) >= DELAY
        proxy.resume()
        assert await seconds(one) < DELAY


async def test_connections_can_be_cut(proxy: Proxy) -> None:
    """Those of one name, or all, also during a stall; new ones can be made."""
    async with connected(proxy, "one") as one, connected(proxy, "two") as two:
        for end in (one, two):
            end.send(b"1\n")
            assert await end.receives(b"1\n")
        proxy.cut("one")
        assert await one.receives(b"")
        two.send(b"2\n")
        assert await two.receives(b"2\n")
        proxy.stall()
        proxy.cut()
        assert await two.receives(b"")
        proxy.resume()
    async with connected(proxy, "two") as again:
        again.send(b"3\n")
        assert await again.receives(b"3\n")


async def test_a_server_that_is_not_there_closes_the_connection(proxy: Proxy, tmp_path: Path) -> None:
    """As when the other end refuses."""
    (tmp_path / "socket").unlink()
    async with connected(proxy, "one") as one:
        assert await one.receives(b"")
