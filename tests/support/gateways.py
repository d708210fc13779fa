"""What is around a gateway: a client that sends what no library would, a service behind it, a network that fails."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable
    from pathlib import Path

    Header = tuple[str, str]

_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """A response. That of `Upstream` has the request that came through.

    Attributes:
        headers: Their names are in lower case.
    """

    status: int
    headers: dict[str, str]
    body: str

    @property
    def reason(self) -> str:
        """Why the service refused the request."""
        return str(json.loads(self.body)["reason"])

    @property
    def line(self) -> str:
        """The request line that came through."""
        assert self.status == 200, self
        return str(json.loads(self.body)["line"])

    @property
    def came(self) -> dict[str, list[str]]:
        """The headers that came through: for each name in lower case, its values."""
        assert self.status == 200, self
        found: dict[str, list[str]] = {}
        for name, value in json.loads(self.body)["headers"]:
            found.setdefault(name, []).append(value)
        return found


async def send(
    address: str, target: str, *headers: Header, method: str = "GET", body: bytes = b"", length: int | None = None
) -> Answer:
    """Send a request over a connection of its own. `length` is the Content-Length; by default, that of a body."""
    reader, writer = await asyncio.open_connection(*address.rsplit(":", 1))
    lines = [f"{method} {target} HTTP/1.1", "host: example.com", "connection: close"]
    lines += [f"{name}: {value}" for name, value in headers]
    if body or length is not None:
        lines.append(f"content-length: {len(body) if length is None else length}")
    async with asyncio.timeout(_SECONDS):
        writer.write("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
        with suppress(ConnectionError):
            await writer.drain()
        head, rest = await _head(reader), b""
        with suppress(ConnectionError):
            rest = await reader.read(-1)
    writer.close()
    first, found = head
    if found.get("transfer-encoding") == "chunked":
        rest = _unchunked(rest)
    return Answer(int(first.split(" ")[1]), dict(found), rest.decode())


async def _head(reader: asyncio.StreamReader) -> tuple[str, dict[str, str]]:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip("\r\n").split("\r\n")
    return first, {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _unchunked(body: bytes) -> bytes:
    found = b""
    while True:
        size, _, body = body.partition(b"\r\n")
        if not (length := int(size, 16)):
            return found
        found, body = found + body[:length], body[length + 2 :]


@asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    """Serve on a free port a service that responds with what it gets, and yield the port."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            first, *lines = head.rstrip("\r\n").split("\r\n")
            pairs = [(name.lower(), value.strip()) for name, _, value in (each.partition(":") for each in lines)]
            await reader.readexactly(int(dict(pairs).get("content-length", "0")))
            body = json.dumps({"line": first, "headers": pairs}).encode()
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body) + body)
            await writer.drain()
        writer.close()

    async with _listening(respond) as port:
        yield port


class Hop:
    """A network between a gateway and the service, which can be slow or down.

    Attributes:
        port: Where it listens.
    """

    def __init__(self, target: str) -> None:
        self._target = target.rsplit(":", 1)
        self._free = asyncio.Event()
        self._free.set()
        self._is_down = False
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Hop]:
        """Serve on a free port."""
        async with _listening(self._accept) as self.port:
            yield self
            self.heal()
            self._cut()

    def hold(self) -> None:
        """Let nothing through, in either direction."""
        self._free.clear()

    def fail(self) -> None:
        """Cut all connections, and take no more."""
        self._is_down = True
        self._cut()

    def heal(self) -> None:
        """Let everything through."""
        self._is_down = False
        self._free.set()

    def _cut(self) -> None:
        for each in self._writers:
            each.transport.abort()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._is_down:
            writer.transport.abort()
            return
        with suppress(OSError):
            from_target, to_target = await asyncio.open_connection(*self._target)
            ends = {writer, to_target}
            self._writers |= ends
            await asyncio.gather(self._pump(reader, to_target), self._pump(from_target, writer))
            self._writers -= ends

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(2**16):
                await self._free.wait()
                writer.write(data)
                await writer.drain()
        writer.transport.abort()


@asynccontextmanager
async def _listening(accept: Any) -> AsyncIterator[int]:
    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


def configured(path: Path, changes: Iterable[tuple[str, str]]) -> str:
    """Return an example configuration with other addresses. What is changed must be there once."""
    text = path.read_text("utf-8")
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


@asynccontextmanager
async def program(command: list[str], address: str, folder: Path, **variables: str) -> AsyncIterator[Path]:
    """Run a gateway in a folder, wait until it listens, and yield the file of its log."""
    log = folder / "gateway.log"
    with log.open("wb") as out:
        process = await asyncio.create_subprocess_exec(*command, stdout=out, stderr=out, cwd=folder, env=variables)
    try:
        async with asyncio.timeout(_SECONDS):
            while not await _listens(address):
                assert process.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
        yield log
        assert process.returncode is None, log.read_text()
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def _listens(address: str) -> bool:
    try:
        _, writer = await asyncio.open_connection(*address.rsplit(":", 1))
    except OSError:
        return False
    writer.close()
    return True
