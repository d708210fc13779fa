"""What Envoy runs: an ASGI application whose lifespan is a worker's, and which is handed some of the calls."""

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
    from skilder_keys.transports.envoy.eager_task import Started
    from skilder_keys.transports.frontend import Frontend

    Work = Callable[[socket.socket, Frontend], Awaitable[int]]


class Application:
    """An ASGI application with a lifespan. Envoy runs it in the worker's folder.

    Args:
        work: Does a worker's work with the socket to its parent and with the frontend, and returns the exit code.
    """

    # It is no coroutine function; asgiref's mark for applications that are not.
    _asgi_single_callable = True

    def __init__(self, work: Work) -> None:
        self._work = work
        self._frontend = EnvoyFrontend(Path.cwd())

    def __call__(self, scope: Event, receive: Receive, send: Send) -> Started | Coroutine[Any, Any, None]:
        """Start to serve one call or, the first time, return what lives as long as the worker."""
        if self._frontend.has_methods:
            return self._frontend.start_call(scope, receive, send)
        return self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        sys.path.remove(".")  # where Envoy was started; of use to nobody here
        os.chdir(os.environ.pop(FOLDER))
        await receive()
        working = asyncio.create_task(self._run())
        await self._frontend.opening.wait()
        await send({"type": "lifespan.startup.complete"})
        # Envoy ends by itself only where it could not start; for every other end this process does not wait for it.
        await receive()
        if not self._frontend.is_open:
            os._exit(1)
        await working

    async def _run(self) -> None:
        code: Any = 1
        try:
            with socket.socket(fileno=int(os.environ.pop(DESCRIPTOR))) as connection:
                code = await self._work(connection, self._frontend)
        finally:
            os._exit(code)
