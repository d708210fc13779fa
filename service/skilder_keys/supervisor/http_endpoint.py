"""A small HTTP endpoint of the parent for metrics and probes. It has strict limits, as anybody may connect to it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from skilder_keys.transports.listening import ListenError, listening_sockets

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

_HEAD_BYTES = 8192
_TIMEOUT_SECONDS = 5.0
_MAX_CONNECTIONS = 16


@dataclass(frozen=True, slots=True)
class Response:
    """An HTTP response."""

    body: bytes
    status: HTTPStatus = HTTPStatus.OK
    content_type: str = "text/plain; charset=utf-8"


@asynccontextmanager
async def http_endpoint(
    address: str | None, purpose: str, paths: Mapping[str, Callable[[], Awaitable[Response]]]
) -> AsyncIterator[str | None]:
    """Serve paths on HOST:PORT, and yield HOST:PORT with the port that port 0 became. Without an address, do nothing.

    It supports only the HTTP that a scrape or a probe needs: one GET or HEAD per connection, with a limited size, time
    and number of connections.

    Args:
        address: HOST:PORT, or None.
        purpose: What is served, for the error message.
        paths: For each path, a function that returns the response.

    Raises:
        ListenError: The address is in use, or this machine does not have it.
    """
    if address is None:
        yield None
        return
    # In order of age. If there are too many, the oldest is closed, so that idle connections cannot block a probe.
    connections: dict[asyncio.StreamWriter, asyncio.Task[object] | None] = {}

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(connections) >= _MAX_CONNECTIONS:
            next(iter(connections)).close()
        connections[writer] = asyncio.current_task()
        try:
            # A client that is slow, or closes the connection, or sends no valid request, gets no response.
            with suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                async with asyncio.timeout(_TIMEOUT_SECONDS):
                    with closing(writer):
                        writer.write(await _response(await reader.readuntil(b"\r\n\r\n"), paths))
                        await writer.drain()
        finally:
            connections.pop(writer, None)

    with ExitStack() as stack:
        try:
            listening = [stack.enter_context(each) for each in listening_sockets(address)]
            servers = [await asyncio.start_server(respond, sock=each, limit=_HEAD_BYTES) for each in listening]
        except OSError as error:
            raise ListenError(f"Cannot serve {purpose} on {address}: {error.strerror or error}") from error
        try:
            yield f"{address.rpartition(':')[0]}:{listening[0].getsockname()[1]}"
        finally:
            for server in servers:
                server.close()
            # If the event loop ended while they run, asyncio would log an error for each.
            for writer in connections:
                writer.close()
            await asyncio.gather(*filter(None, connections.values()), return_exceptions=True)


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
