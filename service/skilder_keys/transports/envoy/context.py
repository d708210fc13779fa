"""A call as an ASGI server tells of it."""

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
_CERTIFICATE_HEADER: Final = CERTIFICATE_HEADER.encode()


def is_grpc(scope: Event, headers: Mapping[bytes, bytes]) -> bool:
    """Tells whether what comes with such headers is a call of gRPC's at all."""
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
        """Tells whether it is a call of gRPC's at all."""
        return is_grpc(self._scope, self._headers)

    def credentials(self) -> str | None:
        """Answers the metadata `authorization`, or None without."""
        found = self._headers.get(b"authorization")
        return None if found is None else found.decode("latin-1")

    def certificate_names(self) -> Iterable[str]:
        """Answers the names in the client's certificate, which Envoy has verified."""
        return certificate_names(self._headers.get(_CERTIFICATE_HEADER, b"").decode("latin-1"))

    def peer(self) -> str:
        """Answers the client's address, as grpcio spells it."""
        host, port = self._scope["client"]
        return peer(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")

    async def read(self, max_bytes: int) -> bytes | None:
        """Return the one message, or None where there is none.

        Raises:
            MalformedMessageError: There are more messages than one, or what comes is none.
            MessageTooLongError: It is longer than may be, as it is or once it is decompressed.
            UnknownEncodingError: It is compressed in a way that is not known.
        """
        event = await (self._receive() if self._first is None else self._first)
        body: bytes = event["body"] if event.get("more_body") is False else await self._rest(event, max_bytes)
        self._was_read = True
        return unframed(body, self._headers.get(b"grpc-encoding"), max_bytes) if body else None

    def waits(self) -> bool:
        """Tells whether the call has waited since it was asked last, for other things than its request."""
        seen, self._was_seen = self._was_seen, True
        return seen and self._was_read

    def if_gone(self, act: Callable[[], object]) -> None:
        """Acts soon, if the client is gone.

        After the end of a request pyvoy does not let `receive` wait for that, but answers it at once.
        """

        def hear(heard: asyncio.Future[Event]) -> None:
            if not heard.cancelled() and heard.result()["type"] == "http.disconnect":
                act()

        asyncio.ensure_future(self._receive()).add_done_callback(hear)

    async def _rest(self, event: Event, max_bytes: int) -> bytes:
        """Answers a body that begins with this event."""
        body = bytearray()
        while event["type"] == "http.request":
            body += event["body"]
            if is_over(body, max_bytes) or not event["more_body"]:
                return bytes(body)
            event = await self._receive()
        raise asyncio.CancelledError  # the client is gone
