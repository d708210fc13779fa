"""Public methods, served by grpcio within a small budget of their own.

They take no credentials, so they do not pass the pipeline. A call has a place until it ends or, for a lasting call such
as a watch, until its request has come. A good client needs the place for a moment. So where all places are taken, the
call that has had its place for the longest time is ended, and the new one gets the place: a stranger who opens very
many calls and sends nothing is only in its own way. Lasting calls are counted separately. To end one of them would harm
its client, so a new one is rejected.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc
from google.protobuf.message import DecodeError

from skilder_keys.rpc.errors import StatusError
from skilder_keys.rpc.limits import MAX_BYTES
from skilder_keys.transports import forwarded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator, MutableMapping

    from skilder_keys.rpc.public import PublicCall, PublicMethod, Request

    ServicerContext = grpc.aio.ServicerContext[Any, bytes]


@dataclass(frozen=True, slots=True)
class PublicLimits:
    """How much of the service anybody may take up, in each worker.

    Attributes:
        calls: The most calls at a time, those that go on left out.
        calls_of_connection: The most of them on one connection.
        seconds: How long such a call may take.
        lasting: The most calls that go on at a time.
        lasting_of_connection: The most of them on one connection.
        lasting_seconds: How long a call that goes on may take.
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
        """Return the next request; None where the client sends no more.

        Raises:
            StatusError: What the client sends is no request.
        """
        body = await self._context.read()
        if not isinstance(body, bytes):  # gRPC's mark of the end
            return None
        if len(body) > MAX_BYTES:
            words = f"Received message larger than max ({len(body)} vs. {MAX_BYTES})"
            raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, words)
        try:
            return request_type.FromString(body)
        except DecodeError:
            raise StatusError(grpc.StatusCode.INVALID_ARGUMENT, "This is no request of this method.") from None

    async def write(self, response: bytes) -> None:
        """Send a response."""
        await self._context.write(response)


class PublicMethods(grpc.GenericRpcHandler):
    """The methods by their paths. Calls are counted as `Pipeline.calls` counts them."""

    def __init__(
        self, methods: Iterable[PublicMethod], calls: MutableMapping[tuple[str, str], int], *, behind_envoy: bool
    ) -> None:
        """Take the methods, where calls are counted, and whether all calls come from Envoy."""
        self._limits = PublicLimits()
        self._calls = calls
        self._behind_envoy = behind_envoy
        self._handlers = {each.path: self._handler(each) for each in methods}
        self._places: dict[asyncio.Task[object], str] = {}  # each call's connection, the oldest call first
        self._evicted: set[asyncio.Task[object]] = set()
        self._lasting: Counter[str] = Counter()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Return what serves a call."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, method: PublicMethod) -> grpc.RpcMethodHandler[bytes, bytes]:
        async def handle(_messages: object, context: ServicerContext) -> None:
            code = "CANCELLED"
            try:
                await self._serve(GrpcioPublicCall(context), self._connection(context), method)
                code = "OK"
            except StatusError as error:
                code = error.code.name
                await context.abort(error.code, str(error))
            finally:
                self._calls[method.label, code] += 1

        return grpc.stream_stream_rpc_method_handler(handle)

    async def _serve(self, call: PublicCall, connection: str, method: PublicMethod) -> None:
        async with _limited(self._limits.seconds):
            with self._place(connection):
                request = await call.read(method.request_type)
                if request is None:
                    raise StatusError(grpc.StatusCode.INVALID_ARGUMENT, "The request has no message.")
                if not method.lasting:
                    await method.serve(call, request)
                    return
        with self._lasting_place(connection):
            async with _limited(self._limits.lasting_seconds):
                await method.serve(call, request)

    @contextmanager
    def _place(self, connection: str) -> Iterator[None]:
        task = asyncio.current_task()
        if task is None:
            raise LookupError("a call is served in a task")
        of_connection = [each for each, its in self._places.items() if its == connection]
        if len(of_connection) >= self._limits.calls_of_connection:
            self._evict(of_connection[0])
        elif len(self._places) >= self._limits.calls:
            self._evict(next(iter(self._places)))
        self._places[task] = connection
        try:
            yield
        except asyncio.CancelledError:
            if task in self._evicted and task.uncancel() == 0:
                words = "Others have come since, and this call has taken its place for longest."
                raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, words) from None
            raise
        finally:
            self._places.pop(task, None)
            self._evicted.discard(task)

    def _evict(self, task: asyncio.Task[object]) -> None:
        del self._places[task]
        self._evicted.add(task)
        task.cancel()

    @contextmanager
    def _lasting_place(self, connection: str) -> Iterator[None]:
        limits = self._limits
        if self._lasting[connection] >= limits.lasting_of_connection or self._lasting.total() >= limits.lasting:
            raise StatusError(grpc.StatusCode.RESOURCE_EXHAUSTED, "There are as many of these calls as there may be.")
        self._lasting[connection] += 1
        try:
            yield
        finally:
            self._lasting[connection] -= 1
            if not self._lasting[connection]:
                del self._lasting[connection]

    def _connection(self, context: ServicerContext) -> str:
        """Return the client's end of the connection that a call came by."""
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
        words = f"This call may take {seconds:g} s."
        raise StatusError(grpc.StatusCode.DEADLINE_EXCEEDED, words) from None
