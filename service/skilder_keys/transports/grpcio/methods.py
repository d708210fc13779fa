"""The methods of the service, as grpcio's asyncio server calls them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from skilder_keys.domain.errors import KeysError
from skilder_keys.rpc.errors import too_long
from skilder_keys.rpc.status import trailing_status
from skilder_keys.transports import forwarded

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from skilder_keys.rpc.pipeline import Serve

    ServicerContext = grpc.aio.ServicerContext[bytes, bytes]


class Methods(grpc.GenericRpcHandler):
    """Methods by their paths.

    They are served as client-streaming ones, which gRPC's wire does not tell apart from unary ones: those would be read
    before they begin, and the pipeline has something to ask first.
    """

    def __init__(self, methods: Mapping[str, Serve], *, max_calls: int, behind_envoy: bool = False) -> None:
        """Take the methods, the most calls at a time, and whether all come from Envoy, which tells whose they are."""
        self._context_type = ForwardedContext if behind_envoy else Context
        self._max_calls = max_calls
        self._calls = 0
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            path: grpc.stream_unary_rpc_method_handler(self._wrapped(serve)) for path, serve in methods.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Answers what serves a call."""
        return self._handlers.get(handler_call_details.method)

    def _wrapped(self, serve: Serve) -> Callable[[object, ServicerContext], Awaitable[bytes]]:
        async def handle(_messages: object, context: ServicerContext) -> bytes:
            if self._calls >= self._max_calls:
                await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
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
    """A call, as `context.Context` has it."""

    __slots__ = ("_context",)

    def __init__(self, context: ServicerContext) -> None:
        self._context = context

    def credentials(self) -> str | None:
        """Answers the metadata `authorization`, or None without."""
        return self._metadata("authorization")

    def certificate_names(self) -> Iterable[str]:
        """Answers the names in the client's certificate; gRPC tells only those of one that it has verified."""
        return map(bytes.decode, self._context.auth_context().get("x509_subject_alternative_name", ()))

    def peer(self) -> str:
        """Answers the client's address."""
        return self._context.peer()

    async def read(self, max_bytes: int) -> object:
        """Return the bytes of the message, or gRPC's mark of the end.

        Raises:
            MessageTooLongError: It has more than so many bytes.
        """
        message = await self._context.read()
        if isinstance(message, bytes) and len(message) > max_bytes:
            raise too_long(len(message), max_bytes)
        return message

    def _metadata(self, wanted: str) -> str | None:
        # What is sent twice counts as one value, as HTTP has it and Envoy does it.
        found = [str(value) for name, value in self._context.invocation_metadata() or () if name == wanted]
        return ",".join(found) if found else None


class ForwardedContext(Context):
    """A call that Envoy has passed on: its client is the one that Envoy tells of."""

    __slots__ = ()

    def certificate_names(self) -> Iterable[str]:
        """Answers the names in the client's certificate, which Envoy has verified."""
        return forwarded.certificate_names(self._metadata(forwarded.CERTIFICATE_HEADER) or "")

    def peer(self) -> str:
        """Answers the client's address."""
        return forwarded.peer(self._metadata(forwarded.PEER_HEADER) or "")
