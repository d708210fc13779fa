"""The Envoy frontend: this process serves the fast methods itself, and Envoy forwards all other calls to grpcio."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from skilder_keys.transports.envoy.admin import Admin
from skilder_keys.transports.envoy.asgi import AsgiMethods
from skilder_keys.transports.envoy.configuration import FAST, admin_socket, grpcio_socket
from skilder_keys.transports.envoy.fast_call import FastCall, task_factory
from skilder_keys.transports.grpcio.frontend import new_server

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from pathlib import Path

    import grpc
    from prometheus_client.metrics_core import Metric

    from skilder_keys.config import Settings
    from skilder_keys.transports.envoy.context import Event, Receive, Send
    from skilder_keys.transports.envoy.json_calls import JsonMethods
    from skilder_keys.transports.frontend import Api

_METADATA_BYTES_BEHIND = 2**16
"""More than clients may send to Envoy, because Envoy adds the client's certificate."""


class EnvoyFrontend:
    """The Envoy that this process runs in.

    Attributes:
        opening: Set when Envoy may start to accept connections.
        is_open: Whether Envoy accepts connections.
    """

    name = "envoy"

    def __init__(self, folder: Path) -> None:
        """Take the worker's folder, which contains Envoy's sockets."""
        self.opening = asyncio.Event()
        self.is_open = False
        self._grpcio_socket = grpcio_socket(folder)
        self._admin = Admin(admin_socket(folder))
        self._server: grpc.aio.Server | None = None
        self._methods: AsgiMethods | None = None

    @property
    def has_methods(self) -> bool:
        """Return whether `start_call` can be called."""
        return self._methods is not None

    async def start(self, api: Api, settings: Settings) -> str:
        """Serve, as `Frontend.start` does: start the grpcio server first, then let Envoy accept connections."""
        options = [
            ("grpc.max_metadata_size", _METADATA_BYTES_BEHIND),
            ("grpc.absolute_max_metadata_size", _METADATA_BYTES_BEHIND),
        ]
        self._server = new_server(api, settings, options, behind_envoy=True)
        self._server.add_insecure_port(f"unix:{self._grpcio_socket}")
        await self._server.start()
        loop = asyncio.get_running_loop()
        loop.set_task_factory(task_factory)  # pyvoy makes a task of each call, and a FastCall needs none
        loop.set_exception_handler(_report)
        fast = {path: serve for path, serve in api.methods.items() if path.startswith(FAST)}
        json = _json_methods(api) if settings.http_json else None
        self._methods = AsgiMethods(fast, api.fast_paths, api.calls, max_calls=settings.max_calls, json=json)
        self._watching = loop.create_task(self._methods.watch())
        self.opening.set()
        await self._admin.ready()
        self.is_open = True
        return settings.listen

    async def stop(self, seconds: float) -> None:
        """Stop, as `Frontend.stop` does: drain Envoy first, then stop the grpcio server."""
        if self.is_open:
            await self._admin.drain(seconds)
        if self._server is not None:
            await self._server.stop(seconds)

    async def metrics(self) -> list[Metric]:
        """Return Envoy's metrics."""
        return await self._admin.metrics()

    def start_call(self, scope: Event, receive: Receive, send: Send) -> FastCall | Coroutine[Any, Any, None]:
        """Return the work of one call of a fast method, as `AsgiMethods.start_call` does."""
        if self._methods is None:
            raise LookupError("a call came before the methods")
        return self._methods.start_call(scope, receive, send)


def _json_methods(api: Api) -> JsonMethods:
    from skilder_keys.transports.envoy.json_calls import JsonMethods  # noqa: PLC0415 - most workers need none

    return JsonMethods(api.methods)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Report an error in a callback. Ignore the one that pyvoy causes when it sets the result of a cancelled future."""
    if not (isinstance(context.get("exception"), asyncio.InvalidStateError) and "_pyvoy." in context["message"]):
        loop.default_exception_handler(context)
