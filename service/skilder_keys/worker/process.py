"""Run one worker: read what to serve, serve it, and end when the parent asks for it or has ended."""

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

from pydantic import ValidationError

from skilder_keys.app.authorization.proofs import Proofs
from skilder_keys.auth.errors import CallersFileError
from skilder_keys.config import Settings
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.ipc import messages
from skilder_keys.ipc.signals import ONE_SIGNAL_SECONDS
from skilder_keys.logs import make_log
from skilder_keys.storage.migrations import SchemaOutdatedError
from skilder_keys.transports.listening import ListenError
from skilder_keys.worker.collector import new_registry
from skilder_keys.worker.parent_link import ParentLink
from skilder_keys.worker.tracing import ExtraMissingError
from skilder_keys.worker.wiring import start

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine

    from structlog.typing import FilteringBoundLogger

    from skilder_keys.transports.frontend import Frontend

Result = TypeVar("Result")

# Python's garbage collector stops the process while it searches for reference cycles, and the more objects it searches,
# the longer it stops. Calls create no cycles, so each search should cover few objects: one follows every 5,000 new
# objects, every second one also covers those that survived one search, and all objects (a million with many keys in
# memory) are searched only after ten million more.
COLLECTION_THRESHOLDS = (5_000, 1, 1_000)
# The seconds after which a busy thread must give way to the event loop. Python's default of 5 ms adds up.
_SWITCH_SECONDS = 0.001


async def serve(connection: socket.socket, frontend: Frontend) -> int:
    """Serve until the parent sends a stop message or ends, or SIGTERM, and return the exit code.

    Args:
        connection: The socket to the parent. Its first message says what to serve.
        frontend: Receives the calls.
    """
    connection.set_inheritable(False)
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    line = await reader.readline()
    if not line:
        return 0  # the parent has ended already
    first = messages.decode(line)
    try:
        settings = Settings.model_validate(first["settings"])
    except ValidationError as error:  # the parent has another version of the code
        writer.write(messages.encode_failure(error, str(error)))
        await writer.drain()
        writer.close()
        return 1
    log = make_log(settings.log_format).bind(worker=first["worker"])
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
                        first["database_url"],
                        log,
                        stack,
                        frontend,
                        registry,
                        _proofs(first.get("memory"), settings),
                        worker=first["worker"],
                        report=lambda serving: parent.send({"serving": serving}),
                        may_open=parent.open if first.get("opens") else None,
                    ),
                )
            except Exception as error:  # noqa: BLE001 - the parent must learn of any error
                parent.send_failure(error, _reason(error, log))
                return 1
            gc.collect()
            gc.freeze()  # the objects that exist now stay until the end
            gc.set_threshold(*COLLECTION_THRESHOLDS)
            gc.enable()  # it was off while the worker was loaded
            sys.setswitchinterval(_SWITCH_SECONDS)
            if address is not None:
                parent.send({"ready": address})
            await stopping.wait()
    finally:
        listening.cancel()
        writer.close()
        shutil.rmtree(first["folder"], ignore_errors=True)  # the parent does this too, but it may have ended
    return 0


def _proofs(descriptor: int | None, settings: Settings) -> Proofs:
    """Return the table in the memory that the parent holds; a parent of an older version holds none."""
    if descriptor is None:
        return Proofs.of_one_process(settings.cache_keys)
    proofs = Proofs.shared(descriptor)
    os.close(descriptor)
    return proofs


def _await_termination(loop: asyncio.AbstractEventLoop, stopping: asyncio.Event) -> None:
    """Wait for SIGTERM in a separate thread, because Python handles no signals in an Envoy process."""
    signal.sigwait({signal.SIGTERM})
    loop.call_soon_threadsafe(stopping.set)
    # Stopping a group of processes may deliver SIGTERM more than once.
    time.sleep(ONE_SIGNAL_SECONDS)
    signal.sigtimedwait({signal.SIGTERM}, 0)
    signal.sigwait({signal.SIGTERM})
    os._exit(128 + signal.SIGTERM)  # a second signal means: stop now, and wait for nothing


async def _unless(stopping: asyncio.Event, work: Coroutine[Any, Any, Result]) -> Result | None:
    """Return the result of the work, or None if the process must stop first."""
    working, waiting = asyncio.create_task(work), asyncio.create_task(stopping.wait())
    await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    if working.done():
        return working.result()
    working.cancel()
    await asyncio.wait((working,))
    return None


def _reason(error: Exception, log: FilteringBoundLogger) -> str:
    """Return why a start failed, in a text that contains no secrets."""
    if isinstance(error, UnavailableError):
        return str(error.__cause__ or "") or str(error)
    if isinstance(error, (CallersFileError, ExtraMissingError, ListenError, SchemaOutdatedError, OSError)):
        return str(error)
    # Other errors may quote their input, such as a database URL, so log only their type and where they were raised.
    log.error(
        "this worker did not start", error=type(error).__name__, at="".join(traceback.format_tb(error.__traceback__))
    )
    return type(error).__name__
