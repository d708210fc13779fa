"""The work of one worker: read what to serve, serve it, and end when the parent says so or is gone."""

from __future__ import annotations

import asyncio
import gc
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

from skilder_keys.auth.callers_file import CallersFileError
from skilder_keys.config import Settings
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.ipc import messages
from skilder_keys.ipc.signals import ONE_SIGNAL_SECONDS
from skilder_keys.logs import make_log
from skilder_keys.storage.migrations import SchemaOutdatedError
from skilder_keys.transports.listening import ListenError
from skilder_keys.worker.collector import new_registry
from skilder_keys.worker.parent_link import ParentLink
from skilder_keys.worker.wiring import start

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

    from structlog.typing import FilteringBoundLogger

    from skilder_keys.transports.frontend import Frontend

Result = TypeVar("Result")

# Python's search for reference cycles stops everything, for longer the more objects it looks at. Calls make no cycles,
# so it looks at few objects each time: at the newest after so many, at those too that were left once; and at all of
# them, which may be a million with very many keys in memory, after ten million more.
_COLLECTION_THRESHOLDS = (5_000, 1, 1_000)
# A thread that works beside the event loop gives way after this many seconds; Python's own five milliseconds add up.
_SWITCH_SECONDS = 0.001


async def serve(connection: socket.socket, frontend: Frontend) -> int:
    """Serve until the parent says stop, or is gone, or SIGTERM comes, and return the exit code.

    Args:
        connection: The socket to the parent, whose first message says what to serve.
        frontend: Where calls come in.
    """
    connection.set_inheritable(False)
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    first = await reader.readline()
    if not first:
        return 0  # the parent has gone already
    order = messages.decode(first)
    settings = Settings.model_validate(order["settings"])
    log = make_log(settings.log_format).bind(worker=order["worker"])
    registry = new_registry()
    stopping = asyncio.Event()
    threading.Thread(target=_await_termination, args=(asyncio.get_running_loop(), stopping), daemon=True).start()
    parent = ParentLink(reader, writer, settings, registry, frontend, stopping)
    listening = asyncio.create_task(parent.listen(log))
    try:
        async with AsyncExitStack() as stack:
            try:
                address = await _unless(
                    stopping,
                    start(
                        settings,
                        order["database_url"],
                        log,
                        stack,
                        frontend,
                        registry,
                        report=lambda serving: parent.send({"serving": serving}),
                    ),
                )
            except Exception as error:  # noqa: BLE001 - whatever it is, the parent is told
                parent.send_failure(error, _words(error, log))
                return 1
            gc.collect()
            gc.freeze()  # what is there now stays
            gc.set_threshold(*_COLLECTION_THRESHOLDS)
            sys.setswitchinterval(_SWITCH_SECONDS)
            if address is not None:
                parent.send({"ready": address})
            await stopping.wait()
    finally:
        listening.cancel()
        writer.close()
        shutil.rmtree(order["folder"], ignore_errors=True)  # the parent may be gone
    return 0


def _await_termination(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """Wait for SIGTERM in a thread of its own: where Envoy is the process, no signal gets to Python."""
    signal.sigwait({signal.SIGTERM})
    loop.call_soon_threadsafe(stopping.set)
    # Who stops a group of processes may send it twice, by several ways.
    time.sleep(ONE_SIGNAL_SECONDS)
    signal.sigtimedwait({signal.SIGTERM}, 0)
    signal.sigwait({signal.SIGTERM})
    os._exit(128 + signal.SIGTERM)  # asked twice: whoever asks does not want to wait for anything


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Return what the work returns, or None where the process must stop before."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if working.done():
        return working.result()
    working.cancel()
    await asyncio.wait((working,))
    return None


def _words(error: Exception, log: FilteringBoundLogger) -> str:
    """Return what may be said of why a start failed."""
    if isinstance(error, UnavailableError):
        return str(error.__cause__ or "") or str(error)
    if isinstance(error, (CallersFileError, ListenError, SchemaOutdatedError, OSError)):
        return str(error)
    # Other errors may quote what they were given, such as a database's URL: only their type and place are logged.
    log.error(
        "this worker did not start", error=type(error).__name__, at="".join(traceback.format_tb(error.__traceback__))
    )
    return type(error).__name__
