"""MCP over streamable HTTP: a server on a real port, and the SDK's own client."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import httpx2
import uvicorn
from mcp import Client, MCPError
from mcp.client.streamable_http import streamable_http_client

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator

    from mcp_types import CallToolResult

    from skilder_keys_client.guards.asgi import Application


class _Server(uvicorn.Server):
    """A server that leaves the process's signals alone."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing."""
        with nullcontext():
            yield


@asynccontextmanager
async def listening(app: Application) -> AsyncIterator[str]:
    """Serve an application on a free port, and return the URL of its MCP endpoint."""
    config = uvicorn.Config(app, port=0, ws="none", log_config=None, timeout_graceful_shutdown=1)
    server = _Server(config)
    task = asyncio.create_task(server.serve())
    while not server.started:
        assert not task.done(), "the server ended"
        await asyncio.sleep(0.005)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}/mcp"
    finally:
        server.should_exit = True
        await task


@asynccontextmanager
async def session(url: str, headers: dict[str, str], **options: Any) -> AsyncIterator[Client]:
    """Return the SDK's client in a session, which sends headers with each request. They may be changed meanwhile."""

    async def current(request: httpx2.Request) -> None:
        request.headers.update(headers)

    async with (
        httpx2.AsyncClient(event_hooks={"request": [current]}, trust_env=False) as http,
        Client(streamable_http_client(url, http_client=http), **options) as client,
    ):
        yield client


async def refused(call: Awaitable[Any]) -> MCPError:
    """Return the error of a call that is refused."""
    try:
        result = await call
    except MCPError as error:
        return error
    raise AssertionError(f"not refused: {result}")


async def names(client: Client) -> list[str]:
    """Return the names of the tools that a client sees."""
    return [tool.name for tool in (await client.list_tools()).tools]


def text_of(result: CallToolResult) -> str:
    """Return the text that a tool returned."""
    (content,) = result.content
    return str(getattr(content, "text", ""))
