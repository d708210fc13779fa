"""What Envoy runs: a worker that is handed some calls by Envoy, and has grpcio's server answer the others."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from service import worker
from service.envoy.admin import Admin
from service.envoy.configuration import FAST, admin_socket, grpcio_socket
from service.envoy.process import DESCRIPTOR, FOLDER
from service.rpc.asgi import Methods
from service.rpc.eager import task_factory

if TYPE_CHECKING:
    from collections.abc import Coroutine, Mapping

    from prometheus_client.metrics_core import Metric

    from service.config import Settings
    from service.rpc.asgi_context import Event, Receive, Send
    from service.rpc.eager import Begun
    from service.rpc.gate import AtOnce, Serve


class Application:
    """An ASGI application with a lifespan, which is the worker's. It is the `Front` of its server.

    Attributes:
        socket: Where Envoy passes calls on to.
    """

    # It is no coroutine function; asgiref's mark for applications that are not.
    _asgi_single_callable = True

    def __init__(self) -> None:
        """Stands in the worker's folder, where Envoy was started."""
        folder = Path.cwd()
        self.socket = grpcio_socket(folder)
        self._admin = Admin(admin_socket(folder))
        self._opening = asyncio.Event()
        self._serving_calls = False
        self._methods: Methods | None = None

    def __call__(self, scope: Event, receive: Receive, send: Send) -> Begun | Coroutine[Any, Any, None]:
        """Begins to answer one call or, the first time, answers what lives as long as the worker."""
        if self._methods is None:
            return self._live(receive, send)
        return self._methods.begin(scope, receive, send)

    def answer(self, methods: Mapping[str, Serve], at_once: Mapping[str, AtOnce], settings: Settings) -> None:
        """Has calls of the fast methods answered from now on."""
        fast = {path: serve for path, serve in methods.items() if path.startswith(FAST)}
        self._loop = asyncio.get_running_loop()
        self._loop.set_task_factory(task_factory)  # pyvoy makes a task of what it is given
        self._loop.set_exception_handler(_report)
        self._methods = Methods(fast, at_once, max_calls=settings.max_calls)
        self._watching = self._loop.create_task(self._methods.watch())

    async def open(self) -> None:
        """Lets Envoy accept connections, and returns when it does."""
        self._opening.set()
        await self._admin.ready()
        self._serving_calls = True

    async def drain(self, seconds: float) -> None:
        """Has Envoy's clients go elsewhere; returns when no call is left, or after so many seconds."""
        await self._admin.drain(seconds)

    async def metrics(self) -> list[Metric]:
        """Answers what Envoy counts."""
        return await self._admin.metrics()

    async def _live(self, receive: Receive, send: Send) -> None:
        sys.path.remove(".")  # where Envoy was started; of use to nobody here
        os.chdir(os.environ.pop(FOLDER))
        await receive()
        serving = asyncio.create_task(self._serve())
        await self._opening.wait()
        await send({"type": "lifespan.startup.complete"})
        # Envoy ends by itself only where it could not begin; for every other end this process does not wait for it.
        await receive()
        if not self._serving_calls:
            os._exit(1)
        await serving

    async def _serve(self) -> None:
        code: Any = 1
        try:
            with socket.socket(fileno=int(os.environ.pop(DESCRIPTOR))) as connection:
                code = await worker.serve(connection, self)
        finally:
            os._exit(code)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """Tells what went wrong in a callback, unless it is that pyvoy answers a `receive` which was cancelled."""
    if not (isinstance(context.get("exception"), asyncio.InvalidStateError) and "_pyvoy." in context["message"]):
        loop.default_exception_handler(context)


application = Application()
