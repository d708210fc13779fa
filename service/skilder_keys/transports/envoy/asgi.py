"""Serve methods as an ASGI application (https://asgi.readthedocs.io, with response trailers), for Envoy.

Envoy does HTTP/2, TLS, flow control, deadlines and draining. What remains of gRPC over HTTP/2 for a unary call is the
frame around each message, and the status.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from skilder_keys.domain.errors import KeysError
from skilder_keys.rpc.errors import TOO_MANY_CALLS, StatusError
from skilder_keys.rpc.status import trailing_status
from skilder_keys.transports.envoy.context import AsgiContext, is_grpc
from skilder_keys.transports.envoy.fast_call import FastCall
from skilder_keys.transports.envoy.response import NOT_GRPC, events_of, failure_events

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Iterable, Mapping

    from skilder_keys.rpc.call_metrics import CallMetrics
    from skilder_keys.rpc.fast_path import FastPath
    from skilder_keys.rpc.pipeline import Serve
    from skilder_keys.transports.envoy.context import Event, Receive, Send
    from skilder_keys.transports.envoy.json_calls import JsonMethods

_WATCH_SECONDS = 0.05


class AsgiMethods:
    """The methods by path. `serve` is an ASGI application; `start_call` is a faster variant that only pyvoy can use.

    Attributes:
        fast_calls: The calls on the fast path that wait for their messages.
    """

    def __init__(
        self,
        methods: Mapping[str, Serve],
        fast_paths: Mapping[str, FastPath],
        metrics: CallMetrics,
        *,
        max_calls: int,
        json: JsonMethods | None = None,
    ) -> None:
        """Take the methods. Call this in the event loop that will receive the calls.

        Args:
            methods: The methods by path.
            fast_paths: The fast paths that some of them have, by path.
            metrics: Counts the calls that are refused.
            max_calls: The most calls at the same time.
            json: Serves requests with JSON; without it, they are refused.
        """
        self._json = json
        self._metrics = metrics
        self._methods = {path.encode(): serve for path, serve in methods.items()}
        self._fast_paths = {path.encode(): each for path, each in fast_paths.items()}
        self._max_calls = max_calls
        # Keep the loop: asking for the running loop costs a system call, which would be made for every call.
        self._loop = asyncio.get_running_loop()
        self._calls: dict[asyncio.Task[Any] | None, AsgiContext] = {}
        self.fast_calls: set[FastCall] = set()

    def start_call(self, scope: Event, receive: Receive, send: Send) -> FastCall | Coroutine[Any, Any, None]:
        """Start one call on the fast path if that is possible; otherwise return a coroutine that serves it.

        The loop that makes a task of the result must have `fast_call.task_factory`.
        """
        fast_path = self._fast_paths.get(scope["raw_path"])
        if fast_path is not None and self._has_room():
            headers: dict[bytes, bytes] = dict(scope["headers"])
            caller = fast_path.caller(headers.get(b"authorization", b"").decode("latin-1"))
            if (
                caller is not None
                and is_grpc(scope, headers)
                and not scope["query_string"]
                # If the headers end the request, this is not a future, and `receive` can be called again.
                and isinstance(first := receive(), asyncio.Future)
            ):
                slow = partial(self._start_task, scope, receive, send, first)
                return FastCall(fast_path, caller, first, send, slow, self.fast_calls)
        return self.serve(scope, receive, send)

    def _start_task(self, scope: Event, receive: Receive, send: Send, first: Awaitable[Event]) -> asyncio.Task[None]:
        return self._loop.create_task(self.serve(scope, receive, send, first))

    async def serve(self, scope: Event, receive: Receive, send: Send, first: Awaitable[Event] | None = None) -> None:
        """Serve one call, as an ASGI application does.

        `first` is the result of the first `receive()`, if that was called already.
        """
        context = AsgiContext(scope, receive, first)
        if context.is_grpc():
            events = await self._grpc_events(scope, context)
        elif self._json is not None:
            events = await self._json.events(scope, receive, first, self._run)
        else:
            events = NOT_GRPC
        for event in events:
            await send(event)

    async def _grpc_events(self, scope: Event, context: AsgiContext) -> Iterable[Event]:
        try:
            return events_of(await self._result(self._method(scope), context))
        except KeysError as error:
            status = trailing_status(error)
            return failure_events(status.code, status.details, status.trailing_metadata)
        except StatusError as error:
            return failure_events(error.code, str(error))
        except asyncio.CancelledError:
            return ()  # the client has disconnected

    async def _run(self, path: str, serve: Serve, context: AsgiContext) -> bytes:
        return await self._result(self._admitted(path, serve), context)

    async def _result(self, serve: Serve, context: AsgiContext) -> bytes:
        """Return the response of a method. Meanwhile, the call ends if its client disconnects."""
        task = asyncio.current_task(self._loop)
        self._calls[task] = context
        try:
            return await serve(context)
        finally:
            del self._calls[task]

    async def watch(self) -> NoReturn:
        """Until cancelled, end calls whose clients have disconnected, and move waiting fast calls to the pipeline."""
        waited: set[FastCall] = set()
        while True:
            await asyncio.sleep(_WATCH_SECONDS)
            for task, context in list(self._calls.items()):
                if task is not None and context.waits():
                    context.on_disconnect(task.cancel)
            for call in self.fast_calls & waited:
                call.fall_back()
            waited = set(self.fast_calls)

    def _has_room(self) -> bool:
        return len(self._calls) + len(self.fast_calls) < self._max_calls

    def _method(self, scope: Event) -> Serve:
        # Use the path as it was sent: to gRPC, another spelling is another method.
        path: bytes = scope["raw_path"]
        found = self._methods.get(path)
        if found is None or scope["query_string"]:
            return _unknown
        return self._admitted(path.decode(), found)

    def _admitted(self, path: str, serve: Serve) -> Serve:
        """Return the method, or what refuses a call over the limit."""
        if self._has_room():
            return serve
        self._metrics.refuse(path)
        return _too_many_calls


async def _unknown(_context: object) -> bytes:
    raise StatusError(grpc.StatusCode.UNIMPLEMENTED, "Method not found!")


async def _too_many_calls(_context: object) -> bytes:
    raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_CALLS)
