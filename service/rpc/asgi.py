"""The door in Envoy: serves methods as an ASGI application (https://asgi.readthedocs.io, with response trailers).

HTTP/2, TLS, flow control, deadlines and draining are Envoy's. What is left of gRPC over HTTP/2 for a unary call is five
bytes before each message, and a status: in the trailers, or in the headers where there is no message.
"""

from __future__ import annotations

import asyncio
import base64
import re
import zlib
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import quote

import grpc

from service.domain.errors import KeysError, MalformedMessageError, MessageTooLongError, UnknownEncodingError
from service.rpc.forwarded import CERTIFICATE_HEADER, certificate_names, peer
from service.rpc.status import trailing_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from service.rpc.gate import AtOnce, Serve

    Event = dict[str, Any]
    Receive = Callable[[], Awaitable[Event]]
    Send = Callable[[Event], Awaitable[None]]

_HEAD_BYTES = 5
_CONTENT_TYPE: Final = (b"content-type", b"application/grpc")
_ACCEPTED: Final = (b"grpc-accept-encoding", b"identity,gzip")
_START: Final = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE], "trailers": True}
_OK: Final = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_NEVER: Final[Event] = {}
_CERTIFICATE_HEADER: Final = CERTIFICATE_HEADER.encode()
_IS_GRPC = re.compile(rb"application/grpc(?:[+;].*)?")
_WATCH_SECONDS = 0.05
_GZIP = 31  # zlib's window for the gzip format
_UNESCAPED = "".join(map(chr, range(0x20, 0x7F))).replace("%", "")


class StatusError(Exception):
    """The call ends with a status of the transport's own.

    Attributes:
        code: The status code.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class Methods:
    """Methods by their paths, as an ASGI application."""

    def __init__(
        self,
        methods: Mapping[str, Serve],
        at_once: Mapping[str, AtOnce],
        *,
        max_message_bytes: int,
        max_calls: int,
    ) -> None:
        """Is made in the event loop that calls come in by.

        Args:
            methods: The methods by their paths.
            at_once: Those of them that memory may be enough for.
            max_message_bytes: The longest message that is read, also once it is decompressed.
            max_calls: The most calls at a time.
        """
        self._methods = {path.encode(): (serve, at_once.get(path)) for path, serve in methods.items()}
        self._max_message_bytes = max_message_bytes
        self._max_calls = max_calls
        # To find out the running loop costs a system call, of each call.
        self._loop = asyncio.get_running_loop()
        self._calls: dict[asyncio.Task[Any] | None, Context] = {}

    async def __call__(self, scope: Event, receive: Receive, send: Send) -> None:
        """Answers one call."""
        context = Context(scope, receive, self._max_message_bytes)
        if not context.is_grpc():
            # As gRPC over HTTP/2 says: no status of gRPC's for whoever does not speak it.
            await send({"type": "http.response.start", "status": 415, "headers": []})
            await send({"type": "http.response.body"})
            return
        task = asyncio.current_task(self._loop)
        serve, at_once = self._method(scope)
        self._calls[task] = context
        try:
            reply = None if at_once is None else await at_once(context)
            if reply is None:
                reply = await serve(context)
        except KeysError as error:
            status = trailing_status(error)
            await _fail(send, status.code, status.details, status.trailing_metadata)
        except StatusError as error:
            await _fail(send, error.code, str(error))
        except asyncio.CancelledError:
            pass  # the client is gone
        else:
            await send(_START)
            framed = b"".join((b"\0", len(reply).to_bytes(4, "big"), reply))
            await send({"type": "http.response.body", "body": framed})
            await send(_OK)
        finally:
            del self._calls[task]

    def _method(self, scope: Event) -> tuple[Serve, AtOnce | None]:
        if len(self._calls) >= self._max_calls:
            return _one_too_many, None
        # As it was sent, since other spellings are other methods to gRPC.
        found = self._methods.get(scope["raw_path"])
        return (_unknown, None) if found is None or scope["query_string"] else found

    async def watch(self) -> NoReturn:
        """Ends calls whose clients are gone, until it is cancelled."""
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            for task, context in list(self._calls.items()):
                if task is not None and context.waits():
                    context.if_gone(task.cancel)


class Context:
    """A call, as `gate.Context` has it."""

    __slots__ = ("_first", "_headers", "_max_message_bytes", "_receive", "_scope", "_was_read", "_was_seen")

    def __init__(self, scope: Event, receive: Receive, max_message_bytes: int) -> None:
        self._scope = scope
        self._headers: dict[bytes, bytes] = dict(scope["headers"])
        self._receive = receive
        self._max_message_bytes = max_message_bytes
        self._first: Event | None = None
        self._was_read = self._was_seen = False

    def is_grpc(self) -> bool:
        """Tells whether it is a call of gRPC's at all."""
        kind = self._headers.get(b"content-type", b"")
        return self._scope["method"] == "POST" and (kind == _CONTENT_TYPE[1] or _IS_GRPC.fullmatch(kind) is not None)

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

    async def whole(self) -> bytes | None:
        """Answers the message, where it comes at once and as it is; None for all else, which `read` can still tell.

        When its time is over while it waits, `read` raises TimeoutError.
        """
        self._first = _NEVER
        event = self._first = await self._receive()
        if event.get("more_body") is not False:
            return None
        body: bytes = event["body"]
        length = len(body) - _HEAD_BYTES
        if not 0 < length <= self._max_message_bytes or body[0] or int.from_bytes(body[1:_HEAD_BYTES], "big") != length:
            return None
        return body[_HEAD_BYTES:]

    async def read(self) -> bytes | None:
        """Answers the one message, or None where there is none.

        Raises:
            MalformedMessageError: There are more messages than one, or what comes is none.
            MessageTooLongError: It is longer than may be, as it is or once it is decompressed.
            TimeoutError: `whole` has waited for it for too long.
            UnknownEncodingError: It is compressed in a way that is not known.
        """
        event = await self._receive() if self._first is None else self._first
        if event is _NEVER:
            raise TimeoutError
        body: bytes = event["body"] if event.get("more_body") is False else await self._rest(event)
        self._was_read = True
        if not body:
            return None
        length = int.from_bytes(body[1:_HEAD_BYTES], "big")
        if length > self._max_message_bytes:
            raise self._too_long(length)
        if len(body) != _HEAD_BYTES + length or body[0] > 1:
            raise MalformedMessageError(_fault(body, length))
        message = body[_HEAD_BYTES:]
        return self._decompressed(message) if body[0] else message

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

    async def _rest(self, event: Event) -> bytes:
        """Answers a body that begins with this event."""
        parts = bytearray()
        while event["type"] == "http.request":
            parts += event["body"]
            length = int.from_bytes(parts[1:_HEAD_BYTES], "big")
            if length > self._max_message_bytes:
                raise self._too_long(length)
            if not event["more_body"] or len(parts) > _HEAD_BYTES + length:
                return bytes(parts)
            event = await self._receive()
        raise asyncio.CancelledError  # the client is gone

    def _decompressed(self, message: bytes) -> bytes:
        if self._headers.get(b"grpc-encoding") != b"gzip":
            raise UnknownEncodingError("grpc-encoding must be identity or gzip.")
        stream = zlib.decompressobj(_GZIP)
        try:
            found = stream.decompress(message, self._max_message_bytes + 1)
        except zlib.error:
            raise MalformedMessageError("The message is not compressed as it says.") from None
        if len(found) > self._max_message_bytes:
            raise self._too_long(len(found))
        if not stream.eof or stream.unused_data:
            raise MalformedMessageError("The message is not compressed as it says.")
        return found

    def _too_long(self, length: int) -> MessageTooLongError:
        # In grpcio's words.
        return MessageTooLongError(f"Received message larger than max ({length} vs. {self._max_message_bytes})")


async def _unknown(_context: object) -> bytes:
    raise StatusError(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def _one_too_many(_context: object) -> bytes:
    raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")


def _fault(body: bytes, length: int) -> str:
    if body[0] > 1:
        return "The message's first byte is neither 0 nor 1."
    if len(body) < _HEAD_BYTES + length:
        return "The message is shorter than it says."
    return "The call has more than one message."


async def _fail(
    send: Send, code: grpc.StatusCode, message: str, metadata: Iterable[tuple[str, Any]] | None = None
) -> None:
    """Answers a status without a message, all of it in the headers."""
    headers = [
        _CONTENT_TYPE,
        _ACCEPTED,
        (b"grpc-status", b"%d" % code.value[0]),
        (b"grpc-message", quote(message, safe=_UNESCAPED).encode("ascii")),
        *((name.encode("ascii"), base64.b64encode(value).rstrip(b"=")) for name, value in metadata or ()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body"})
