"""One worker: a process that serves, and is told what to do by its parent.

`python -m service.worker NUMBER`, where the number is that of an open Unix socket. Over it go lines of JSON:

    parent  {"worker": INDEX, "settings": {…}, "database_url": "…", "folder": "…"}   once, first
    worker  {"ready": "HOST:PORT"} or {"failed": {"kind": "…", "message": "…"}}
    worker  {"serving": true}                             whether it reaches the database, whenever that changes
    parent  {"ping": NUMBER}        worker  {"pong": NUMBER}
    parent  {"ask": "metrics"}      worker  {"metrics": […]}
    parent  {"leave": INDEX}        to end once no connection is left; the index is for `leaving.leave`
    parent  {"drain": null}         to end once no call is left, as on SIGTERM

It is an interpreter of its own and not a fork, so that it shares no state of gRPC's with anybody, and takes in code,
certificates and callers as they are now. Where calls come in by Envoy, an Envoy takes its place, which runs `serve`.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import traceback
from contextlib import AsyncExitStack, suppress
from typing import TYPE_CHECKING, Any, TypeVar

import uvloop

from service import connections, leaving, metrics
from service.address import ListenError
from service.callers_file import CallersFileError
from service.config import Settings
from service.domain.errors import UnavailableError
from service.logs import make_log
from service.server import start
from service.storage.migrations import SchemaOutdatedError
from service.worker_start import ONE_SIGNAL_SECONDS, failure, hold_signals, line

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from prometheus_client import CollectorRegistry
    from structlog.typing import FilteringBoundLogger

    from service.server import Front

Result = TypeVar("Result")

# Python's search for reference cycles holds everything up, for longer the more objects it looks at. Calls make none, so
# it looks at few objects each time: at the newest after so many, at those as well that were left once; and at all of
# them, which may be a million with very many keys in memory, after ten million more.
_SEARCHES = (5_000, 1, 1_000)
# A thread that works beside the event loop gives way after so many seconds; Python's own five milliseconds add up.
_SWITCH_SECONDS = 0.001


def main(descriptor: int) -> None:
    """Serves until the parent says so, or is gone, or SIGTERM comes; a second SIGTERM ends it at once."""
    hold_signals()
    connections.raise_file_limit()
    with socket.socket(fileno=descriptor) as connection:
        # Its event loop takes an eighth off the CPU of a call.
        sys.exit(uvloop.run(serve(connection)))


async def serve(connection: socket.socket, front: Front | None = None) -> int:
    """Serves as `main` does, and answers the exit code.

    Args:
        connection: The socket to the parent.
        front: What calls come in by, where it is not grpcio's server.
    """
    connection.set_inheritable(False)
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    first = await reader.readline()
    if not first:
        return 0  # the parent has gone already
    order = json.loads(first)
    settings = Settings.model_validate(order["settings"])
    log = make_log(settings.log_format).bind(worker=order["worker"])
    registry = metrics.new_registry()
    stopping = asyncio.Event()
    threading.Thread(target=_await_termination, args=(asyncio.get_running_loop(), stopping), daemon=True).start()
    parent = _Parent(reader, writer, settings, registry, front, stopping)
    listening = asyncio.create_task(parent.listen(log))
    try:
        async with AsyncExitStack() as stack:
            try:
                starting = start(
                    settings,
                    order["database_url"],
                    log,
                    stack,
                    registry,
                    reuse_port=True,
                    front=front,
                    report=lambda serving: parent.tell({"serving": serving}),
                )
                address = await _unless(stopping, starting)
                if address is not None and front is not None:
                    await _unless(stopping, front.open())
            except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told
                parent.tell_failure(error, log)
                return 1
            gc.collect()
            gc.freeze()  # what is there now stays
            gc.set_threshold(*_SEARCHES)
            sys.setswitchinterval(_SWITCH_SECONDS)
            if address is not None:
                parent.tell({"ready": address})
            await stopping.wait()
    finally:
        listening.cancel()
        writer.close()
        if folder := order.get("folder"):  # a parent of a version before has made none
            shutil.rmtree(folder, ignore_errors=True)  # the parent may be gone
    return 0


def _await_termination(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """Waits for SIGTERM, in a thread of its own: where Envoy is the process, no signal gets to Python."""
    signal.sigwait({signal.SIGTERM})
    loop.call_soon_threadsafe(stopping.set)
    # Who stops a group of processes may send it twice, by several ways.
    time.sleep(ONE_SIGNAL_SECONDS)
    signal.sigtimedwait({signal.SIGTERM}, 0)
    signal.sigwait({signal.SIGTERM})
    os._exit(128 + signal.SIGTERM)  # asked twice: whoever asks does not want to wait for anything


class _Parent:
    """The parent: what it says, and what it is told."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        settings: Settings,
        registry: CollectorRegistry,
        front: Front | None,
        stopping: asyncio.Event,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._settings = settings
        self._registry = registry
        self._front = front
        self._stopping = stopping

    def tell(self, message: dict[str, Any]) -> None:
        """Tells it something."""
        self._writer.write(line(message))

    def tell_failure(self, error: Exception, log: FilteringBoundLogger) -> None:
        """Tells it why this worker did not start."""
        self._writer.write(failure(error, _words(error, log)))

    async def listen(self, log: FilteringBoundLogger) -> None:
        """Does what the parent says; ends this process when there is no parent any more."""
        try:
            async with asyncio.TaskGroup() as group:
                with suppress(ConnectionError):
                    while told := await self._reader.readline():
                        self._hear(json.loads(told), group)
                log.warning("the parent is gone: this worker ends")
                return
        finally:
            self._stopping.set()

    def _hear(self, message: dict[str, Any], group: asyncio.TaskGroup) -> None:
        match message:
            case {"ping": int() as number}:
                self.tell({"pong": number})
            case {"ask": "metrics"}:
                group.create_task(self._tell_metrics())
            case {"leave": int() as successor}:
                group.create_task(self._leave(successor))
            case {"drain": _}:
                self._stopping.set()

    async def _tell_metrics(self) -> None:
        found = [*self._registry.collect(), *(await self._front.metrics() if self._front else ())]
        self.tell({"metrics": metrics.told(found)})

    async def _leave(self, successor: int) -> None:
        port = int(self._settings.listen.rpartition(":")[2])
        await leaving.leave(port, successor, self._settings.max_connection_age)
        self._stopping.set()


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Answers what the work answers, or None where the process is to stop before."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if working.done():
        return working.result()
    working.cancel()
    await asyncio.wait((working,))
    return None


def _words(error: Exception, log: FilteringBoundLogger) -> str:
    """Answers what may be told of why a start failed."""
    if isinstance(error, UnavailableError):
        return str(error.__cause__ or "") or str(error)
    if isinstance(error, (CallersFileError, ListenError, SchemaOutdatedError, OSError)):
        return str(error)
    # Others may quote what they were given, such as a database's URL: of them only the type and the place are told.
    log.error(
        "this worker did not start", error=type(error).__name__, at="".join(traceback.format_tb(error.__traceback__))
    )
    return type(error).__name__


if __name__ == "__main__":
    main(int(sys.argv[1]))
