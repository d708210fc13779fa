"""Numbered migrations, forward only: `NNNN_name.sql`. Each runs once, in order, in its own transaction."""

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

_LOCK = 0x534B_4B45_5953  # "SKKEYS": the advisory lock, so that one process migrates at a time
_LIMITS = {"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0"}
_NAME = re.compile(r"(\d{4})_(\w+)\.sql")


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema."""

    number: int
    name: str
    sql: str


def migrations() -> tuple[Migration, ...]:
    """Return all migrations, in order."""
    unordered = (
        Migration(int(match[1]), match[2], file.read_text("utf-8"))
        for file in files(__package__).iterdir()
        if (match := _NAME.fullmatch(file.name))
    )
    return tuple(sorted(unordered, key=lambda migration: migration.number))


async def migrate(url: str, schema: str = DEFAULT_SCHEMA) -> tuple[Migration, ...]:
    """Bring the schema up to date and return the migrations that were run.

    One process migrates at a time; others wait for it, up to a minute. A statement that does not get its lock within
    5 s fails, because all calls of the service would queue behind it. In that case, run `migrate` again.

    Raises:
        DatabaseUrlError: The URL cannot be used.
        UnavailableError: The database cannot be reached or used, or a lock was not free in time.
    """
    connector = Connector(url, schema)
    completed: list[Migration] = []
    with translated_errors():
        connection = await connector.connect(
            "skilder-keys migrate", max(10, connector.total_connect_timeout), settings=_LIMITS
        )
        try:
            while migration := await _run_next(connection, schema):
                completed.append(migration)
        except asyncpg.InsufficientPrivilegeError as error:
            role = await connection.fetchval("SELECT current_user")
            raise DatabaseFaultError(f"the role {role} is not the owner, or may not create tables: {error}") from None
        finally:
            await connection.close()
    return tuple(completed)


async def schema_version(connection: Connection) -> int:
    """Return the number of the last migration that was run; 0 for an empty database."""
    if await connection.fetchval("SELECT to_regclass('schema_migration') IS NULL"):
        return 0
    return int(await connection.fetchval("SELECT coalesce(max(number), 0) FROM schema_migration"))


class SchemaOutdatedError(Exception):
    """The database lacks migrations: run `skilder-keys migrate`."""


async def require_schema(connection: Connection, schema: str) -> None:
    """Require all migrations, and the triggers that they made.

    A newer schema is accepted: migrations only add, or make the queries of older versions fail. Its triggers may have
    other names, so they are not checked.

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
        # Behind a pooler, the session belongs to others after the transaction, so every setting and lock ends with it.
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
    """Require the schema, and that no other schema has the tables already, unless another schema was chosen."""
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
