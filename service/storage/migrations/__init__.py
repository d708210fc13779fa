"""Forward-only numbered migrations: `NNNN_name.sql`, each run once, in order, in a transaction of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import asyncpg

from service.storage.database import translated_errors

if TYPE_CHECKING:
    from service.storage.database import Connection

_LOCK = 0x534B_4B45_5953  # "SKKEYS": the advisory lock that lets one process migrate at a time
_NAME = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    number: int
    name: str
    sql: str


def migrations() -> tuple[Migration, ...]:
    """Answers every migration there is, in order."""
    found = (
        Migration(int(match[1]), match[2], file.read_text("utf-8"))
        for file in files(__package__).iterdir()
        if (match := _NAME.fullmatch(file.name))
    )
    return tuple(sorted(found, key=lambda migration: migration.number))


async def migrate(url: str) -> tuple[Migration, ...]:
    """Brings the schema up to date and answers the migrations that were run.

    One process does so at a time: others wait up to a minute for it. A statement that cannot get its lock within 5 s
    gives up, so that a migration never queues the whole service up behind itself; run it again then.

    Raises:
        UnavailableError: The database cannot be reached, or a lock could not be had.
    """
    with translated_errors():
        connection = await asyncpg.connect(url, timeout=10)
        try:
            await connection.execute("SET lock_timeout = '60s'")
            await connection.execute("SELECT pg_advisory_lock($1)", _LOCK)
            await connection.execute("SET lock_timeout = '5s'")
            done = await schema_version(connection)
            pending = tuple(each for each in migrations() if each.number > done)
            for migration in pending:
                await _run(connection, migration)
            return pending
        finally:
            await connection.close()


async def schema_version(connection: Connection) -> int:
    """Answers the number of the last migration the database has seen; 0 for an empty database."""
    if await connection.fetchval("SELECT to_regclass('schema_migration') IS NULL"):
        return 0
    return int(await connection.fetchval("SELECT coalesce(max(number), 0) FROM schema_migration"))


class SchemaOutdatedError(Exception):
    """The database has not seen every migration: run `skilder-keys migrate`."""


async def require_schema(connection: Connection) -> None:
    """Raises SchemaOutdatedError where a migration is missing. A newer schema is fine: migrations only add."""
    if await schema_version(connection) < migrations()[-1].number:
        raise SchemaOutdatedError(SchemaOutdatedError.__doc__)


async def _run(connection: Connection, migration: Migration) -> None:
    async with connection.transaction():
        await connection.execute(
            """
            CREATE TABLE IF NOT EXISTS schema_migration (
                number integer     PRIMARY KEY,
                name   text        NOT NULL,
                run_at timestamptz NOT NULL DEFAULT now()
            )
            """
        )
        await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO schema_migration (number, name) VALUES ($1, $2)", migration.number, migration.name
        )
