"""Public methods, which grpcio serves within a small budget of their own.

They need no credentials, so they do not pass the pipeline. A call holds a slot until it ends or, for a lasting call
such as a watch, until its request has arrived. A well-behaved client needs a slot only for a moment. So if all slots
are in use, the call that has held its slot longest is ended, and the new call gets the slot: an attacker who opens many
calls and sends nothing evicts mostly its own calls. Lasting calls have a separate limit. Ending one of them would harm
its client, so a new one is rejected.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from skilder_keys.rpc.errors import StatusError, too_long
from skilder_keys.rpc.limits import MAX_BYTES
from skilder_keys.transports import forwarded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

    from skilder_keys.rpc.call_metrics import CallMetrics
    from skilder_keys.rpc.public import PublicCall, PublicMethod, Request

    ServicerContext = grpc.aio.ServicerContext[Any, bytes]


@dataclass(frozen=True, slots=True)
class PublicLimits:
    """The limits for public calls in each worker.

    Attributes:
        calls: The most calls at the same time, without lasting calls.
        calls_of_connection: The most of these on one connection.
        seconds: The most seconds that such a call may take.
        lasting: The most lasting calls at the same time.
        lasting_of_connection: The most of these on one connection.
        lasting_seconds: The most seconds that a lasting call may take.
    """

    calls: int = 100
    calls_of_connection: int = 20
    seconds: float = 5.0
    lasting: int = 500
    lasting_of_connection: int = 10
    lasting_seconds: float = 120.0


class GrpcioPublicCall:
    """A call, as `PublicCall` describes it."""

    def __init__(self, context: ServicerContext) -> None:
        self._context = context

    async def read(self, request_type: type[Request]) -> Request | None:
        """Return the next request, or None if the client sends no more.

        Raises:
            StatusError: The message is too long, or not a request of this type.
        """
        body = await self._context.read()
        if not isinstance(body, bytes):  # grpc.aio.EOF
            return None
        if len(body) > MAX_BYTES:
            raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, str(too_long(len(body), MAX_BYTES)))
        try:
            return request_type.FromString(body)
        except DecodeError:
            text = "The message is not a valid request of this method."
            raise StatusError(grpc.StatusCode.INVALID_ARGUMENT, text) from None

    async def write(self, response: bytes) -> None:
        """Send a response."""
        await self._context.write(response)


class PublicMethods(grpc.GenericRpcHandler):
    """The public methods by path. Calls are counted as `Pipeline.calls` counts them."""

    def __init__(self, methods: Iterable[PublicMethod], calls: CallMetrics, *, behind_envoy: bool) -> None:
        """Create the handlers.

        Args:
            methods: The methods.
            calls: The metrics to which these calls are added.
            behind_envoy: Whether all calls come from Envoy, which reports the client in headers.
        """
        self._limits = PublicLimits()
        self._calls = calls
        self._behind_envoy = behind_envoy
        self._handlers = {each.path: self._handler(each) for each in methods}
        self._slots: dict[asyncio.Task[object], str] = {}  # each call's connection, the oldest call first
        self._evicted: set[asyncio.Task[object]] = set()
        self._lasting: Counter[str] = Counter()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Return the handler of a call, or None for an unknown method."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, method: PublicMethod) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def handle(_messages: object, context: ServicerContext) -> None:
            began = perf_counter()
            code = "CANCELLED"
            try:
                await self._serve(GrpcioPublicCall(context), self._connection(context), method)
                code = "OK"
            except StatusError as error:
                code = error.code.name
                await context.abort(error.code, str(error))
            finally:
                self._calls.latency(method.label, code).note_since(began)

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _serve(self, call: PublicCall, connection: str, method: PublicMethod) -> None:
        async with _limited(self._limits.seconds):
            with self._slot(connection):
                request = await call.read(method.request_type)
                if request is None:
                    raise StatusError(grpc.StatusCode.INVALID_ARGUMENT, "The request has no message.")
                if not method.lasting:
                    await method.serve(call, request)
                    return
        with self._lasting_slot(connection):
            async with _limited(self._limits.lasting_seconds):
                await method.serve(call, request)

    @contextmanager
    def _slot(self, connection: str) -> Iterator[None]:
        task = asyncio.current_task()
        if task is None:
            raise LookupError("a call is served in a task")
        of_connection = [each for each, its in self._slots.items() if its == connection]
        if len(of_connection) >= self._limits.calls_of_connection:
            self._evict(of_connection[0])
        elif len(self._slots) >= self._limits.calls:
            self._evict(next(iter(self._slots)))
        self._slots[task] = connection
        try:
            yield
        except asyncio.CancelledError:
            if task in self._evicted and task.uncancel() == 0:
                text = "Too many calls without credentials: this one waited longest and was ended."
                raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, text) from None
            raise
        finally:
            self._slots.pop(task, None)
            self._evicted.discard(task)

    def _evict(self, task: asyncio.Task[object]) -> None:
        del self._slots[task]
        self._evicted.add(task)
        task.cancel()

    @contextmanager
    def _lasting_slot(self, connection: str) -> Iterator[None]:
        limits = self._limits
        if self._lasting[connection] >= limits.lasting_of_connection or self._lasting.total() >= limits.lasting:
            text = "Too many lasting calls without credentials: end one, or try again later."
            raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, text)
        self._lasting[connection] += 1
        try:
            yield
        finally:
            self._lasting[connection] -= 1
            if not self._lasting[connection]:
                del self._lasting[connection]

    def _connection(self, context: ServicerContext) -> str:
        """Return the client's address and port, which identify the connection of a call."""
        if not self._behind_envoy:
            return context.peer()
        metadata: Any = context.invocation_metadata() or ()
        return next((str(value) for name, value in metadata if name == forwarded.PEER_HEADER), "")


@asynccontextmanager
async def _limited(seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        text = f"The call took longer than {seconds:g} s, the limit without credentials."
        raise StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, text) from None
