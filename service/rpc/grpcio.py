"""The door of grpcio: serves methods by its asyncio server."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc

from service.domain.errors import KeysError
from service.rpc.status import trailing_status

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from service.rpc.gate import Serve

    ServicerContext = grpc.aio.ServicerContext[bytes, bytes]


class Methods(grpc.GenericRpcHandler):
    """Methods by their paths.

    They are served as client-streaming ones, which gRPC's wire does not tell apart from unary ones: those would be read
    before they begin, and the gate has something to ask first.
    """

    def __init__(self, methods: Mapping[str, Serve]) -> None:
        self._handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            path: grpc.stream_unary_rpc_method_handler(_wrapped(serve)) for path, serve in methods.items()
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes] | None:
        """Answers what serves a call."""
        return self._handlers.get(handler_call_details.method)


def _wrapped(serve: Serve) -> Callable[[object, ServicerContext], Awaitable[bytes]]:
    async def handle(_messages: object, context: ServicerContext) -> bytes:
        try:
            return await serve(context)
        except KeysError as error:
            await context.abort_with_status(trailing_status(error))
            raise AssertionError("abort_with_status always raises") from None

    return handle
