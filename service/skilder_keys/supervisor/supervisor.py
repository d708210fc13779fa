"""The parent process of a server: it holds the address, the workers and the embedded database while the server runs.

It serves no calls and does not import gRPC: what it holds must outlive every worker.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
from contextlib import contextmanager, nullcontext, suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING, NoReturn

from skilder_keys.ipc.signals import ONE_SIGNAL_SECONDS
from skilder_keys.storage.migrations import migrate
from skilder_keys.supervisor import watchdog
from skilder_keys.supervisor.address import reserve_port
from skilder_keys.supervisor.companion import Companion
from skilder_keys.supervisor.data_folder import own
from skilder_keys.supervisor.embedded_postgres import EmbeddedPostgres, EmbeddedPostgresError, drop_variables
from skilder_keys.supervisor.http_endpoint import Response, http_endpoint
from skilder_keys.supervisor.metrics import metrics_endpoint
from skilder_keys.supervisor.shared_memory import shared_memory
from skilder_keys.supervisor.worker_pool import WorkerPool
from skilder_keys.supervisor.worker_process import StartError, WorkerProcess
from skilder_keys.transports.choice import choose
from skilder_keys.transports.connections import longest_handover

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from skilder_keys.config import Settings

WORKER_COMMAND = (sys.executable, "-P", "-m", "skilder_keys.worker")
"""The command that runs a worker. -P: do not import modules from the folder that the server was started in."""

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_WATCH_SECONDS = 1.0
# After its last call a worker ends its threads, writes the last uses and closes the database, which may not respond.
_CLOSE_SECONDS = 15.0
# Longer than a watchdog takes that is not frozen.
_WATCHDOG_SECONDS = 6.0


def run(settings: Settings, log: FilteringBoundLogger, worker_command: Sequence[str] = WORKER_COMMAND) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP replaces the workers.

    With a database URL, use that database; `skilder-keys migrate` must have migrated it. Without one, start an embedded
    Postgres in the data folder, migrate it, and stop it when the server ends.

    Args:
        settings: The settings.
        log: The log.
        worker_command: The command that runs a worker; the descriptor of its socket is added as the last argument.

    Raises:
        DataFolderError: The data folder cannot be written to, or another server runs its embedded Postgres there.
        EmbeddedPostgresError: The embedded Postgres is not installed, or did not start.
        UnavailableError, SchemaOutdatedError, CallersFileError, ListenError, StartError: As `WorkerProcess.start`.
    """
    transport = choose(settings.transport)
    if settings.http_json and transport.transport == "grpcio":
        raise StartError(f"http_json needs the transport envoy, which cannot be used: {transport.reason}")
    settings = settings.model_copy(update={"transport": transport.transport})
    # The service must be able to use the files that it creates, even if the umask of the shell denies this.
    os.umask(os.umask(0) & ~stat.S_IRWXU)
    if settings.database_url is not None:
        asyncio.run(
            _Supervisor(settings, log, worker_command, transport.reason).serve(settings.database_url.get_secret_value())
        )
        return
    drop_variables()
    # Until the event loop handles the signals, a signal must not leave a Postgres running.
    for number in _STOP_SIGNALS:
        signal.signal(number, _exit_on_signal)
    with own(settings.data_dir), _embedded_postgres(settings.data_dir / "postgres", log) as postgres:
        for migration in asyncio.run(migrate(postgres.url(), settings.database_schema)):
            log.info("migrated", number=migration.number, name=migration.name)
        asyncio.run(_Supervisor(settings, log, worker_command, transport.reason, postgres).serve(postgres.url()))


class _Supervisor:
    """A running server, which the signals stop or reload."""

    def __init__(
        self,
        settings: Settings,
        log: FilteringBoundLogger,
        worker_command: Sequence[str],
        transport_reason: str,
        postgres: EmbeddedPostgres | None = None,
    ) -> None:
        self._settings = settings
        self._log = log
        self._command = worker_command
        self._transport_reason = transport_reason
        self._postgres = postgres
        self._reload = asyncio.Event()
        self._stopping_since: float | None = None
        self._at_terminal = _is_at_terminal()

    async def serve(self, database_url: str) -> None:
        """Serve until a signal stops the server. Raises as `run` does."""
        settings = self._settings
        with (
            reserve_port(settings.listen) as address,
            nullcontext() if settings.gateway_listen is None else reserve_port(settings.gateway_listen) as gateways,
            _watchdog() as watch,
            shared_memory(settings.cache_keys) as memory,
        ):
            settings = settings.model_copy(update={"listen": address, "gateway_listen": gateways})
            workers = WorkerPool(
                partial(WorkerProcess.start, self._command, settings, database_url, memory=memory, spawned=watch),
                self._log,
                end_seconds=settings.drain_timeout + _CLOSE_SECONDS,
                handover_seconds=longest_handover(settings.max_connection_age),
                frozen_seconds=settings.worker_timeout,
            )
            probes: dict[str, Callable[[], Awaitable[Response]]] = {
                "/healthz": _healthz,
                "/readyz": partial(self._readyz, workers),
            }
            async with (
                metrics_endpoint(settings.metrics_listen, workers.metrics) as metrics_address,
                http_endpoint(settings.health_listen, "health", probes) as health_address,
            ):
                endpoints = {"gateways": gateways, "metrics": metrics_address, "health": health_address}
                serving = asyncio.create_task(self._serve(workers, address, endpoints))
                for number in _STOP_SIGNALS:
                    asyncio.get_running_loop().add_signal_handler(number, self._on_signal, number, serving, workers)
                restarts = asyncio.create_task(_restart_crashed(self._postgres, self._log)) if self._postgres else None
                try:
                    with suppress(asyncio.CancelledError):
                        await serving
                    self._log.info("draining", seconds=settings.drain_timeout)
                    await asyncio.sleep(settings.drain_delay)
                finally:
                    await workers.end()
                    self._log.info("stopped")
                    # Signals are still handled here: a second signal stops Postgres at once.
                    if restarts is not None and self._postgres is not None:
                        restarts.cancel()
                        await asyncio.to_thread(self._postgres.stop)

    async def _serve(self, workers: WorkerPool, address: str, endpoints: Mapping[str, str | None]) -> NoReturn:
        settings = self._settings
        await workers.start(settings.workers)
        self._log.info(
            "serving",
            address=address,
            tls=settings.tls_cert is not None,
            workers=settings.workers,
            transport=settings.transport,
            transport_reason=self._transport_reason,
            **{name: endpoint for name, endpoint in endpoints.items() if endpoint},
        )
        while True:
            await self._reload.wait()
            self._reload.clear()
            self._log.info("reloading")
            await workers.reload()

    async def _readyz(self, workers: WorkerPool) -> Response:
        reason = "the server drains" if self._stopping_since is not None else workers.why_not_ready()
        if reason is None:
            return Response(b"ready\n")
        return Response(f"not ready: {reason}\n".encode(), HTTPStatus.SERVICE_UNAVAILABLE)

    def _on_signal(self, number: signal.Signals, serving: asyncio.Task[NoReturn], workers: WorkerPool) -> None:
        # Closing a terminal sends SIGHUP too. Then the server must stop, because nobody could stop it any more.
        if number == signal.SIGHUP and not (self._at_terminal and not _is_at_terminal()):
            self._reload.set()
            return
        now = asyncio.get_running_loop().time()
        if self._stopping_since is None:
            self._stopping_since = now
            serving.cancel()
        elif now - self._stopping_since >= ONE_SIGNAL_SECONDS:
            # A second signal means: stop now, and wait for nothing.
            workers.kill()
            if self._postgres is not None:
                self._postgres.quit()
            os._exit(128 + number)


@contextmanager
def _watchdog() -> Iterator[Callable[[int], None]]:
    """Start a watchdog, and yield the function that makes it watch a worker's process."""
    companion = Companion(watchdog.__file__)
    try:
        yield lambda pid: companion.send(str(pid))
    finally:
        companion.disconnect(_WATCHDOG_SECONDS)


async def _healthz() -> Response:
    return Response(b"ok\n")


def _is_at_terminal() -> bool:
    return any(os.isatty(descriptor) for descriptor in range(3))


async def _restart_crashed(postgres: EmbeddedPostgres, log: FilteringBoundLogger) -> NoReturn:
    """Start Postgres again whenever it has crashed."""
    while True:
        await asyncio.sleep(_WATCH_SECONDS)
        if not postgres.is_running():
            log.warning("the embedded Postgres is gone: starting it again")
            try:
                await asyncio.to_thread(postgres.restart)
            except EmbeddedPostgresError as error:
                log.error("the embedded Postgres did not start", error=str(error))  # noqa: TRY400 - the message says why


@contextmanager
def _embedded_postgres(folder: Path, log: FilteringBoundLogger) -> Iterator[EmbeddedPostgres]:
    log.info("starting the embedded Postgres", folder=str(folder))
    postgres = EmbeddedPostgres.start(folder)
    try:
        yield postgres
    finally:
        postgres.stop()


def _exit_on_signal(number: int, _frame: object) -> NoReturn:
    # The cleanup takes a few seconds at most, and a second signal would interrupt it.
    for each in _STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(128 + number)
