"""Forward-only numbered migrations: `NNNN_name.sql`, each run once, in order, in a transaction of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import asyncpg

from skilder_keys.storage.database import translated_errors
from skilder_keys.storage.sessions import Connector, DatabaseFaultError, transaction
from skilder_keys.storage.triggers import require_triggers
from skilder_keys.storage.url import DEFAULT_SCHEMA

if TYPE_CHECKING:
    from skilder_keys.storage.database import Connection

_LOCK = 0x534B_4B45_5953  # "SKKEYS": the advisory lock that lets one process migrate at a time
_LIMITS = {"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0"}
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


async def migrate(url: str, schema: str = DEFAULT_SCHEMA) -> tuple[Migration, ...]:
    """Bring the schema up to date and return the migrations that were run.

    One process does so at a time: others wait up to a minute for it. A statement that cannot get its lock within 5 s
    gives up, so that a migration never queues the whole service up behind itself; run it again then.

    Raises:
        DatabaseUrlError: The URL cannot be used.
        UnavailableError: The database cannot be reached, is none that can be used, or a lock could not be had.
    """
    connector = Connector(url, schema)
    run: list[Migration] = []
    with translated_errors():
        connection = await connector.connect("skilder-keys migrate", max(10, connector.patience), settings=_LIMITS)
        try:
            while migration := await _run_next(connection, schema):
                run.append(migration)
        except asyncpg.InsufficientPrivilegeError as error:
            role = await connection.fetchval("SELECT current_user")
            raise DatabaseFaultError(f"the role {role} is not the owner, or may not create tables: {error}") from None
        finally:
            await connection.close()
    return tuple(run)


async def schema_version(connection: Connection) -> int:
    """Answers the number of the last migration the database has seen; 0 for an empty database."""
    if await connection.fetchval("SELECT to_regclass('schema_migration') IS NULL"):
        return 0
    return int(await connection.fetchval("SELECT coalesce(max(number), 0) FROM schema_migration"))


class SchemaOutdatedError(Exception):
    """The database has not seen every migration: run `skilder-keys migrate`."""


async def require_schema(connection: Connection, schema: str) -> None:
    """Refuse a database where a migration is missing, or a trigger that a migration has made.

    A newer schema is fine: migrations only add. Its triggers may have other names, so they are not looked at.

    Raises:
        SchemaOutdatedError: A migration is missing.
        DatabaseFaultError: A trigger is missing, or does not fire in every session.
    """
    newest = migrations()[-1].number
    version = await schema_version(connection)
    if version < newest:
        raise SchemaOutdatedError(SchemaOutdatedError.__doc__)
    if version == newest:
        await require_triggers(connection, schema)


async def _run_next(connection: Connection, schema: str) -> Migration | None:
    """Run the next migration, if there is one, and return it."""
    async with transaction(connection):
        # Behind a pooler, the session is another's after the transaction; so nothing here is kept for longer.
        await connection.execute("SET LOCAL lock_timeout = '60s'")
        await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK)
        await connection.execute("SET LOCAL lock_timeout = '5s'")
        done = await schema_version(connection)
        migration = next((each for each in migrations() if each.number > done), None)
        if migration is None:
            return None
        if not done:
            await _require_place(connection, schema)
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
    return migration


async def _require_place(connection: Connection, schema: str) -> None:
    """Refuse to make the tables where they cannot be, and a second time where nobody asked for another schema."""
    if await connection.fetchval("SELECT current_schema() IS DISTINCT FROM $1", schema):
        role = await connection.fetchval("SELECT current_user")
        raise DatabaseFaultError(
            f"there is no schema {schema}, or the role {role} may not use it:"
            f" CREATE SCHEMA {schema} AUTHORIZATION {role}"
        )
    if schema != DEFAULT_SCHEMA:
        return
    elsewhere = await connection.fetchval(
        """
        SELECT nspname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE relname = 'schema_migration' AND relkind = 'r' ORDER BY nspname LIMIT 1
        """
    )
    if elsewhere is not None:
        raise DatabaseFaultError(
            f"the tables are in the schema {elsewhere}: set SKILDER_KEYS_DATABASE_SCHEMA={elsewhere}"
        )
