"""A call in the form in which an ASGI server passes it on."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any, Final

from skilder_keys.transports.forwarded import CERTIFICATE_HEADER, certificate_names, peer
from skilder_keys.transports.framing import is_over, unframed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    Event = dict[str, Any]
    Receive = Callable[[], Awaitable[Event]]
    Send = Callable[[Event], Awaitable[None]]

CONTENT_TYPE: Final = b"application/grpc"
_IS_GRPC = re.compile(rb"application/grpc(?:[+;].*)?")
_TIMEOUT_UNITS: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_CERTIFICATE_HEADER: Final = CERTIFICATE_HEADER.encode()


def is_grpc(scope: Event, headers: Mapping[bytes, bytes]) -> bool:
    """Return whether a request with these headers is a gRPC call."""
    kind = headers.get(b"content-type", b"")
    return scope["method"] == "POST" and (kind == CONTENT_TYPE or _IS_GRPC.fullmatch(kind) is not None)


class AsgiContext:
    """A call, as `rpc.context.Context` describes it."""

    __slots__ = ("_first", "_headers", "_receive", "_scope", "_was_read", "_was_seen")

    def __init__(self, scope: Event, receive: Receive, first: Awaitable[Event] | None) -> None:
        self._scope = scope
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._first = first
        self._was_read = self._was_seen = False

    def is_grpc(self) -> bool:
        """Return whether this is a gRPC call."""
        return is_grpc(self._scope, self._headers)

    def credentials(self) -> str | None:
        """Return the metadata `authorization`, or None without it."""
        return self.metadata("authorization")

    def metadata(self, name: str) -> str | None:
        """Return a value of the metadata, or None without it."""
        found = self._headers.get(name.encode())
        return None if found is None else found.decode("latin-1")

    def certificate_names(self) -> Iterable[str]:
        """Return the names in the client's certificate, if Envoy has verified one."""
        return certificate_names(self._headers.get(_CERTIFICATE_HEADER, b"").decode("latin-1"))

    def peer(self) -> str:
        """Return the client's address, in grpcio's form."""
        host, port = self._scope["client"]
        return peer(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    def time_remaining(self) -> float | None:
        """Return how many seconds the client waits, from when it sent the call; None if it has no deadline."""
        value = self._headers.get(b"grpc-timeout", b"")
        unit = _TIMEOUT_UNITS.get(value[-1:])
        return int(value[:-1]) * unit if unit is not None and value[:-1].isdigit() else None

    async def read(self, max_bytes: int) -> bytes | None:
        """Return the message of the call, or None if the call has no message.

        Raises:
            MalformedMessageError: The body is not exactly one valid message.
            MessageTooLongError: The message is too long, compressed or decompressed.
            UnknownEncodingError: The compression is not supported.
        """
        body = await self._body(max_bytes)
        return unframed(body, self._headers.get(b"grpc-encoding"), max_bytes) if body else None

    async def _body(self, max_bytes: int) -> bytes:
        event = await (self._receive() if self._first is None else self._first)
        body: bytes = event["body"] if event.get("more_body") is False else await self._rest(event, max_bytes)
        self._was_read = True
        return body

    def waits(self) -> bool:
        """Return whether the call has its request, and was already running when this method was last called."""
        seen, self._was_seen = self._was_seen, True
        return seen and self._was_read

    def on_disconnect(self, act: Callable[[], object]) -> None:
        """Call `act` soon if the client has disconnected by now.

        After the end of the request, pyvoy's `receive` returns at once. It does not wait until the client disconnects.
        """

        def check(received: asyncio.Future[Event]) -> None:
            if not received.cancelled() and received.result()["type"] == "http.disconnect":
                act()

        asyncio.ensure_future(self._receive()).add_done_callback(check)

    async def _rest(self, event: Event, max_bytes: int) -> bytes:
        """Read the rest of a body that begins with this event, and return all of it, or as much as is surely wrong."""
        body = bytearray()
        while event["type"] == "http.request":
            body += event["body"]
            if self._is_over(body, max_bytes) or not event["more_body"]:
                return bytes(body)
            event = await self._receive()
        raise asyncio.CancelledError  # the client has disconnected

    def _is_over(self, body: bytearray, max_bytes: int) -> bool:
        return is_over(body, max_bytes)
