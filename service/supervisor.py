"""The parent of a server: the data folder, the embedded database, then the server itself."""

from __future__ import annotations

import asyncio
import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING

from service.embedded import EmbeddedPostgres
from service.server import serve
from service.storage.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from structlog.typing import FilteringBoundLogger

    from service.config import Settings


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
    with _own(settings.data_dir), _embedded_postgres(settings.data_dir / "postgres", log) as url:
        for migration in asyncio.run(migrate(url)):
            log.info("migrated", number=migration.number, name=migration.name)
        asyncio.run(serve(settings, url, log))


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
def _embedded_postgres(folder: Path, log: FilteringBoundLogger) -> Iterator[str]:
    log.info("starting the embedded Postgres", folder=str(folder))
    postgres = EmbeddedPostgres.start(folder)
    try:
        yield postgres.url()
    finally:
        postgres.stop()
