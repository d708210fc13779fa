"""The methods of the service, as handlers for grpcio's asyncio server."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import grpc

from skilder_keys.domain.errors import KeysError
from skilder_keys.rpc.errors import TOO_MANY_CALLS, too_long
from skilder_keys.rpc.status import trailing_status
from skilder_keys.transports import forwarded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from skilder_keys.rpc.call_metrics import CallMetrics
    from skilder_keys.rpc.pipeline import Serve, ServeStream

    ServicerContext = grpc.aio.ServicerContext[bytes, bytes]

Result = TypeVar("Result")


class Methods(grpc.GenericRpcHandler):
    """The methods by path.

    They are registered as methods that the client streams to, which look the same on the wire. For all others grpcio
    reads the request first, but the pipeline has to check the caller before that.
    """

    def __init__(
        self,
        methods: Mapping[str, Serve],
        streams: Mapping[str, ServeStream],
        metrics: CallMetrics,
        *,
        max_calls: int,
        behind_envoy: bool = False,
    ) -> None:
        """Create the handlers.

        Args:
            methods: The methods by path.
            streams: The methods that respond with a stream, by path.
            metrics: Counts the calls that are refused.
            max_calls: The most calls at the same time.
            behind_envoy: Whether all calls come from Envoy, which reports the client in headers.
        """
        self._context_type = ForwardedContext if behind_envoy else Context
        self._max_calls = max_calls
        self._calls = 0
        self._metrics = metrics
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            **{path: grpc.stream_unary_rpc_method_handler(self._handler(path, each)) for path, each in methods.items()},
            **{
                path: grpc.stream_stream_rpc_method_handler(self._handler(path, each)) for path, each in streams.items()
            },
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Return the handler of a call, or None for an unknown method."""
        return self._handlers.get(handler_call_details.method)

    def _handler(
        self, path: str, serve: Callable[[Context], Awaitable[Result]]
    ) -> Callable[[object, ServicerContext], Awaitable[Result]]:
        async def handle(_messages: object, context: ServicerContext) -> Result:
            if self._calls >= self._max_calls:
                self._metrics.refuse(path)
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, TOO_MANY_CALLS)
            self._calls += 1
            try:
                return await serve(self._context_type(context))
            except KeysError as error:
                await context.abort_with_status(trailing_status(error))
                raise AssertionError("abort_with_status always raises") from None
            finally:
                self._calls -= 1

        return handle


class Context:
    """A call, as `rpc.context.StreamContext` describes it."""

    __slots__ = ("_context",)

    def __init__(self, context: ServicerContext) -> None:
        self._context = context

    def credentials(self) -> str | None:
        """Return the metadata `authorization`, or None without it."""
        return self.metadata("authorization")

    def certificate_names(self) -> Iterable[str]:
        """Return the names in the client's certificate, if gRPC has verified one."""
        return map(bytes.decode, self._context.auth_context().get("x509_subject_alternative_name", ()))

    def peer(self) -> str:
        """Return the client's address."""
        return self._context.peer()

    def time_remaining(self) -> float | None:
        """Return how many seconds the client still waits; None if it has no deadline."""
        remaining: float | None = self._context.time_remaining()
        return remaining

    async def read(self, max_bytes: int) -> object:
        """Return the bytes of the message, or `grpc.aio.EOF` without a message.

        Raises:
            MessageTooLongError: The message has more than `max_bytes` bytes.
        """
        message = await self._context.read()
        if isinstance(message, bytes) and len(message) > max_bytes:
            raise too_long(len(message), max_bytes)
        return message

    async def write(self, message: bytes) -> None:
        """Send a message. Return when gRPC's flow control has let it out."""
        try:
            await self._context.write(message)
        except grpc.aio.InternalError:
            # The client is gone, and gRPC has not cancelled this task yet.
            raise asyncio.CancelledError from None

    def metadata(self, name: str) -> str | None:
        """Return a value of the metadata, or None without it."""
        # Join repeated headers into one value, as RFC 9110 allows and Envoy does.
        found = [str(value) for each, value in self._context.invocation_metadata() or () if each == name]
        return ",".join(found) if found else None


class ForwardedContext(Context):
    """A call that Envoy has forwarded. Its headers describe the client."""

    __slots__ = ()

    def certificate_names(self) -> Iterable[str]:
        """Return the names in the client's certificate, if Envoy has verified one."""
        return forwarded.certificate_names(self.metadata(forwarded.CERTIFICATE_HEADER) or "")

    def peer(self) -> str:
        """Return the client's address."""
        return forwarded.peer(self.metadata(forwarded.PEER_HEADER) or "")
