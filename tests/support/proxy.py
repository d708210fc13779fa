"""A network in front of Postgres that a test can slow down, stall or break."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

_CHUNK = 65536
_STARTUP_PARAMETERS = 8  # the bytes before them: the message's length and the protocol version
_PROTOCOL_3 = 196608


@dataclass(eq=False)
class _Link:
    """A connection through the proxy: its name, as given to Postgres, and both its ends."""

    name: str
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter


class Proxy:
    """A proxy from a local TCP port to the Unix socket of a Postgres.

    A fault applies to all connections or, where a name is given, to those with this `application_name`. It also applies
    to connections that are made later.
    """

    def __init__(self, target: Path) -> None:
        """Make a proxy to this socket."""
        self._target = target
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delays: dict[str | None, float] = {}
        self._stalled: set[str | None] = set()
        self._resumed = asyncio.Event()
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        """Serve on a free port for the duration of the context."""
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
        """Hold back every byte and every close in both directions, without closing any connection."""
        self._stalled.add(name)

    def slow(self, seconds: float, name: str | None = None) -> None:
        """Delay each response of Postgres by this much; the responses on one connection stay in order."""
        self._delays[name] = seconds

    def resume(self) -> None:
        """Release what was held back, and delay nothing any more."""
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
        """Return the names of the open connections."""
        return sorted(link.name for link in self._links)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            raise LookupError("asyncio handles a connection in a task")
        self._tasks.add(task)
        # Either end may close at any time, and Postgres may be down.
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
    """Return the `application_name` of a StartupMessage (PostgreSQL, "Message Formats"), or empty."""
    if int.from_bytes(startup[4:_STARTUP_PARAMETERS], "big") != _PROTOCOL_3:
        return ""  # a request to cancel a statement, or for TLS
    words = startup[_STARTUP_PARAMETERS:].split(b"\0")
    return dict(zip(words[::2], words[1::2], strict=False)).get(b"application_name", b"").decode()
