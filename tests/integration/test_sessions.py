"""The settings that each of our sessions sets for itself, whatever the defaults of the database and the role are."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1.key_service_pb2 import GetKeyRequest
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage.database import Database, DatabaseOptions
from skilder_keys.storage.migrations import migrate
from tests.support.pooler import pooler
from tests.support.postgres import new_database
from tests.support.service import serving
from tests.support.sql import connected
from tests.support.stock import StockServer, stock_server
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    import asyncpg

# A default that breaks something, and the value that our sessions use instead.
SETTINGS = {
    "synchronous_commit": ("off", "on"),
    "default_transaction_isolation": ("serializable", "read committed"),
    "default_transaction_read_only": ("on", "off"),
    "default_transaction_deferrable": ("on", "off"),
    "session_replication_role": ("replica", "origin"),
    "search_path": ("hostile, public", "public, pg_temp"),
    "row_security": ("on", "off"),
    "TimeZone": ("Asia/Tokyo", "UTC"),
    "DateStyle": ("German, DMY", "ISO, YMD"),
    "IntervalStyle": ("sql_standard", "postgres"),
    "bytea_output": ("escape", "hex"),
    "extra_float_digits": ("-15", "1"),
    "standard_conforming_strings": ("off", "on"),
    "backslash_quote": ("on", "safe_encoding"),
    "transform_null_equals": ("on", "off"),
    "array_nulls": ("off", "on"),
    "jit": ("on", "off"),
    "plan_cache_mode": ("force_generic_plan", "auto"),
    "statement_timeout": ("20s", "5s"),
    "lock_timeout": ("20s", "2s"),
    "idle_in_transaction_session_timeout": ("20s", "10s"),
    "idle_session_timeout": ("20s", "0"),
}
_HOSTILE = """
    CREATE SCHEMA hostile;
    CREATE TABLE hostile.fence (singleton boolean, epoch bigint);
    CREATE TABLE hostile.key (id uuid);
    CREATE TABLE hostile.reader (id uuid);
    CREATE FUNCTION hostile.set_config(text, text, boolean) RETURNS text LANGUAGE sql AS 'SELECT NULL::text';
    CREATE FUNCTION hostile.pg_is_in_recovery() RETURNS boolean LANGUAGE sql AS 'SELECT true';
    CREATE FUNCTION hostile.differs(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT false';
    CREATE OPERATOR hostile.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.differs);
"""


@pytest.fixture(scope="module")
def stock() -> Iterator[StockServer]:
    """A server that the tests of this module share."""
    with stock_server() as server:
        yield server


@asynccontextmanager
async def opened(url: str, **options: Any) -> AsyncIterator[Database]:
    """Yield a database as the service opens it."""
    database = await Database.open(DatabaseOptions(url, **options))
    try:
        yield database
    finally:
        await database.close()


@pytest.fixture
async def spoiled(stock: StockServer) -> AsyncIterator[str]:
    """Yield the name of an empty database whose defaults are all wrong: those of the database or of the role in it."""
    async with new_database(stock.url()) as url:
        name = url.partition("?")[0].rpartition("/")[2]
        async with connected(url) as sql:
            await sql.execute(_HOSTILE)
        async with connected(stock.url()) as sql:
            for number, (setting, (default, _)) in enumerate(SETTINGS.items()):
                role = "ROLE postgres IN " if number % 2 else ""
                value = default if setting == "search_path" else f"'{default}'"
                await sql.execute(f"ALTER {role}DATABASE {name} SET {setting} = {value}")
        yield name


async def found(connection: Any) -> dict[str, str]:
    """Return the settings of a session."""
    return {name: await connection.fetchval("SELECT current_setting($1)", name) for name in SETTINGS}


EXPECTED = {name: value for name, (_, value) in SETTINGS.items()}


async def test_every_kind_of_connection_has_the_required_settings(stock: StockServer, spoiled: str) -> None:
    """Those of the pool, inside a transaction and outside; the fence's own; and that of `migrate`."""
    await migrate(stock.url(spoiled))
    async with opened(stock.url(spoiled)) as database:
        async with database.connection() as connection:
            assert await found(connection) == EXPECTED
        async with database.transaction() as connection:
            assert await found(connection) == EXPECTED
            assert await connection.fetchval("SHOW transaction_isolation") == "read committed"
            assert await connection.fetchval("SHOW transaction_read_only") == "off"
        async with database.snapshot() as connection:
            assert await connection.fetchval("SHOW transaction_isolation") == "repeatable read"
            assert await connection.fetchval("SHOW transaction_read_only") == "on"
        async with database.dedicated("skilder-keys fence", 1) as connection:
            limits = {"statement_timeout": "1s", "lock_timeout": "1s", "idle_in_transaction_session_timeout": "2s"}
            assert await found(connection) == EXPECTED | limits
        await database.ping()


async def test_every_transaction_behind_a_pooler_has_the_required_settings(stock: StockServer, spoiled: str) -> None:
    """There each statement may get another session, which other clients leave as they like."""
    with pooler(stock) as pool:
        await migrate(pool.url(spoiled))
        async with opened(pool.url(spoiled)) as database:
            async with database.connection() as connection:
                assert await found(connection) == EXPECTED
            async with database.transaction() as connection:
                assert await found(connection) == EXPECTED
            async with database.snapshot() as connection:
                assert await connection.fetchval("SHOW transaction_isolation") == "repeatable read"
                assert await connection.fetchval("SHOW transaction_read_only") == "on"
            async with database.dedicated("skilder-keys fence", 1) as connection:
                assert (await found(connection))["synchronous_commit"] == "on"


async def test_the_service_works_on_a_database_with_wrong_defaults(
    transport: str, stock: StockServer, spoiled: str, tmp_path: Path
) -> None:
    """Keys are issued, used and revoked, and many concurrent changes do not fail each other."""
    await migrate(stock.url(spoiled))
    async with serving(stock.url(spoiled), tmp_path, transport=transport) as service:
        await service.operator.apply(small_workspace())
        issued = await asyncio.gather(*(service.operator.issue() for _ in range(20)))
        granted = await asyncio.gather(*(service.service.authorize(each.token) for each in issued))
        assert all(each.HasField("granted") for each in granted)
        await asyncio.gather(*(service.operator.revoke(key_id=each.key.id) for each in issued))
        for each in issued:
            assert await service.service.denial(each.token) == "REVOKED"


@pytest.mark.parametrize("stronger", ["remote_apply", "on"])
async def test_a_stricter_synchronous_commit_is_kept(stock: StockServer, stronger: str) -> None:
    """An operator may want standbys to have applied a change; anything weaker than written is raised."""
    async with new_database(stock.url()) as url:
        name = url.partition("?")[0].rpartition("/")[2]
        for default, expected in ((stronger, stronger), ("remote_write", "on"), ("local", "on")):
            async with connected(stock.url()) as sql:
                await sql.execute(f"ALTER DATABASE {name} SET synchronous_commit = '{default}'")
            async with opened(url) as database, database.connection() as connection:
                assert await connection.fetchval("SHOW synchronous_commit") == expected


async def test_a_revocation_outlives_a_crash(transport: str, tmp_path: Path) -> None:
    """Although the database's default is to commit before it has written."""
    with stock_server() as server:
        url = server.url()
        async with connected(url) as sql:
            await sql.execute("ALTER DATABASE postgres SET synchronous_commit = off")
            await sql.execute("ALTER SYSTEM SET wal_writer_delay = '10s'")
            await sql.execute("SELECT pg_reload_conf()")
        await migrate(url)
        async with serving(url, tmp_path, transport=transport, local_operator=False) as service:
            await service.operator.apply(small_workspace())
            issued = await service.operator.issue()
            assert (await service.service.authorize(issued.token)).HasField("granted")
            await service.operator.revoke(key_id=issued.key.id)
            await asyncio.to_thread(server.crash)
            await asyncio.to_thread(server.start)
            async with connected(url) as sql:
                assert await sql.fetchval("SELECT revoked_at IS NOT NULL FROM key")


async def test_a_setting_that_our_role_may_not_change_is_named(stock: StockServer) -> None:
    """With foreign keys and triggers switched off the service does not start."""
    async with new_database(stock.url()) as url:
        name = url.partition("?")[0].rpartition("/")[2]
        async with connected(stock.url()) as sql:
            await sql.execute("DROP ROLE IF EXISTS plain")
            await sql.execute("CREATE ROLE plain LOGIN")
            await sql.execute(f"ALTER DATABASE {name} SET session_replication_role = replica")
        try:
            with pytest.raises(UnavailableError) as caught:
                await Database.open(DatabaseOptions(stock.url(name, "plain")))
            assert "session_replication_role" in str(caught.value.__cause__)
            assert "ALTER DATABASE" in str(caught.value.__cause__)
        finally:
            async with connected(stock.url()) as sql:
                await sql.execute("DROP ROLE plain")


async def test_the_tables_are_in_the_given_schema(stock: StockServer, tmp_path: Path) -> None:
    """Two services can share a database, and one without its schema option does not start with empty tables."""
    async with new_database(stock.url()) as url:
        with pytest.raises(UnavailableError) as caught:
            await migrate(url, "keys")
        assert "CREATE SCHEMA keys AUTHORIZATION postgres" in str(caught.value.__cause__)
        async with connected(url) as sql:
            await sql.execute("CREATE SCHEMA keys")
        assert await migrate(url, "keys")
        with pytest.raises(UnavailableError) as caught:
            await migrate(url)
        assert "SKILDER_KEYS_DATABASE_SCHEMA=keys" in str(caught.value.__cause__)
        async with serving(url, tmp_path, transport="grpcio", database_schema="keys") as service:
            await service.operator.apply(small_workspace())
            issued = await service.operator.issue()
            assert (await service.service.authorize(issued.token)).HasField("granted")
        async with connected(url) as sql:
            assert await sql.fetchval("SELECT count(*) FROM keys.key") == 1
            assert await sql.fetchval("SELECT to_regclass('public.key')") is None


async def test_a_database_that_is_not_utf8_is_refused(stock: StockServer) -> None:
    """By `migrate` and `serve`; the error says how to create a database that is."""
    async with connected(stock.url()) as sql:
        await sql.execute("CREATE DATABASE latin ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    try:
        for attempt in (migrate(stock.url("latin")), Database.open(DatabaseOptions(stock.url("latin")))):
            with pytest.raises(UnavailableError) as caught:
                await attempt
            assert "the database's encoding is LATIN1, and has to be UTF8" in str(caught.value.__cause__)
    finally:
        async with connected(stock.url()) as sql:
            await sql.execute("DROP DATABASE latin WITH (FORCE)")


async def retype(sql: asyncpg.Connection[Any], table: str, column: str, type_: str) -> None:
    """Change the type of a column. Triggers that name it are made again."""
    triggers = await sql.fetch(
        """
        SELECT tgname AS name, pg_get_triggerdef(oid) AS made, tgenabled = 'A' AS always FROM pg_trigger
        WHERE tgrelid = $1::text::regclass AND NOT tgisinternal AND pg_get_triggerdef(oid) ~ ('\\m' || $2 || '\\M')
        """,
        table,
        column,
    )
    statements = [f"DROP TRIGGER {each['name']} ON {table}" for each in triggers]
    statements += [f"ALTER TABLE {table} ALTER COLUMN {column} TYPE {type_}"]
    statements += [each["made"] for each in triggers]
    statements += [f"ALTER TABLE {table} ENABLE ALWAYS TRIGGER {each['name']}" for each in triggers if each["always"]]
    await sql.execute(f"BEGIN; {'; '.join(statements)}; COMMIT")


async def test_a_changed_type_breaks_no_prepared_statement(transport: str, stock: StockServer, tmp_path: Path) -> None:
    """A migration under a running service may change it: inside and outside transactions, on every connection."""
    async with new_database(stock.url()) as url:
        await migrate(url)
        async with serving(url, tmp_path, transport=transport, pool_size=3) as service, connected(url) as sql:
            await service.operator.apply(small_workspace())
            issued = [await service.operator.issue() for _ in range(12)]
            for each, type_ in zip(issued, ["varchar(200)", "text"] * 6, strict=True):
                await asyncio.gather(
                    *(service.operator.keys.GetKey(GetKeyRequest(key_id=each.key.id)) for _ in range(6))
                )
                await retype(sql, "key", "created_by_id", type_)
                await retype(sql, "workspace", "name", type_)
                # A first use, and changes: of a key, and of its workspace.
                granted = await service.service.authorization.Authorize(pb.AuthorizeRequest(token=each.token))
                assert granted.HasField("granted")
                await service.operator.revoke(key_id=each.key.id)
                await service.operator.apply(small_workspace())
                assert (await service.operator.issue()).token
