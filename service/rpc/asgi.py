"""The door in Envoy: serves methods as an ASGI application (https://asgi.readthedocs.io, with response trailers).

HTTP/2, TLS, flow control, deadlines and draining are Envoy's. What is left of gRPC over HTTP/2 for a unary call is a
frame around each message, and a status: in the trailers, or in the headers where there is no message.
"""

from __future__ import annotations

import asyncio
import base64
from typing import TYPE_CHECKING, Any, Final, NoReturn
from urllib.parse import quote

import grpc

from service.domain.errors import KeysError
from service.rpc.asgi_context import CONTENT_TYPE, Context, is_grpc
from service.rpc.eager import Begun, EagerTask
from service.rpc.framing import ENCODINGS, framed, plain
from service.rpc.status import trailing_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from service.domain.access import Caller
    from service.rpc.asgi_context import Event, Receive, Send
    from service.rpc.gate import AtOnce, Serve

_CONTENT_TYPE: Final = (b"content-type", CONTENT_TYPE)
_START: Final = {"type": "http.response.start", "status": 200, "headers": [_CONTENT_TYPE], "trailers": True}
_OK: Final = {"type": "http.response.trailers", "headers": [(b"grpc-status", b"0")]}
_WATCH_SECONDS = 0.05
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
    """Methods by their paths: `serve` is an ASGI application; `begin` is a faster one, for pyvoy alone.

    Attributes:
        on_short_way: The calls that are on the short way, all of which wait for their messages.
    """

    def __init__(
        self,
        methods: Mapping[str, Serve],
        at_once: Mapping[str, AtOnce],
        *,
        max_calls: int,
    ) -> None:
        """Is made in the event loop that calls come in by.

        Args:
            methods: The methods by their paths.
            at_once: Those of them that memory may be enough for.
            max_calls: The most calls at a time.
        """
        self._methods = {path.encode(): serve for path, serve in methods.items()}
        self._at_once = {path.encode(): each for path, each in at_once.items()}
        self._max_calls = max_calls
        # To find out the running loop costs a system call, of each call.
        self._loop = asyncio.get_running_loop()
        self._calls: dict[asyncio.Task[Any] | None, Context] = {}
        self.on_short_way: set[ShortWay] = set()

    def begin(self, scope: Event, receive: Receive, send: Send) -> Begun:
        """Begins to answer one call: by the short way, if it is one that may take it.

        No task may be running, and the loop must have `eager.task_factory`.
        """
        at_once = self._at_once.get(scope["raw_path"])
        if at_once is not None and self._has_room():
            headers: dict[bytes, bytes] = dict(scope["headers"])
            caller = at_once.caller(headers.get(b"authorization", b"").decode("latin-1"))
            if (
                caller is not None
                and is_grpc(scope, headers)
                and not scope["query_string"]
                # It is none where the headers end the request; then it can be asked for again.
                and isinstance(first := receive(), asyncio.Future)
            ):
                return ShortWay(self, scope, receive, send, first, at_once, caller)
        return self.full_way(scope, receive, send)

    def full_way(self, scope: Event, receive: Receive, send: Send, first: Awaitable[Event] | None = None) -> EagerTask:
        """Begins to serve one call, while no task is running.

        `first` is what the first `receive()` answered, where it was called already.
        """
        return EagerTask(self.serve(scope, receive, send, first), self._loop)

    async def serve(self, scope: Event, receive: Receive, send: Send, first: Awaitable[Event] | None = None) -> None:
        """Serves one call, as ASGI applications do; `first` is as in `full_way`."""
        context = Context(scope, receive, first)
        if not context.is_grpc():
            # As gRPC over HTTP/2 says: no status of gRPC's for whoever does not speak it.
            await send({"type": "http.response.start", "status": 415, "headers": []})
            await send({"type": "http.response.body"})
            return
        task = asyncio.current_task(self._loop)
        serve = self._method(scope)
        self._calls[task] = context
        try:
            reply = await serve(context)
        except KeysError as error:
            status = trailing_status(error)
            await _fail(send, status.code, status.details, status.trailing_metadata)
        except StatusError as error:
            await _fail(send, error.code, str(error))
        except asyncio.CancelledError:
            pass  # the client is gone
        else:
            for event in _answer(reply):
                await send(event)
        finally:
            del self._calls[task]

    async def watch(self) -> NoReturn:
        """Ends calls whose clients are gone, and has those that wait leave the short way, until it is cancelled."""
        waited: set[ShortWay] = set()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            for task, context in list(self._calls.items()):
                if task is not None and context.waits():
                    context.if_gone(task.cancel)
            for call in self.on_short_way & waited:
                self._loop.call_soon(call.leave)  # not now, in a task
            waited = set(self.on_short_way)

    def _has_room(self) -> bool:
        return len(self._calls) + len(self.on_short_way) < self._max_calls

    def _method(self, scope: Event) -> Serve:
        if not self._has_room():
            return _one_too_many
        # As it was sent, since other spellings are other methods to gRPC.
        found = self._methods.get(scope["raw_path"])
        return _unknown if found is None or scope["query_string"] else found


class ShortWay(Begun):
    """A call that memory may be enough for: it waits for its message, and is answered then and there, in no task.

    What is not answered from memory, or waits for longer than it takes, goes the full way from there. So this way needs
    no time limit, and has nothing to log. Nothing on it may raise: nobody would hear of it, and the call would hang.
    """

    __slots__ = ("_at_once", "_caller", "_first", "_methods", "_on_done", "_receive", "_scope", "_send")

    def __init__(
        self,
        methods: Methods,
        scope: Event,
        receive: Receive,
        send: Send,
        first: asyncio.Future[Event],
        at_once: AtOnce,
        caller: Caller,
    ) -> None:
        self._methods = methods
        self._scope = scope
        self._receive = receive
        self._send = send
        self._first = first
        self._at_once = at_once
        self._caller = caller
        methods.on_short_way.add(self)
        first.add_done_callback(self._decide)

    def add_done_callback(self, on_done: Callable[[EagerTask], object]) -> None:
        """Has this called when the call has ended by the full way; there is nothing to tell of the other."""
        self._on_done = on_done

    def leave(self) -> None:
        """Goes the full way, unless the message has come; while no task is running."""
        if not self._first.done():
            self._first.remove_done_callback(self._decide)
            self._methods.on_short_way.remove(self)
            self._go_on()

    def _decide(self, first: asyncio.Future[Event]) -> None:
        self._methods.on_short_way.remove(self)
        event = first.result()
        message = plain(event["body"], self._at_once.max_bytes) if event.get("more_body") is False else None
        reply = None if message is None else self._at_once.answer(message, self._caller)
        if reply is None:
            self._go_on()
            return
        for part in _answer(reply):
            self._send(part)  # pyvoy does at the call what it does; there is nothing to wait for

    def _go_on(self) -> None:
        task = self._methods.full_way(self._scope, self._receive, self._send, self._first)
        task.add_done_callback(self._on_done)


async def _unknown(_context: object) -> bytes:
    raise StatusError(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def _one_too_many(_context: object) -> bytes:
    raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")


def _answer(reply: bytes) -> tuple[Event, ...]:
    """Answers what is to be sent where all went well."""
    return _START, {"type": "http.response.body", "body": framed(reply)}, _OK


async def _fail(
    send: Send, code: grpc.StatusCode, message: str, metadata: Iterable[tuple[str, Any]] | None = None
) -> None:
    """Answers a status without a message, all of it in the headers."""
    headers = [
        _CONTENT_TYPE,
        (b"grpc-accept-encoding", ENCODINGS),
        (b"grpc-status", b"%d" % code.value[0]),
        (b"grpc-message", quote(message, safe=_UNESCAPED).encode("ascii")),
        *((name.encode("ascii"), base64.b64encode(value).rstrip(b"=")) for name, value in metadata or ()),
    ]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body"})
