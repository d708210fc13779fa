"""The parent of a server: its address, its workers, and the embedded database for as long as the server runs.

It serves no call itself and has nothing of gRPC's: what it holds must outlive every worker.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import sys
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, NoReturn

from service.address import held
from service.embedded import EmbeddedPostgres, EmbeddedPostgresError
from service.leaving import longest_leave
from service.metrics import endpoint
from service.storage.migrations import migrate
from service.worker_process import WorkerProcess
from service.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from service.config import Settings

# -P: nothing of the folder that the server was started from is taken for a module.
WORKERS = {
    door: (sys.executable, "-P", "-m", module)
    for door, module in {"grpcio": "service.worker", "envoy": "service.envoy"}.items()
}
_WATCH_SECONDS = 1.0
# After its calls a worker ends its threads, writes the last uses and closes the database, which may not answer.
_CLOSE_SECONDS = 15.0


class DataFolderTakenError(Exception):
    """Another server uses this data folder."""


def run(settings: Settings, log: FilteringBoundLogger, worker_command: Sequence[str] = ()) -> None:
    """Serves until SIGTERM or SIGINT; SIGHUP replaces the workers.

    With a database URL, on that database, which `skilder-keys migrate` brought up to date. Without one, on an embedded
    Postgres in the data folder, brought up to date here, which ends with the server.

    Args:
        settings: The settings.
        log: The log.
        worker_command: What a worker runs, if not what the door has it run. Like that it is given a number last.

    Raises:
        DataFolderTakenError: Another server has its embedded Postgres in the same folder.
        EmbeddedPostgresError: The embedded Postgres is not installed, or did not start.
        UnavailableError, SchemaOutdatedError, CallersFileError, ListenError, StartError: As `WorkerProcess.start`.
    """
    worker_command = worker_command or WORKERS[settings.door]
    if settings.database_url is not None:
        asyncio.run(_Supervisor(settings, log, worker_command).serve(settings.database_url.get_secret_value()))
        return
    # Until the server takes the signals over, they too must not leave a Postgres running behind.
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    with _own(settings.data_dir), _embedded_postgres(settings.data_dir / "postgres", log) as postgres:
        for migration in asyncio.run(migrate(postgres.url())):
            log.info("migrated", number=migration.number, name=migration.name)
        asyncio.run(_serve_beside(postgres, settings, log, worker_command))


class _Supervisor:
    """What the signals act upon."""

    def __init__(self, settings: Settings, log: FilteringBoundLogger, worker_command: Sequence[str]) -> None:
        self._settings = settings
        self._log = log
        self._command = worker_command
        self._reload = asyncio.Event()
        self._stopping = False
        self._at_terminal = _is_at_terminal()

    async def serve(self, database_url: str) -> None:
        """Serves until it is told to stop. Raises as `run` does."""
        with held(self._settings.listen) as address:
            settings = self._settings.model_copy(update={"listen": address})
            workers = Workers(
                partial(WorkerProcess.start, self._command, settings, database_url),
                self._log,
                end_seconds=settings.drain_timeout + _CLOSE_SECONDS,
                leave_seconds=longest_leave(settings.max_connection_age),
            )
            async with endpoint(settings.metrics_listen, workers.metrics) as metrics_address:
                serving = asyncio.create_task(self._serve(workers, address, metrics_address))
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number, serving, workers)
                try:
                    with suppress(asyncio.CancelledError):
                        await serving
                    self._log.info("draining", seconds=settings.drain_timeout)
                finally:
                    await workers.end()
        self._log.info("stopped")

    async def _serve(self, workers: Workers, address: str, metrics_address: str | None) -> NoReturn:
        settings = self._settings
        await workers.start(settings.workers)
        self._log.info(
            "serving",
            address=address,
            tls=settings.tls_cert is not None,
            workers=settings.workers,
            **({"metrics": metrics_address} if metrics_address else {}),
        )
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._log.info("reloading")
            await workers.reload()

    def _on_signal(self, number: signal.Signals, serving: asyncio.Task[NoReturn], workers: Workers) -> None:
        # A terminal that is closed sends SIGHUP too; then nobody is left to stop the server.
        if number == signal.SIGHUP and not (self._at_terminal and not _is_at_terminal()):
            self._reload.set()
            return
        if self._stopping:
            workers.kill()
            os._exit(128 + number)  # asked twice: whoever asks does not want to wait for anything
        self._stopping = True
        serving.cancel()


def _is_at_terminal() -> bool:
    return any(os.isatty(descriptor) for descriptor in range(3))


async def _serve_beside(
    postgres: EmbeddedPostgres, settings: Settings, log: FilteringBoundLogger, worker_command: Sequence[str]
) -> None:
    watching = asyncio.create_task(_keep_running(settings.data_dir / "postgres", postgres, log))
    try:
        await _Supervisor(settings, log, worker_command).serve(postgres.url())
    finally:
        watching.cancel()


async def _keep_running(folder: Path, postgres: EmbeddedPostgres, log: FilteringBoundLogger) -> NoReturn:
    """Starts Postgres again whenever it has crashed."""
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        if not postgres.is_running():
            log.warning("the embedded Postgres is gone: starting it again")
            try:
                await asyncio.to_thread(EmbeddedPostgres.start, folder)
            except EmbeddedPostgresError as error:
                log.error("the embedded Postgres did not start", error=str(error))  # noqa: TRY400 - no fault of ours


@contextmanager
def _own(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise DataFolderTakenError(f"Another skilder-keys serves from {folder}: set another data folder.") from None
        yield


@contextmanager
def _embedded_postgres(folder: Path, log: FilteringBoundLogger) -> Iterator[EmbeddedPostgres]:
    log.info("starting the embedded Postgres", folder=str(folder))
    postgres = EmbeddedPostgres.start(folder)
    try:
        yield postgres
    finally:
        postgres.stop()


def _leave(number: int, _frame: object) -> NoReturn:
    sys.exit(128 + number)
