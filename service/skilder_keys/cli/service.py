"""What `serve` and `migrate` do. It loads the whole service, so `serve` imports it only to run these two commands."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import typer

from skilder_keys.auth.errors import CallersFileError
from skilder_keys.cli.exits import Exit, fail, reason
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.logs import make_log
from skilder_keys.storage import migrations
from skilder_keys.storage.migrations import SchemaOutdatedError
from skilder_keys.supervisor.data_folder import DataFolderError
from skilder_keys.supervisor.embedded_postgres import EmbeddedPostgresError
from skilder_keys.supervisor.supervisor import run
from skilder_keys.supervisor.worker_process import StartError
from skilder_keys.transports.listening import ListenError

if TYPE_CHECKING:
    from skilder_keys.config import Settings

_REFUSALS = (
    CallersFileError,
    DataFolderError,
    EmbeddedPostgresError,
    ListenError,
    SchemaOutdatedError,
    StartError,
)


def serve(settings: Settings) -> None:
    """Run the service until SIGTERM or Ctrl-C."""
    log = make_log(settings.log_format)
    try:
        run(settings, log)
    except _REFUSALS as error:
        raise fail(str(error), Exit.FAILED) from None
    except UnavailableError as error:
        raise fail(f"cannot reach the database: {reason(error.__cause__ or error)}", Exit.UNAVAILABLE) from None


def migrate(database_url: str, schema: str) -> None:
    """Bring a database up to date, and print what was run."""
    try:
        done = asyncio.run(migrations.migrate(database_url, schema))
    except UnavailableError as error:
        raise fail(f"cannot migrate: {reason(error.__cause__ or error)}", Exit.UNAVAILABLE) from None
    for migration in done:
        typer.echo(f"ran {migration.number:04} {migration.name}")
    if not done:
        typer.echo("up to date")
