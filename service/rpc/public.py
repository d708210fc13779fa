"""Methods that anybody may call: health and reflection.

They take no credentials, so they do not pass the pipeline, and have a small budget of their own. A call has a place
until it ends or, where it goes on as a watch does, until its request has come. A good client needs the place for a
moment. So where all places are taken, the call that has had its place for the longest time is ended, and the new one
gets it: a stranger who opens very many calls and sends nothing is only in its own way. Calls that go on are counted by
themselves. To end one of those would harm its client, so a new one is refused.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message

from service.rpc import forwarded
from service.rpc.limits import MAX_BYTES

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping

    ServicerContext = grpc.aio.ServicerContext[Any, bytes]

Request = TypeVar("Request", bound=Message)


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


class RefusedError(Exception):
    """The call ends with this status.

    Attributes:
        code: The status code.
    """

    def __init__(self, code: grpc.StatusCode, message: str) -> None:
        super().__init__(message)
        self.code = code


class PublicCall:
    """A call of a method that anybody may call."""

    def __init__(self, context: ServicerContext) -> None:
        self._context = context

    async def read(self, request_type: type[Request]) -> Request | None:
        """Return the next request; None where the client sends no more.

        Raises:
            RefusedError: What it sends is none.
        """
        body = await self._context.read()
        if not isinstance(body, bytes):  # gRPC's mark of the end
            return None
        if len(body) > MAX_BYTES:
            words = f"Received message larger than max ({len(body)} vs. {MAX_BYTES})"
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, words)
        try:
            return request_type.FromString(body)
        except DecodeError:
            raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "This is no request of this method.") from None

    async def write(self, response: bytes) -> None:
        """Send a response."""
        await self._context.write(response)


class PublicMethods(grpc.GenericRpcHandler):
    """The methods by their paths.

    A method is a function of the call and its first request. `calls` counts them, as `gate.Gate.calls` does.
    """

    def __init__(
        self, limits: PublicLimits, calls: MutableMapping[tuple[str, str], int], *, behind_envoy: bool = False
    ) -> None:
        """Take the limits, where calls are counted, and whether all of them come from Envoy."""
        self._limits = limits
        self._calls = calls
        self._behind_envoy = behind_envoy
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {}
        self._places: dict[asyncio.Task[object], str] = {}  # each call's connection, the oldest call first
        self._evicted: set[asyncio.Task[object]] = set()
        self._lasting: Counter[str] = Counter()

    def add(
        self,
        path: str,
        request_type: type[Request],
        method: Callable[[PublicCall, Request], Awaitable[None]],
        *,
        lasting: bool = False,
    ) -> None:
        """Add a method; a lasting one goes on until its client has enough."""
        service, _, name = path.removeprefix("/").partition("/")
        label = f"{service.rpartition('.')[2]}/{name}"

        async def handle(_messages: object, context: ServicerContext) -> None:
            code = "CANCELLED"
            try:
                await self._serve(PublicCall(context), self._connection(context), request_type, method, lasting=lasting)
                code = "OK"
            except RefusedError as error:
                code = error.code.name
                await context.abort(error.code, str(error))
            finally:
                self._calls[label, code] += 1

        self._handlers[path] = grpc.stream_stream_rpc_method_handler(handle)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Return what serves a call."""
        return self._handlers.get(handler_call_details.method)

    async def _serve(
        self,
        call: PublicCall,
        connection: str,
        request_type: type[Request],
        method: Callable[[PublicCall, Request], Awaitable[None]],
        *,
        lasting: bool,
    ) -> None:
        async with _limited(self._limits.seconds):
            with self._place(connection):
                request = await call.read(request_type)
                if request is None:
                    raise RefusedError(grpc.StatusCode.INVALID_ARGUMENT, "The request has no message.")
                if not lasting:
                    await method(call, request)
                    return
        with self._lasting_place(connection):
            async with _limited(self._limits.lasting_seconds):
                await method(call, request)

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
                raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, words) from None
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
            raise RefusedError(grpc.StatusCode.RESOURCE_EXHAUSTED, "There are as many of these calls as there may be.")
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
        raise RefusedError(grpc.StatusCode.DEADLINE_EXCEEDED, words) from None
