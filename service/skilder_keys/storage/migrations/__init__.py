"""Numbered migrations, forward only, each run once and in order.

- `NNNN_name.sql` runs in a transaction of its own.
- `NNNN_name.concurrent.sql` makes indexes while everybody goes on writing, which no transaction can do. If it fails in
  the middle, run `migrate` again: the indexes that are complete stay, and the one that is not is made anew.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING

import asyncpg

from skilder_keys.storage.database import translated_errors
from skilder_keys.storage.sessions import Connector, DatabaseFaultError, Session, transaction
from skilder_keys.storage.triggers import require_triggers
from skilder_keys.storage.url import DEFAULT_SCHEMA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from skilder_keys.storage.database import Connection

_LOCK = 0x534B_4B45_5953  # "SKKEYS": the advisory lock, so that one process migrates at a time
_PATIENCE, _PAUSE = 600.0, 0.1
"""How many seconds to wait for another process, and how long between two looks."""
_LIMITS = {"statement_timeout": "0", "lock_timeout": "0", "idle_in_transaction_session_timeout": "0"}
_NAME = re.compile(r"(\d{4})_(\w+)(\.concurrent)?\.sql")
_NEW_INDEX = re.compile(r"CREATE (?:UNIQUE )?INDEX CONCURRENTLY IF NOT EXISTS (\w+)")
_COMMENT = re.compile(r"^--.*\n", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema.

    Attributes:
        concurrent: Whether it makes indexes outside of a transaction. Then the schema stands in it as `{schema}`.
    """

    number: int
    name: str
    sql: str
    concurrent: bool = False


def migrations() -> tuple[Migration, ...]:
    """Return all migrations, in order."""
    unordered = (
        Migration(int(match[1]), match[2], file.read_text("utf-8"), concurrent=match[3] is not None)
        for file in files(__package__).iterdir()
        if (match := _NAME.fullmatch(file.name))
    )
    return tuple(sorted(unordered, key=lambda migration: migration.number))


async def migrate(url: str, schema: str = DEFAULT_SCHEMA) -> tuple[Migration, ...]:
    """Bring the schema up to date and return the migrations that were run.

    One process migrates at a time; others wait for it, up to ten minutes. A statement that does not get its lock within
    5 s fails, because all calls of the service would queue behind it. In that case, run `migrate` again. An index that
    is made while others write has no such limit: it waits for transactions that are open, and nobody waits for it.

    Raises:
        DatabaseUrlError: The URL cannot be used.
        UnavailableError: The database cannot be reached or used, or a lock was not free in time.
    """
    connector = Connector(url, schema)
    completed: list[Migration] = []
    with translated_errors():
        connection = await _connect(connector)
        try:
            while migration := await _run_next(connection, connector, schema):
                completed.append(migration)
        except asyncpg.InsufficientPrivilegeError as error:
            role = await connection.fetchval("SELECT current_user")
            raise DatabaseFaultError(f"the role {role} is not the owner, or may not create tables: {error}") from None
        finally:
            await connection.close()
    return tuple(completed)


async def _connect(connector: Connector) -> Session:
    return await connector.connect("skilder-keys migrate", max(10, connector.total_connect_timeout), settings=_LIMITS)


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


async def _run_next(connection: Connection, connector: Connector, schema: str) -> Migration | None:
    """Run the next migration, if there is one, and return it."""
    # Behind a pooler, the session belongs to others after the transaction, so every setting and lock ends with it.
    async with _locked(connection):
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
        if migration.concurrent:
            # By another connection, while this one keeps the lock. The statement above has ended the snapshot of those
            # before it, for which the index would wait.
            try:
                await _make_indexes(connector, schema, migration.sql)
            except asyncpg.ReadOnlySQLTransactionError:
                # Behind a pooler, in a session that somebody left read-only. Here no key can be changed meanwhile.
                await connection.execute(_with_schema(migration.sql.replace(" CONCURRENTLY ", " "), schema))
        else:
            await connection.execute(migration.sql)
        await connection.execute(
            "INSERT INTO schema_migration (number, name) VALUES ($1, $2)", migration.number, migration.name
        )
    return migration


@asynccontextmanager
async def _locked(connection: Connection) -> AsyncIterator[None]:
    """Run a transaction in which no other process migrates.

    It waits without a transaction: an index that the other process makes would wait for the end of it.
    """
    for _ in range(round(_PATIENCE / _PAUSE)):
        async with transaction(connection):
            if await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _LOCK):
                yield
                return
        await asyncio.sleep(_PAUSE)
    raise DatabaseFaultError("another process migrates this database, and has not finished: try again later")


async def _make_indexes(connector: Connector, schema: str, sql: str) -> None:
    """Make the indexes of a migration that are not there, or not complete because making them failed."""
    session = await _connect(connector)
    try:
        for statement in filter(None, map(str.strip, _COMMENT.sub("", sql).split(";"))):
            match = _NEW_INDEX.match(statement)
            if match is None:
                raise ValueError(f"a concurrent migration makes indexes only: {statement}")
            (broken,) = await session.fetch(
                "SELECT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass($1) AND NOT indisvalid) AS found",
                f'"{schema}".{match[1]}',
            )
            # Without arguments, so that the driver sends one simple query, outside of any transaction.
            if broken["found"]:
                await session.execute(f'DROP INDEX CONCURRENTLY "{schema}".{match[1]}')
            await session.execute(_with_schema(statement, schema))
    finally:
        await session.close()


def _with_schema(sql: str, schema: str) -> str:
    return sql.replace("{schema}", f'"{schema}"')


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
