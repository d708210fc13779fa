"""A worker as its parent sees it: a child process at the other end of a socket; see `ipc` for the messages."""

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

from skilder_keys.auth.callers_file import CallersFileError
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.ipc import messages
from skilder_keys.storage.migrations import SchemaOutdatedError
from skilder_keys.transports.listening import ListenError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skilder_keys.config import Settings
    from skilder_keys.ipc.metrics import Family

_READY_SECONDS = 60.0
_METRICS_SECONDS = 0.5
_LINE_BYTES = 16 * 2**20
# Errors that a worker sends are raised here as what they were there.
_START_ERRORS: dict[str, type[Exception]] = {
    each.__name__: each for each in (CallersFileError, ListenError, SchemaOutdatedError, UnavailableError)
}


class StartError(Exception):
    """A worker did not start."""


class WorkerProcess:
    """A worker process that serves. Make it with `start`, end it with `end`.

    Attributes:
        index: Which of the workers it is; its successor will be the same one.
        pid: Its process number.
        folder: A folder of its own that no other user can look into; it is gone when the process is.
        serving: Whether it serves and reaches the database, by its own last word.
        unanswered: How many pings in a row it has not answered.
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
        self._ready: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._metrics: asyncio.Future[list[Family] | None] | None = None
        self._listening = asyncio.create_task(self._listen())
        self._ending = asyncio.create_task(self._end_of(process))

    @classmethod
    async def start(
        cls,
        command: Sequence[str],
        settings: Settings,
        database_url: str,
        index: int,
        *,
        spawned: Callable[[int], None] = lambda _: None,
    ) -> Self:
        """Starts a worker and waits until it serves.

        Args:
            command: What to run; the number of the worker's end of the socket is added to it.
            settings: Its settings. These and the URL go over the socket, where no other user of the machine reads them.
            database_url: The database.
            index: Which of the workers it is.
            spawned: Called with its process number, before it has done anything.

        Raises:
            UnavailableError, SchemaOutdatedError, CallersFileError, ListenError: As `server.start`, in the worker.
            StartError: It ended, or was not ready in time.
        """
        worker = await cls._spawn(command, index)
        spawned(worker.pid)
        try:
            order = {"worker": index, "settings": _sent_settings(settings), "database_url": database_url}
            await worker.begin({**order, "folder": str(worker.folder)})
        except BaseException:
            await worker.end(0)
            raise
        return worker

    @classmethod
    async def _spawn(cls, command: Sequence[str], index: int) -> Self:
        ours, theirs = socket.socketpair()
        with theirs:
            reader, writer = await asyncio.open_unix_connection(sock=ours, limit=_LINE_BYTES)
            try:
                process = await asyncio.create_subprocess_exec(
                    *command,
                    str(theirs.fileno()),
                    stdin=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    env=_environment(),
                    # A terminal's Ctrl-C is for the parent, also while a worker's interpreter still starts.
                    process_group=0,
                )
            except BaseException:
                writer.close()
                raise
        return cls(index, process, reader, writer)

    async def begin(self, order: dict[str, Any]) -> None:
        """Says what to serve, and waits until it does. Raises as `start` does."""
        self._send(order)
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await self._ready
        except TimeoutError:
            raise StartError(f"A worker was not ready within {_READY_SECONDS:.0f} s.") from None

    @property
    def runs(self) -> bool:
        """Tells whether the process runs."""
        return not self._ending.done()

    @property
    def seconds(self) -> float:
        """How long ago it was started."""
        return time.monotonic() - self._began

    async def ended(self) -> int:
        """Waits for the end and answers the exit code, or the negative number of the signal."""
        return await asyncio.shield(self._ending)

    async def metrics(self) -> list[Family] | None:
        """Answers the worker's metrics, or None where it does not tell them soon."""
        if self._listening.done():
            return None
        # A worker that is frozen is asked once, not again and again until the socket is full.
        if self._metrics is None:
            self._metrics = asyncio.get_running_loop().create_future()
            self._send({"ask": "metrics"})
        with suppress(TimeoutError):
            async with asyncio.timeout(_METRICS_SECONDS):
                return await asyncio.shield(self._metrics)
        return None

    def ping(self) -> None:
        """Ask for a sign of life, or count one more that did not come; not while a debugger holds the process."""
        if self._pings == self._pongs:
            self.unanswered = 0
            self._pings += 1
            # One that is frozen is asked once, not again and again until the socket is full.
            self._send({"ping": self._pings})
        elif not _is_traced(self.pid):
            self.unanswered += 1

    def hand_over(self, successor: int) -> None:
        """Have it end as soon as nobody is connected to it any more; see `worker.handover`."""
        self._send({"hand_over": successor})

    async def end(self, patience: float) -> None:
        """Has it end its calls and itself; after so many seconds, kills it."""
        # Said, not signalled: where somebody sends SIGTERM to every process, a second one would end it at once.
        self._send({"drain": None})
        await self.end_within(patience)

    async def end_within(self, patience: float) -> None:
        """Waits for its end; after so many seconds, kills it."""
        with suppress(TimeoutError):
            async with asyncio.timeout(patience):
                await self.ended()
        self.kill()
        await self.ended()
        self._writer.close()

    def kill(self) -> None:
        """Kills it, if it runs."""
        with suppress(ProcessLookupError):
            self._process.kill()

    async def _end_of(self, process: asyncio.subprocess.Process) -> int:
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
            pass  # it is gone, as at the end of the stream
        except Exception:
            self.kill()  # it talks nonsense, so its end must not be waited for
            raise
        finally:
            if not self._ready.done():
                self._ready.set_exception(StartError("A worker ended before it served."))
            if self._metrics is not None:
                self._metrics.set_result(None)

    def _receive(self, message: dict[str, Any]) -> None:
        match message:
            case {"ready": str() as address} if not self._ready.done():
                self._ready.set_result(address)
            case {"failed": {"kind": str() as kind, "message": str() as words}} if not self._ready.done():
                error = _START_ERRORS.get(kind)
                self._ready.set_exception(error(words) if error else StartError(f"A worker did not start: {words}"))
            case {"serving": bool() as serving}:
                self.serving = serving
            case {"pong": int() as number}:
                self._pongs = number
                self.unanswered = 0
            case {"metrics": list() as families} if self._metrics is not None:
                self._metrics.set_result(families)
                self._metrics = None


def _is_traced(pid: int) -> bool:
    """Return whether a debugger, or another tracer, has stopped a process, or may."""
    with suppress(OSError):
        return "\nTracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text("ascii", "replace")
    return False


def _sent_settings(settings: Settings) -> dict[str, Any]:
    """Answers settings as a worker takes them.

    Defaults are left out: where SIGHUP brings code of another version in, they are that version's.
    """
    sent = settings.model_dump(mode="json", exclude={"database_url"}, exclude_defaults=True)
    return {**sent, "listen": settings.listen}


def _environment() -> dict[str, str]:
    """Return what a worker finds in its environment: what this process does, but for the settings, which it is sent."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("SKILDER_KEYS_")}
    # A line of gRPC's own for each TLS handshake that fails is one that anybody can cause.
    return {"GRPC_VERBOSITY": "ERROR", **kept}
