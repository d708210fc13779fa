"""A network of one's own in front of Postgres, which can be slow, hold everything back, or break."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_CHUNK = 65536
_STARTUP_PARAMETERS = 8  # bytes before them: the message's length, and the version of the protocol
_PROTOCOL_3 = 196608


@dataclass(eq=False)
class _Link:
    """A connection through the proxy: whose it is, by the name it gave Postgres, and both its ends."""

    name: str
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter


class Proxy:
    """Passes on what comes in on a port of this machine to the Unix socket of a Postgres, and back.

    What is done to connections is done to all or, where a name is given, to those with this `application_name`; also to
    those that are made later.
    """

    def __init__(self, target: Path) -> None:
        """Take the socket."""
        self._target = target
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delays: dict[str | None, float] = {}
        self._stalled: set[str | None] = set()
        self._resumed = asyncio.Event()
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve on a free port until left."""
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            self.cut()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def stall(self, name: str | None = None) -> None:
        """Hold back every byte in both directions, and every end of a connection, without closing any."""
        self._stalled.add(name)

    def slow(self, seconds: float, name: str | None = None) -> None:
        """Hold back each answer of Postgres for so long; those of a connection stay in order."""
        self._delays[name] = seconds

    def resume(self) -> None:
        """Let everything pass that was held back, and is as fast as can be again."""
        self._delays.clear()
        self._stalled.clear()
        self._resumed.set()
        self._resumed = asyncio.Event()

    def cut(self, name: str | None = None) -> None:
        """Break the connections. New ones can be made."""
        for link in self._links:
            if name in (None, link.name):
                for writer in (link.client, link.server):
                    writer.transport.abort()

    def names(self) -> list[str]:
        """Return the names of the connections there are."""
        return sorted(link.name for link in self._links)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise LookupError("asyncio handles a connection in a task")
        self._tasks.add(task)
        # Either end may go at any time, and Postgres may not be there.
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            try:
                await self._link(reader, writer)
            finally:
                writer.transport.abort()
                self._tasks.discard(task)

    async def _link(self, from_client: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        startup = await _startup(from_client)
        # While all is stalled, not even a connection to Postgres is made.
        while None in self._stalled:
            await self._resumed.wait()
        from_server, server = await asyncio.open_unix_connection(self._target)
        link = _Link(_name(startup), client, server)
        self._links.add(link)
        try:
            await self._until_free(link)
            server.write(startup)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(from_client, server, link, slow=False))
                group.create_task(self._pump(from_server, client, link, slow=True))
        except* OSError:
            pass
        finally:
            self._links.discard(link)
            server.transport.abort()

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link, *, slow: bool
    ) -> None:
        while data := await reader.read(_CHUNK):
            if slow and (delay := self._delay(link)):
                await asyncio.sleep(delay)
            await self._until_free(link)
            writer.write(data)
            await writer.drain()
        await self._until_free(link)
        writer.close()

    def _delay(self, link: _Link) -> float:
        return self._delays.get(link.name, self._delays.get(None, 0.0))

    async def _until_free(self, link: _Link) -> None:
        while not self._stalled.isdisjoint({None, link.name}):
            await self._resumed.wait()


async def _startup(reader: asyncio.StreamReader) -> bytes:
    """Return a client's first message."""
    length = await reader.readexactly(4)
    return length + await reader.readexactly(int.from_bytes(length, "big") - 4)


def _name(startup: bytes) -> str:
    """Return the `application_name` of a StartupMessage (PostgreSQL, "Message Formats"); empty where it has none."""
    if int.from_bytes(startup[4:_STARTUP_PARAMETERS], "big") != _PROTOCOL_3:
        return ""  # a request to cancel a statement, or for TLS
    words = startup[_STARTUP_PARAMETERS:].split(b"\0")
    return dict(zip(words[::2], words[1::2], strict=False)).get(b"application_name", b"").decode()
