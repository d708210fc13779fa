"""The ASGI application that Envoy runs: its lifespan is that of the worker, and it serves the fast methods."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skilder_keys.transports.envoy.frontend import EnvoyFrontend
from skilder_keys.transports.envoy.process import DESCRIPTOR, FOLDER

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from skilder_keys.transports.envoy.context import Event, Receive, Send
    from skilder_keys.transports.envoy.fast_call import FastCall
    from skilder_keys.transports.frontend import Frontend

    Work = Callable[[socket.socket, Frontend], Awaitable[int]]


class Application:
    """An ASGI application with a lifespan. Envoy runs it in the worker's folder.

    Args:
        work: Runs a worker with the socket to its parent and with the frontend, and returns the exit code.
    """

    # asgiref needs this mark for an application that is not a coroutine function.
    _asgi_single_callable = True

    def __init__(self, work: Work) -> None:
        self._work = work
        self._frontend = EnvoyFrontend(Path.cwd())

    def __call__(self, scope: Event, receive: Receive, send: Send) -> FastCall | Coroutine[Any, Any, None]:
        """Start to serve one call. For the lifespan, which comes first, return a coroutine that runs the worker."""
        if self._frontend.has_methods:
            return self._frontend.start_call(scope, receive, send)
        return self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        sys.path.remove(".")  # the folder that Envoy was started in: it has no modules for this process
        os.chdir(os.environ.pop(FOLDER))
        await receive()
        running = asyncio.create_task(self._run())
        await self._frontend.opening.wait()
        await send({"type": "lifespan.startup.complete"})
        # Envoy ends the lifespan itself only if it could not start. In all other cases `_run` ends this process.
        await receive()
        if not self._frontend.is_open:
            os._exit(1)
        await running

    async def _run(self) -> None:
        code: Any = 1
        try:
            with socket.socket(fileno=int(os.environ.pop(DESCRIPTOR))) as connection:
                code = await self._work(connection, self._frontend)
        finally:
            os._exit(code)
