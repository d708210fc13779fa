"""The HTTP endpoint for gateways. It supports the HTTP/1.1 that they need for their questions, and no more.

The calls pass the pipeline as Envoy's do. The caller is the gateway, by a token in a header of its own.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from time import monotonic
from typing import TYPE_CHECKING

from skilder.envoy import auth_pb2
from skilder_keys.domain.errors import BusyError, KeysError
from skilder_keys.rpc.errors import MalformedMessageError, too_long
from skilder_keys.rpc.gateway.http_check import CALLER, PATHS, check_request, decided, failed, parse_head
from skilder_keys.rpc.limits import METHODS
from skilder_keys.transports import connections
from skilder_keys.transports.listening import ListenError, listening_sockets

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skilder_keys.config import Settings
    from skilder_keys.rpc.call_metrics import CallMetrics
    from skilder_keys.rpc.gateway.http_check import Head, HttpResponse
    from skilder_keys.rpc.pipeline import Serve

CHECK = "/envoy.service.auth.v3.Authorization/Check"

_HEAD_BYTES = 2**16
"""The longest head of a request. It has all headers of the gateway's client."""
_END = b"\r\n\r\n"


class HttpCall:
    """A request of a gateway as a call of Check, as `rpc.context.Context` describes it."""

    __slots__ = ("_body", "_head", "_peer")

    def __init__(self, head: Head, body: bytes, peer: str) -> None:
        self._head = head
        self._body = body
        self._peer = peer

    def credentials(self) -> str | None:
        """Return the gateway's own credentials, or None without them."""
        return self.metadata(CALLER)

    def certificate_names(self) -> Iterable[str]:
        """Return no names: there is no TLS."""
        return ()

    def peer(self) -> str:
        """Return the gateway's address."""
        return self._peer

    def time_remaining(self) -> float | None:
        """Return None: a gateway does not say how long it waits."""
        return None

    def metadata(self, name: str) -> str | None:
        """Return a header, or None without it."""
        return ",".join(found) if (found := self._head.values(name)) else None

    async def read(self, max_bytes: int) -> object:
        """Return the question as a message.

        Raises:
            InvalidRequestError: The gateway does not tell what its client asked for.
            MessageTooLongError: The message has more than `max_bytes` bytes.
        """
        message = check_request(self._head, self._body).SerializeToString()
        if len(message) > max_bytes:
            raise too_long(len(message), max_bytes)
        return message


class GatewayEndpoint:
    """Serves the endpoint in one worker. Call `start` once, and `stop` once."""

    def __init__(self, check: Serve, calls: CallMetrics, settings: Settings) -> None:
        """Make the endpoint.

        Args:
            check: Serves a call of Check.
            calls: Counts the calls that are refused.
            settings: The limits.
        """
        self._check = check
        self._metrics = calls
        self._max_calls = settings.max_calls
        self._max_connections = min(settings.max_connections, settings.max_calls)
        self._max_age = settings.max_connection_age
        self._servers: list[asyncio.Server] = []
        self._connections: dict[asyncio.Task[object], asyncio.StreamWriter] = {}
        self._waiting: set[asyncio.Task[object]] = set()
        self._is_stopping = False

    async def start(self, address: str) -> None:
        """Listen on HOST:PORT, with other workers.

        Raises:
            ListenError: The address is in use, or this machine does not have it.
        """
        try:
            sockets = listening_sockets(address, reuse_port=True, backlog=1024)
        except OSError as error:
            raise ListenError(f"Cannot serve gateways on {address}: {error.strerror or error}") from error
        for each in sockets:
            self._servers.append(await asyncio.start_server(self._serve, sock=each, limit=_HEAD_BYTES))

    async def stop(self, seconds: float) -> None:
        """Take no more requests, and wait until those that run are answered, at most this many seconds."""
        self._is_stopping = True
        for server in self._servers:
            server.close()
        for task in self._waiting:
            self._connections[task].close()
        if self._connections:
            await asyncio.wait(self._connections, timeout=seconds)
        for task in list(self._connections):
            task.cancel()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None or len(self._connections) >= self._max_connections:
            writer.transport.abort()
            return
        self._connections[task] = writer
        try:
            # A gateway that is slow, closes the connection, or sends no valid request, gets no response.
            with suppress(TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
                end = monotonic() + self._max_age
                while await self._one(task, reader, writer, is_last=monotonic() > end):
                    pass
        except MalformedMessageError:
            writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        finally:
            del self._connections[task]
            writer.close()

    async def _one(
        self, task: asyncio.Task[object], reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_last: bool
    ) -> bool:
        """Serve one request of a connection; return whether there may be another."""
        self._waiting.add(task)
        try:
            async with asyncio.timeout(connections.IDLE_SECONDS):
                first = await reader.readexactly(1)
        finally:
            self._waiting.discard(task)
        async with asyncio.timeout(connections.HANDSHAKE_SECONDS):
            head = parse_head(first + await reader.readuntil(_END))
            body = await _body(head, reader)
        host, port, *_ = writer.get_extra_info("peername")
        peer = f"ipv6:%5B{host}%5D:{port}" if ":" in host else f"ipv4:{host}:{port}"
        response = await self._response(head, body, peer)
        is_last = is_last or self._is_stopping or "close" in head.values("connection")
        async with asyncio.timeout(connections.HANDSHAKE_SECONDS):
            writer.write(_encoded(response, is_last=is_last) if response is not None else _NOT_FOUND)
            await writer.drain()
        return not is_last and response is not None

    async def _response(self, head: Head, body: bytes, peer: str) -> HttpResponse | None:
        """Return the response to a request; None if there is no such path."""
        if head.path not in PATHS or head.method != "GET":
            return None
        try:
            if len(self._connections) - len(self._waiting) > self._max_calls:
                self._metrics.refuse(CHECK)
                raise BusyError
            answer = auth_pb2.CheckResponse.FromString(await self._check(HttpCall(head, body, peer)))
        except KeysError as error:
            return failed(error)
        (target,) = head.values(PATHS[head.path].target)
        return decided(answer, target)


async def _body(head: Head, reader: asyncio.StreamReader) -> bytes:
    lengths = head.values("content-length")
    if not lengths and not head.values("transfer-encoding"):
        return b""
    if len(lengths) != 1 or not (lengths[0].isascii() and lengths[0].isdigit()) or head.values("transfer-encoding"):
        raise MalformedMessageError("The length of the body is not known.")
    if len(lengths[0]) > len(str(METHODS["Check"])) or int(lengths[0]) > METHODS["Check"]:
        raise MalformedMessageError("The body is too long.")
    return await reader.readexactly(int(lengths[0]))


_NOT_FOUND = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def _encoded(response: HttpResponse, *, is_last: bool) -> bytes:
    body = response.body.encode()
    lines = [
        f"HTTP/1.1 {response.status.value} {response.status.phrase}",
        *(f"{name}: {value}" for name, value in response.headers),
        f"Content-Length: {len(body)}",
        *(["Connection: close"] if is_last else []),
    ]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
