"""skilder-keys serve, and skilder-keys migrate."""

from __future__ import annotations

from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.options import takes_settings
from skilder_keys.config import Settings


@takes_settings()
def serve(settings: Settings) -> None:
    """Run the service in the foreground, until SIGTERM or Ctrl-C."""
    from skilder_keys.cli import service  # noqa: PLC0415 - slow to load, and of no use to the help

    service.serve(settings)


@takes_settings("database_url", "database_schema")
def migrate(settings: Settings) -> None:
    """Bring the schema of the database up to date.

    The database is that of SKILDER_KEYS_DATABASE_URL. For an embedded database, `serve` does this itself.
    """
    if settings.database_url is None:
        raise fail("set SKILDER_KEYS_DATABASE_URL; the embedded database is migrated by serve", Exit.USAGE)
    from skilder_keys.cli import service  # noqa: PLC0415 - as in `serve`

    service.migrate(settings.database_url.get_secret_value(), settings.database_schema)
