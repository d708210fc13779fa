"""Interceptors for gRPC servers, with asyncio and without."""

from __future__ import annotations

import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import grpc

from skilder_keys_client.decisions import Denied, Granted
from skilder_keys_client.errors import ServiceError
from skilder_keys_client.guards.asking import Asking, presented

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from skilder_keys_client.aio import AsyncClient
    from skilder_keys_client.blocking import Client

    Handler = grpc.RpcMethodHandler[Any, Any]

_GRANTED: ContextVar[Granted] = ContextVar("granted")
_KINDS = ("unary_unary", "unary_stream", "stream_unary", "stream_stream")
_NO_KEY = (
    grpc.StatusCode.UNAUTHENTICATED,
    "Send one API key, as the metadata `authorization: Bearer KEY` or `x-api-key`.",
)


def granted() -> Granted:
    """Return what was granted to the call that is served.

    Raises:
        LookupError: No guard has let it through.
    """
    return _GRANTED.get()


class AsyncKeyInterceptor(grpc.aio.ServerInterceptor):
    """Lets a call of a server of grpc.aio through only with a key that is good for it.

    Args:
        client: The client that decides.
        asking: Fields of Asking, whose functions get the details of the call, with its `method`.
    """

    def __init__(self, client: AsyncClient, **asking: Any) -> None:  # noqa: ANN401 - as Asking has them
        self._client = client
        self._asking: Asking[grpc.HandlerCallDetails] = Asking(**asking)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return a handler that checks the key and then does what it did before."""
        handler = await continuation(handler_call_details)
        if handler is None:
            return None
        kind, behavior = _behavior(handler)

        async def check(context: grpc.aio.ServicerContext[Any, Any]) -> None:
            token = presented(_headers(context))
            if token is None:
                await context.abort(*_NO_KEY)
            query = self._asking.query(str(token), handler_call_details, _peer(context))
            try:
                decision = await self._client.authorize(query, timeout=self._asking.timeout)
            except ServiceError as error:
                await context.abort(*_status(error))
            if isinstance(decision, Denied):
                await context.abort(*_status(decision))
            _GRANTED.set(decision)

        async def unary(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> object:
            await check(context)
            response = behavior(request, context)
            return await response if inspect.isawaitable(response) else response

        async def stream(request: object, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[object]:
            await check(context)
            responses = behavior(request, context)
            if inspect.isawaitable(responses):
                await responses  # it writes by itself
                return
            async for each in responses:
                yield each

        return _rebuilt(handler, kind, stream if handler.response_streaming else unary)


class KeyInterceptor(grpc.ServerInterceptor):
    """Lets a call of a server with threads through only with a key that is good for it.

    Args:
        client: The client that decides.
        asking: Fields of Asking, whose functions get the details of the call, with its `method`.
    """

    def __init__(self, client: Client, **asking: Any) -> None:  # noqa: ANN401 - as Asking has them
        self._client = client
        self._asking: Asking[grpc.HandlerCallDetails] = Asking(**asking)

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Handler | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Return a handler that checks the key and then does what it did before."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        kind, behavior = _behavior(handler)

        def check(context: grpc.ServicerContext) -> None:
            token = presented(_headers(context))
            if token is None:
                context.abort(*_NO_KEY)
            query = self._asking.query(str(token), handler_call_details, _peer(context))
            try:
                decision = self._client.authorize(query, timeout=self._asking.timeout)
            except ServiceError as error:
                context.abort(*_status(error))
            if isinstance(decision, Denied):
                context.abort(*_status(decision))
            _GRANTED.set(decision)

        def unary(request: object, context: grpc.ServicerContext) -> object:
            check(context)
            return behavior(request, context)

        def stream(request: object, context: grpc.ServicerContext) -> Iterator[object]:
            check(context)
            yield from behavior(request, context)

        return _rebuilt(handler, kind, stream if handler.response_streaming else unary)


def _behavior(handler: Handler) -> tuple[str, Callable[..., Any]]:
    kind = _KINDS[2 * bool(handler.request_streaming) + bool(handler.response_streaming)]
    return kind, getattr(handler, kind)


def _rebuilt(handler: Handler, kind: str, behavior: Callable[..., Any]) -> Handler:
    make = getattr(grpc, f"{kind}_rpc_method_handler")
    made: Handler = make(behavior, handler.request_deserializer, handler.response_serializer)
    return made


def _headers(context: Any) -> list[tuple[str, str]]:  # noqa: ANN401 - of both kinds of servers
    return [(name, value) for name, value in context.invocation_metadata() or () if isinstance(value, str)]


def _peer(context: Any) -> str:  # noqa: ANN401 - of both kinds of servers
    """Return the address of the peer, which grpcio has as `ipv4:192.0.2.1:80` or `ipv6:%5B::1%5D:80`."""
    kind, _, rest = unquote(context.peer()).partition(":")
    return rest.rpartition(":")[0].strip("[]") if kind in {"ipv4", "ipv6"} else ""


def _status(outcome: Denied | ServiceError) -> tuple[grpc.StatusCode, str]:
    """Return the status of a call with a denied key, or whose key could not be checked."""
    if isinstance(outcome, Denied):
        code = grpc.StatusCode.UNAUTHENTICATED if outcome.is_token_invalid else grpc.StatusCode.PERMISSION_DENIED
        return code, outcome.message or "The API key is not good for this."
    if outcome.is_outage or outcome.code is grpc.StatusCode.CANCELLED:
        return grpc.StatusCode.UNAVAILABLE, "API keys cannot be checked now. Try again."
    return grpc.StatusCode.INTERNAL, "API keys cannot be checked here."
