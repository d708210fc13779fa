"""A small HTTP endpoint of the parent: for scrapes and probes, and bounded, since anybody on the network may ask it."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from skilder_keys.transports.listening import ListenError, addresses_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

_HEAD_BYTES = 8192
_TIMEOUT_SECONDS = 5.0
_MAX_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Response:
    """What a path answers."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


@asynccontextmanager
async def http_endpoint(
    address: str | None, purpose: str, paths: Mapping[str, Callable[[], Awaitable[Response]]]
) -> AsyncIterator[str | None]:
    """Serve paths on HOST:PORT and lend the address with the port that port 0 became; without one, do nothing.

    It is HTTP as far as a scrape or a probe needs it: one GET or HEAD a connection, small, soon, and not many at once.

    Args:
        address: Where, or None.
        purpose: What it serves, for the error.
        paths: What to answer, by path.

    Raises:
        ListenError: The address is taken, or not ours.
    """
    if address is None:
        yield None
        return
    # The oldest first: where there are too many, it makes room, so that nobody who only waits keeps a probe out.
    connections: dict[asyncio.StreamWriter, None] = {}

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(connections) >= _MAX_CONNECTIONS:
            next(iter(connections)).close()
        connections[writer] = None
        try:
            # Whoever is slow, or gone, or sends no request, is hung up on without a word.
            with suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    with closing(writer):
                        writer.write(await _response(await reader.readuntil(b"\r\n\r\n"), paths))
                        await writer.drain()
        finally:
            connections.pop(writer, None)

    with ExitStack() as stack:
        try:
            listening = [stack.enter_context(each) for each in _listening(address)]
            servers = [await asyncio.start_server(answer, sock=each, limit=_HEAD_BYTES) for each in listening]
        except OSError as error:
            raise ListenError(f"Cannot serve {purpose} on {address}: {error.strerror or error}") from error
        try:
            yield f"{address.rpartition(':')[0]}:{listening[0].getsockname()[1]}"
        finally:
            for server in servers:
                server.close()


def _listening(address: str) -> list[socket.socket]:
    """Return sockets that listen on every address of a host, all on one port. Raises OSError."""
    host, _, port = address.rpartition(":")
    number = int(port)
    found: list[socket.socket] = []
    missing: list[OSError] = []
    for family, place in addresses_of(host):
        try:
            # [::] serves IPv4 too, as for calls.
            dual = place == "::" and socket.has_dualstack_ipv6()
            found.append(socket.create_server((place, number), family=family, dualstack_ipv6=dual))
        except OSError as error:
            # A name such as localhost may have an address that this machine has not.
            missing.append(error)
        else:
            number = found[0].getsockname()[1]
    if not found:
        raise missing[0]
    return found


async def _response(head: bytes, paths: Mapping[str, Callable[[], Awaitable[Response]]]) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0].decode("latin-1")
    if method not in {b"GET", b"HEAD"}:
        response = Response(b"use GET or HEAD\n", HTTPStatus.METHOD_NOT_ALLOWED)
    elif path not in paths:
        response = Response(f"there is {' and '.join(paths)}\n".encode(), HTTPStatus.NOT_FOUND)
    else:
        response = await paths[path]()
    head_lines = (
        f"HTTP/1.1 {response.status.value} {response.status.phrase}",
        f"Content-Type: {response.content_type}",
        f"Content-Length: {len(response.body)}",
        "Cache-Control: no-store",
        *(("Allow: GET, HEAD",) if response.status is HTTPStatus.METHOD_NOT_ALLOWED else ()),
        "Connection: close",
    )
    return "\r\n".join((*head_lines, "", "")).encode() + (b"" if method == b"HEAD" else response.body)
