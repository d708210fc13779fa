"""A guard for servers that are made with the MCP SDK: a key sees and runs the tools that it reaches, and no other."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import grpc
import mcp_types as types
from mcp.server.auth.middleware.auth_context import AuthContextMiddleware
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from mcp.shared.exceptions import MCPError
from mcp_types.version import HANDSHAKE_PROTOCOL_VERSIONS

from skilder_keys_client.decisions import Denied, Granted
from skilder_keys_client.errors import ServiceError
from skilder_keys_client.guards.asgi import KeyMiddleware, granted_of, headers_of, peer_of
from skilder_keys_client.guards.asking import Asking, presented
from skilder_keys_client.guards.http import NO_KEY, Refusal, refusal_of
from skilder_keys_client.v1.authorization_service_pb2 import DENIAL_REASON_TOOL_NOT_ALLOWED

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from mcp.server import MCPServer, Server
    from mcp.server.context import CallNext, HandlerResult, ServerRequestContext

    from skilder_keys_client.aio import AsyncClient
    from skilder_keys_client.guards.asgi import Application, Receive, Scope, Send
    from skilder_keys_client.queries import Query

# They neither run nor show what the server offers.
_HARMLESS = frozenset({"initialize", "ping", "server/discover", "logging/setLevel", "subscriptions/listen"})
_NO_TOOL = Denied(DENIAL_REASON_TOOL_NOT_ALLOWED, "The key does not reach a tool with this name.")


class McpGuard:
    """Shows and runs the tools that a caller's key reaches, which is decided anew for each message.

    A session belongs to the key that began it. What keys do not speak of, such as resources and prompts, is refused
    unless it is allowed to every good key.

    Args:
        client: The client that decides.
        mcp_server: The server's name in the workspaces of its callers.
        allowed: More methods for every good key, such as `resources/read`.
        source_ip: Returns the agent's address for an ASGI scope; without it, that of the peer.
        timeout: The seconds that a decision may take.
    """

    def __init__(
        self,
        client: AsyncClient,
        *,
        mcp_server: str,
        allowed: Iterable[str] = (),
        source_ip: Callable[[Scope], str] | None = None,
        timeout: float | None = None,
    ) -> None:
        self._client = client
        self._mcp_server = mcp_server
        self._allowed = _HARMLESS | frozenset(allowed)
        self._connections: dict[str, Any] = {"source_ip": source_ip, "timeout": timeout}
        self._asking: Asking[Scope] = Asking(mcp_server=mcp_server, **self._connections)

    def protect(self, server: MCPServer[Any] | Server[Any], **options: Any) -> Application:  # noqa: ANN401 - the SDK's
        """Return the application that serves a server over streamable HTTP. Call it once, after adding middleware.

        Args:
            server: The server. Over any other transport it refuses every request from now on.
            options: Those of the server's `streamable_http_app`.
        """
        # The innermost: it decides about what is run, also where other middleware rewrites a call.
        server.middleware.append(self)
        app = AuthContextMiddleware(server.streamable_http_app(**options))
        return KeyMiddleware(_Owned(app), self._client, **self._connections)

    async def __call__(self, ctx: ServerRequestContext[Any, Any], call_next: CallNext) -> HandlerResult:
        """Decide about a message."""
        query = self._query(ctx)
        if ctx.request_id is None or ctx.method in self._allowed:
            return await call_next(ctx)
        match ctx.method:
            case "tools/list":
                names = await self._names(query)
                return _only(names, await call_next(ctx))
            case "tools/call":
                await self._check(ctx, query)
                return await call_next(ctx)
            case _:
                raise MCPError(types.METHOD_NOT_FOUND, "API keys do not open this method here.", {"method": ctx.method})

    def _query(self, ctx: ServerRequestContext[Any, Any]) -> Query:
        """Return the query about all tools of this server for the key of a message."""
        scope = getattr(ctx.request, "scope", None)
        try:
            granted_of(scope or {})
        except LookupError:
            # Another transport, or an application that `protect` did not make.
            raise _error(NO_KEY) from None
        token = presented(headers_of(scope))
        if token is None:
            raise _error(NO_KEY)
        return self._asking.query(token, scope, peer_of(scope))

    async def _names(self, query: Query) -> frozenset[str]:
        """Return the names of the tools that a key reaches."""
        try:
            decision = await self._client.authorize(query, timeout=self._asking.timeout)
            if isinstance(decision, Denied):
                raise _error(refusal_of(decision))
            tool_set = decision.tool_set
            if tool_set is None:
                # It was too large for the response.
                read = await self._client.read_tool_set(query, timeout=self._asking.timeout)
                if isinstance(read, Denied):
                    raise _error(refusal_of(read))
                tool_set = read
        except ServiceError as error:
            raise _error(refusal_of(error)) from error
        return frozenset(tool.name for tool in tool_set.tools if tool.mcp_server == self._mcp_server)

    async def _check(self, ctx: ServerRequestContext[Any, Any], query: Query) -> None:
        """Raise MCPError unless the key of a call reaches its tool now."""
        name = (ctx.params or {}).get("name")
        if not isinstance(name, str):
            raise MCPError(types.INVALID_PARAMS, "The call names no tool.")
        decision = await self._decide(replace(query, mcp_server=None, tool=(self._mcp_server, name)))
        if isinstance(decision, Granted):
            return
        if decision.number == DENIAL_REASON_TOOL_NOT_ALLOWED and ctx.protocol_version in HANDSHAKE_PROTOCOL_VERSIONS:
            # The caller's list is out of date. Later versions of the protocol have no such message within a call.
            await ctx.session.send_notification(types.ToolListChangedNotification(), related_request_id=ctx.request_id)
        raise _error(refusal_of(decision))

    async def _decide(self, query: Query) -> Granted | Denied:
        try:
            return await self._client.authorize(query, timeout=self._asking.timeout)
        except ServiceError as error:
            if error.code is grpc.StatusCode.INVALID_ARGUMENT:
                # Such as a name that is empty or very long: no tool has it.
                return _NO_TOOL
            raise _error(refusal_of(error)) from error


class _Owned:
    """Tells the SDK whose a connection is: it gives a session to the one who began it alone."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "lifespan":
            # The token itself is in the headers, and goes no further.
            scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=granted_of(scope).key.id, scopes=[]))
        await self._app(scope, receive, send)


def _only(names: frozenset[str], result: HandlerResult) -> HandlerResult:
    """Return a list of tools with these names alone, for this caller alone."""
    if not isinstance(result, dict) or not isinstance(result.get("tools"), list):
        raise MCPError(types.INTERNAL_ERROR, "The server's list of tools cannot be read.")
    kept = {**result, "tools": [tool for tool in result["tools"] if tool["name"] in names]}
    # What a proxy may keep for everybody, or anyone for long, would outlive the key.
    return kept | {name: value for name, value in (("ttlMs", 0), ("cacheScope", "private")) if name in kept}


def _error(refusal: Refusal) -> MCPError:
    """Return a refusal as MCP has it. `data` says what it is, as the body of an HTTP response does."""
    data: dict[str, Any] = {"error": refusal.error, "reason": refusal.reason}
    if refusal.retry_after is not None:
        data["retry_after"] = refusal.retry_after
    code = {401: types.INVALID_REQUEST, 403: types.INVALID_PARAMS}.get(refusal.status, types.INTERNAL_ERROR)
    return MCPError(code, refusal.message, data)
