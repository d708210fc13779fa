"""A worker as the parent sees it: a child process with a socket. `ipc` describes the messages."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from skilder_keys.auth.errors import CallersFileError
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.ipc import messages
from skilder_keys.storage.migrations import SchemaOutdatedError
from skilder_keys.transports.listening import ListenError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from skilder_keys.config import Settings
    from skilder_keys.ipc.metrics import Family

_READY_SECONDS = 60.0
_METRICS_SECONDS = 0.5
_LINE_BYTES = 16 * 2**20
# If a worker reports one of these errors, the same error is raised here.
_START_ERRORS: dict[str, type[Exception]] = {
    each.__name__: each for each in (CallersFileError, ListenError, SchemaOutdatedError, UnavailableError)
}


class StartError(Exception):
    """A worker did not start."""


class WorkerProcess:
    """A worker process that serves. Create it with `start` and end it with `end`.

    Attributes:
        index: The number of the worker, from 0. A worker that replaces it has the same index.
        pid: Its process id.
        folder: A folder for this worker, which no other user can read. It is deleted when the process ends.
        serving: Whether the worker serves and reaches the database, as it last reported.
        unanswered: How many pings in a row it has not responded to.
    """

    def __init__(
        self,
        index: int,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.index = index
        self.pid = process.pid
        self.folder = Path(tempfile.mkdtemp(prefix="skilder-keys-"))
        self._process = process
        self._reader = reader
        self._writer = writer
        self._began = time.monotonic()
        self.serving = False
        self.unanswered = 0
        self._pings = 0
        self._pongs = 0
        self._prepared = asyncio.Event()
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        # Nobody waits for it if `begin` is cancelled or fails before that; its error is no news then.
        self._ready.add_done_callback(lambda ready: ready.cancelled() or ready.exception())
        self._metrics: asyncio.Future[list[Family] | None] | None = None
        self._listening = asyncio.create_task(self._listen())
        self._ending = asyncio.create_task(self._wait_for_exit(process))

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        settings: Settings,
        database_url: str,
        index: int,
        prepared: Callable[[], Awaitable[None]] | None = None,
        *,
        memory: int | None = None,
        spawned: Callable[[int], None] = lambda _: None,
    ) -> Self:
        """Start a worker and wait until it serves.

        Args:
            command: What to run. The descriptor of the worker's end of the socket is added as the last argument.
            settings: The settings. They and the URL go over the socket, where no other user of the machine can read
                them.
            database_url: The URL of the database.
            index: The number of the worker, from 0.
            prepared: Called when the worker could listen. It listens when this returns.
            memory: The descriptor of the memory that all workers share.
            spawned: Called with the process id, before the worker gets its settings.

        Raises:
            UnavailableError, SchemaOutdatedError, CallersFileError, ListenError: As `worker.wiring.start`, which runs
                in the worker.
            StartError: The worker ended, or was not ready in time.
        """
        worker = await cls._spawn(command, index, () if memory is None else (memory,))
        spawned(worker.pid)
        try:
            start: dict[str, Any] = {"worker": index, "folder": str(worker.folder), "memory": memory}
            start |= {"settings": _sent_settings(settings), "database_url": database_url}
            await worker.begin(start, prepared)
        except BaseException:
            await worker.end(0)
            raise
        return worker

    @classmethod
    async def _spawn(cls, command: Sequence[str], index: int, descriptors: Sequence[int]) -> Self:
        parent_socket, worker_socket = socket.socketpair()
        with worker_socket:
            reader, writer = await asyncio.open_unix_connection(sock=parent_socket, limit=_LINE_BYTES)
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    str(worker_socket.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[worker_socket.fileno(), *descriptors],
                    env=_environment(),
                    # Ctrl-C in a terminal must reach only the parent, also while a worker's interpreter starts.
                    process_group=0,
                )
            except BaseException:
                writer.close()
                raise
        return cls(index, process, reader, writer)

    async def begin(self, start: dict[str, Any], prepared: Callable[[], Awaitable[None]] | None) -> None:
        """Send the first message, which says what to serve, and wait until the worker serves. Raises as `start`."""
        self._send(start if prepared is None else {**start, "opens": True})
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await self._prepared.wait()
                if prepared is not None and not self._ready.done():
                    await prepared()
                    self._send({"open": None})
                await self._ready
        except TimeoutError:
            raise StartError(f"A worker was not ready within {_READY_SECONDS:.0f} s.") from None

    @property
    def runs(self) -> bool:
        """Return whether the process runs."""
        return not self._ending.done()

    @property
    def seconds(self) -> float:
        """The seconds since the process was started."""
        return time.monotonic() - self._began

    async def ended(self) -> int:
        """Wait for the end and return the exit code, or the negative number of the signal that ended the process."""
        return await asyncio.shield(self._ending)

    async def metrics(self) -> list[Family] | None:
        """Return the worker's metrics, or None if it does not send them in time."""
        if self._listening.done():
            return None
        # Ask a frozen worker only once; more requests would fill the socket.
        if self._metrics is None:
            self._metrics = asyncio.get_running_loop().create_future()
            self._send({"ask": "metrics"})
        with suppress(TimeoutError):
            async with asyncio.timeout(_METRICS_SECONDS):
                return await asyncio.shield(self._metrics)
        return None

    def ping(self) -> None:
        """Send a ping or, while the last one is unanswered, count it once more unless a debugger traces the worker."""
        if self._pings == self._pongs:
            self.unanswered = 0
            self._pings += 1
            # Ping a frozen worker only once; more pings would fill the socket.
            self._send({"ping": self._pings})
        elif not _is_traced(self.pid):
            self.unanswered += 1

    def hand_over(self, successor: int) -> None:
        """Tell the worker to end once it has no connection left; see `worker.handover`.

        Args:
            successor: The position of the new worker's socket among those that listen on the port.
        """
        self._send({"hand_over": successor})

    async def end(self, seconds: float) -> bool:
        """Tell the worker to finish its calls and end, and do as `end_within` does."""
        # Send a message, not a signal: somebody may have sent SIGTERM to all processes already, and a second SIGTERM
        # would end the worker at once.
        self._send({"drain": None})
        return await self.end_within(seconds)

    async def end_within(self, seconds: float) -> bool:
        """Wait until the worker ends. Kill it after this many seconds. Return whether it ended before."""
        in_time = False
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ended()
                in_time = True
        self.kill()
        await self.ended()
        self._writer.close()
        return in_time

    def kill(self) -> None:
        """Kill the worker if it runs."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def _wait_for_exit(self, process: asyncio.subprocess.Process) -> int:
        code = await process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
        return code

    def _send(self, message: dict[str, Any]) -> None:
        self._writer.write(messages.encode(message))

    async def _listen(self) -> None:
        try:
            while line := await self._reader.readline():
                self._receive(messages.decode(line))
        except ConnectionError:
            pass  # the worker has ended, as at the end of the stream
        except Exception:
            self.kill()  # it sent an invalid message, so it may never end by itself
            raise
        finally:
            self._prepared.set()
            if not self._ready.done():
                self._ready.set_exception(StartError("A worker ended before it served."))
            if self._metrics is not None:
                self._metrics.set_result(None)

    def _receive(self, message: dict[str, Any]) -> None:
        if message.keys() & {"prepared", "ready", "failed"}:  # another version of the worker listens without asking
            self._prepared.set()
        match message:
            case {"ready": str() as address} if not self._ready.done():
                self._ready.set_result(address)
            case {"failed": {"kind": str() as kind, "message": str() as text}} if not self._ready.done():
                error = _START_ERRORS.get(kind)
                self._ready.set_exception(error(text) if error else StartError(f"A worker did not start: {text}"))
            case {"serving": bool() as serving}:
                self.serving = serving
            case {"pong": int() as number}:
                self._pongs = number
                self.unanswered = 0
            case {"metrics": list() as families} if self._metrics is not None:
                self._metrics.set_result(families)
                self._metrics = None


def _is_traced(pid: int) -> bool:
    """Return whether a debugger or another tracer is attached to a process, and so may have stopped it."""
    with suppress(OSError):
        return "\nTracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    return False


def _sent_settings(settings: Settings) -> dict[str, Any]:
    """Return the settings in the form in which they are sent to a worker.

    Defaults are left out: after an upgrade, SIGHUP starts workers of the new version, which have their own defaults.
    """
    sent = settings.model_dump(mode="json", exclude={"database_url"}, exclude_defaults=True)
    return {**sent, "listen": settings.listen}


def _environment() -> dict[str, str]:
    """Return the environment of a worker: that of this process without the settings, which are sent as a message."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SKILDER_KEYS_")}
    # By default gRPC writes a line for each failed TLS handshake, and anybody can cause those.
    return {"GRPC_VERBOSITY": "ERROR", **kept}
