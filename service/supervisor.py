"""The parent of a server: the data folder, and the embedded database for as long as the server runs."""

from __future__ import annotations

import asyncio
import fcntl
import signal
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from service.embedded import EmbeddedPostgres, EmbeddedPostgresError
from service.server import serve
from service.storage.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from service.config import Settings

_WATCH_SECONDS = 1.0


class DataFolderTakenError(Exception):
    """Another server uses this data folder."""


def run(settings: Settings, log: FilteringBoundLogger) -> None:
    """Serves until SIGTERM or SIGINT.

    With a database URL, on that database, which `skilder-keys migrate` brought up to date. Without one, on an embedded
    Postgres in the data folder, brought up to date here, which ends with the server.

    Raises:
        DataFolderTakenError: Another server has its embedded Postgres in the same folder.
        EmbeddedPostgresError: The embedded Postgres is not installed, or did not start.
        UnavailableError, SchemaOutdatedError, CallersFileError, ListenError: As `server.serve`.
    """
    if settings.database_url is not None:
        asyncio.run(serve(settings, settings.database_url.get_secret_value(), log))
        return
    # Until the server takes the signals over, they too must not leave a Postgres running behind.
    signal.signal(signal.SIGTERM, _leave)
    with _own(settings.data_dir), _embedded_postgres(settings.data_dir / "postgres", log) as postgres:
        for migration in asyncio.run(migrate(postgres.url())):
            log.info("migrated", number=migration.number, name=migration.name)
        asyncio.run(_serve_beside(postgres, settings, log))


async def _serve_beside(postgres: EmbeddedPostgres, settings: Settings, log: FilteringBoundLogger) -> None:
    watching = asyncio.create_task(_keep_running(settings.data_dir / "postgres", postgres, log))
    try:
        await serve(settings, postgres.url(), log)
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
