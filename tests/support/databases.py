"""Databases that tests borrow: clones of a migrated one, which are emptied and used again, as cloning is slow."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from tests.support.kept_rows import KeptRows
from tests.support.postgres import create_database, drop_database

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

_SECONDS = 10
# A new database takes less time than emptying one with so much in it, and a new service with its database more.
_MANY_BYTES = 2**18
_MANY_BYTES_SERVED = 2**22
# What removed rows leave behind is cleared away where it is more than this, so that it does not grow.
_FEW_BYTES = 2**16
# Tables that are not emptied: those that the migrations fill, and those that a running service relies on.
_WRITTEN_ONCE = ("fence", "schema_migration", "signing_key")
_OF_A_SERVICE = (*_WRITTEN_ONCE, "reader", "change", "pending_change", "activity_writer")

# Everything that statements other than those on rows can change: a new name, owner, right or body gives another text. A
# row's xmin shows the last writer. Tables and triggers are compared by columns, as emptying a table writes their rows.
_SHAPE = """
SELECT md5(string_agg(line, ',' ORDER BY line)) FROM (
    SELECT concat_ws(' ', 'n', oid, xmin) AS line FROM pg_namespace WHERE nspname !~ '^pg_(temp|toast)'
    UNION ALL SELECT concat_ws(' ', 'c', oid, relname, relnamespace, relkind, relowner, relacl, reloptions,
        relpersistence, relrowsecurity, relforcerowsecurity, relreplident) FROM pg_class WHERE oid >= 16384
    UNION ALL SELECT concat_ws(' ', 'a', attrelid, attnum, xmin) FROM pg_attribute WHERE attrelid >= 16384
    UNION ALL SELECT concat_ws(' ', 'd', oid, xmin) FROM pg_attrdef
    UNION ALL SELECT concat_ws(' ', 'o', oid, xmin) FROM pg_constraint WHERE oid >= 16384
    UNION ALL SELECT concat_ws(' ', 'i', indexrelid, indisvalid, indisready) FROM pg_index WHERE indexrelid >= 16384
    UNION ALL SELECT concat_ws(' ', 't', oid, tgname, tgenabled) FROM pg_trigger
    UNION ALL SELECT concat_ws(' ', 'p', oid, xmin) FROM pg_proc WHERE oid >= 16384
    UNION ALL SELECT concat_ws(' ', 'y', oid, xmin) FROM pg_type WHERE oid >= 16384 AND typtype <> 'c'
    UNION ALL SELECT concat_ws(' ', 'r', oid, xmin) FROM pg_rewrite WHERE oid >= 16384
    UNION ALL SELECT concat_ws(' ', 's', oid, xmin) FROM pg_operator WHERE oid >= 16384
    UNION ALL SELECT concat_ws(' ', 'l', oid, xmin) FROM pg_policy
    UNION ALL SELECT concat_ws(' ', 'e', oid, xmin) FROM pg_extension
    UNION ALL SELECT concat_ws(' ', 'x', oid, xmin) FROM pg_statistic_ext
    UNION ALL SELECT concat_ws(' ', 'f', oid, xmin) FROM pg_default_acl
    UNION ALL SELECT concat_ws(' ', 'g', setrole, xmin) FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
    UNION ALL SELECT concat_ws(' ', 'm', schema_migration) FROM schema_migration
    UNION ALL SELECT concat_ws(' ', 'k', signing_key) FROM signing_key
    UNION ALL SELECT concat_ws(' ', 'b', oid, datdba, datacl, datconnlimit, datallowconn)
        FROM pg_database WHERE datname = current_database()
) AS lines
"""
# Tables; those that refer to others come first.
_TABLES = """
WITH RECURSIVE kept AS (
    SELECT oid FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> ALL($1::text[])
), depth(oid, steps) AS (
    SELECT oid, 0 FROM kept
    UNION SELECT confrelid, steps + 1 FROM depth JOIN pg_constraint ON conrelid = depth.oid AND contype = 'f'
    WHERE confrelid <> conrelid AND steps < 20
)
SELECT oid::regclass::text AS name,
       (SELECT pg_get_serial_sequence(oid::regclass::text, attname) FROM pg_attribute
        WHERE attrelid = oid AND attidentity <> '' AND NOT attisdropped) AS sequence
FROM (SELECT oid, max(steps) AS steps FROM depth JOIN kept USING (oid) GROUP BY oid) AS ordered
ORDER BY steps
"""
_SIZES = "SELECT name, pg_relation_size(name::regclass) FROM unnest($1::text[]) AS name"
# Triggers that forbid removing rows: 2 means BEFORE, and 8 means DELETE.
_REFUSING = """
SELECT tgrelid::regclass::text AS table, tgname AS name FROM pg_trigger
WHERE NOT tgisinternal AND tgtype & 10 = 10 AND tgenabled = 'A'
"""

# Rows are removed without an event of each, and without looking at what they refer to. To turn that on and off again
# would have Postgres plan every statement of every trigger anew. Only a superuser may do that.
_AS_A_REPLICA = """
SELECT set_config('session_replication_role', 'replica', false) FROM pg_roles WHERE rolname = current_user AND rolsuper
"""
_END_OTHERS = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid()
"""


@dataclass(frozen=True, slots=True)
class _Table:
    name: str
    sequence: str | None
    size: int


class BorrowedDatabase:
    """A database, its state when it was made, and a session that looks after it."""

    def __init__(self, url: str) -> None:
        """Take the URL of a database; call `remember` before anything else."""
        self.url = url
        self._sql: asyncpg.Connection[Any] | None = None
        self._shape = ""
        self._fence: dict[str, Any] = {}
        self._kept: KeptRows | None = None
        # By the tables that are left out: the names of the others and their sequences, while the shape is the same.
        self._names: dict[tuple[str, ...], list[tuple[str, str | None]]] = {}

    async def remember(self) -> None:
        """Take the present state for the one to restore."""
        sql = await self._session()
        (fence,) = await sql.fetch("SELECT * FROM fence")
        self._fence = dict(fence)
        self._shape = await sql.fetchval(_SHAPE)

    async def keep(self) -> None:
        """Keep the rows that there are now, until `empty` has removed them; a service uses the database."""
        sql = await self._session()
        names = [each.name for each in await self._tables(sql, _OF_A_SERVICE)]
        self._kept = await KeptRows.of(sql, names, _OF_A_SERVICE)

    @property
    def keeps(self) -> bool:
        """Whether there are rows that it keeps."""
        return self._kept is not None

    def leave(self) -> None:
        """End the session."""
        if self._sql is not None:
            self._sql.terminate()
            self._sql = None

    async def empty(self, *, serves: bool = False, keeps: bool = False) -> bool:
        """Remove what a test has written; return whether the database is as before and can be used again.

        Args:
            serves: Whether a service keeps using it: then its sessions and the rows that it relies on stay, and its
                memory of other rows is dropped.
            keeps: Whether the rows that were there at `keep` stay, if none of the catalog was changed.
        """
        try:
            sql = await self._session()
            if not serves:
                await sql.execute(_END_OTHERS)
            if await sql.fetchval(_SHAPE) != self._shape:
                return False
            tables = await self._tables(sql, _OF_A_SERVICE if serves else _WRITTEN_ONCE)
            if sum(each.size for each in tables) > (_MANY_BYTES_SERVED if serves else _MANY_BYTES):
                return False
            if not (keeps and self._kept and await _restore_rows(sql, tables, self._kept)):
                self._kept = None
                await _remove_rows(sql, tables)
            for each in tables:
                if each.size > _FEW_BYTES:
                    await sql.execute(f"VACUUM {each.name}")
            if serves:
                await _let_forget(sql)
            else:
                # Removing rows is a change too, so what is noted of changes is removed again, and the fence reset last.
                noted = [each for each in await self._tables(sql, _WRITTEN_ONCE) if each.name in _OF_A_SERVICE]
                await _remove_rows(sql, noted)
                names = ", ".join(f"{name} = ${number}" for number, name in enumerate(self._fence, 1))
                await sql.execute(f"UPDATE fence SET {names}", *self._fence.values())  # noqa: S608 - its own columns
        # A TimeoutError is an OSError. A session that the server has just ended may raise an InternalClientError.
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
            return False
        else:
            return True

    async def _tables(self, sql: asyncpg.Connection[Any], apart_from: tuple[str, ...]) -> list[_Table]:
        if apart_from not in self._names:
            found = await sql.fetch(_TABLES, apart_from)
            self._names[apart_from] = [(each["name"], each["sequence"]) for each in found]
        names = self._names[apart_from]
        sizes = dict(await sql.fetch(_SIZES, [name for name, _ in names]))
        return [_Table(name, sequence, sizes[name]) for name, sequence in names]

    async def text_rows(self) -> list[str]:
        """Return every row of every table as text."""
        try:
            return await rows_as_text(await self._session())
        except (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError):
            self.leave()  # the test has ended the session, or the server
            return await rows_as_text(await self._session())

    async def _session(self) -> asyncpg.Connection[Any]:
        if self._sql is None or self._sql.is_closed():  # a test may end all sessions
            # A lock that stays taken is held by something that outlived its test.
            self._sql = await asyncpg.connect(self.url, server_settings={"lock_timeout": "60s"})
            await self._sql.execute(_AS_A_REPLICA)
        return self._sql


async def rows_of(url: str) -> list[str]:
    """Return every row of every table of a database as text."""
    sql = await asyncpg.connect(url)
    try:
        return await rows_as_text(sql)
    finally:
        await sql.close()


async def rows_as_text(sql: asyncpg.Connection[Any]) -> list[str]:
    """Return every row of every table as text."""
    tables = await sql.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    rows = " UNION ALL ".join(f'SELECT t::text AS text FROM "{each["tablename"]}" AS t' for each in tables)  # noqa: S608
    return [each["text"] for each in await sql.fetch(rows)]


async def _remove_rows(sql: asyncpg.Connection[Any], tables: list[_Table]) -> None:
    async with _unrefused(sql):
        for each in tables:
            if not each.size:
                continue
            await sql.execute(f"DELETE FROM {each.name}")  # noqa: S608 - a table's own name
            if each.sequence:
                await sql.execute("SELECT setval($1::text::regclass, 1, false)", each.sequence)
        # Changes of parts, which would be events at the commit.
        await sql.execute("DELETE FROM pending_audit_event")


async def _restore_rows(sql: asyncpg.Connection[Any], tables: list[_Table], kept: KeptRows) -> bool:
    async with _unrefused(sql):
        return await kept.restore(sql, [each.name for each in tables])


@asynccontextmanager
async def _unrefused(sql: asyncpg.Connection[Any]) -> AsyncIterator[None]:
    """Allow removing rows, in a transaction."""
    async with sql.transaction():
        refusing = await sql.fetch(_REFUSING)
        for each in refusing:
            await sql.execute(f'ALTER TABLE {each["table"]} DISABLE TRIGGER "{each["name"]}"')
        yield
        for each in refusing:
            await sql.execute(f'ALTER TABLE {each["table"]} ENABLE ALWAYS TRIGGER "{each["name"]}"')


async def _let_forget(sql: asyncpg.Connection[Any]) -> None:
    """Make readers of the fence drop their memory by removing their rows, and wait until they have."""
    before = [row["id"] for row in await sql.fetch("DELETE FROM reader RETURNING id")]
    await sql.execute("NOTIFY skilder_keys_change")
    async with asyncio.timeout(_SECONDS):
        while await sql.fetchval("SELECT count(*) FROM reader WHERE id <> ALL($1)", before) < len(before):
            await asyncio.sleep(0.01)


class Databases:
    """The databases of one server, which are lent to one test after another."""

    def __init__(self, server_url: str, template: str) -> None:
        """Lend clones of a migrated database on this server."""
        self._server_url = server_url
        self._template = template
        self._idle: list[BorrowedDatabase] = []

    async def take(self) -> BorrowedDatabase:
        """Return a database that nobody else uses, migrated and empty."""
        if self._idle:
            return self._idle.pop()
        database = BorrowedDatabase(await create_database(self._server_url, self._template))
        await database.remember()
        return database

    async def give_back(self, database: BorrowedDatabase) -> None:
        """Take a database back, to lend it again if it can be restored to its first state."""
        if await database.empty():
            self._idle.append(database)
        else:
            await self.drop(database)

    async def drop(self, database: BorrowedDatabase) -> None:
        """Remove a database, even if somebody uses it."""
        database.leave()
        await drop_database(self._server_url, database.url)

    @asynccontextmanager
    async def lent(self) -> AsyncIterator[BorrowedDatabase]:
        """Lend a database."""
        database = await self.take()
        try:
            yield database
        finally:
            await self.give_back(database)

    async def close(self) -> None:
        """Remove the databases that are not lent."""
        while self._idle:
            await self.drop(self._idle.pop())
