"""What the tests of a module share: a served service, processes of a fleet, and a database with many keys."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import asyncpg
import pytest

from skilder_keys.storage.database import Database, DatabaseOptions
from tests.support.activity import Writer
from tests.support.effects import World, make_world
from tests.support.fence import LONG
from tests.support.fleet import Process, process
from tests.support.frames import LIMIT, Served
from tests.support.http2 import Connection, connected
from tests.support.many_keys import ROWS, STATISTICS
from tests.support.postgres import new_database
from tests.support.proxy import Proxy
from tests.support.service import TRANSPORTS, serving
from tests.support.transport import why_unavailable
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.servers import Borrowed
    from tests.support.service import Service


@pytest.fixture(scope="module", params=TRANSPORTS)
async def served(
    request: pytest.FixtureRequest, postgres_url: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Served]:
    """One service for each transport."""
    transport = str(request.param)
    if reason := why_unavailable(transport):
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("served")
    async with (
        new_database(postgres_url, template) as url,
        serving(url, folder, transport=transport, max_message_bytes=LIMIT) as service,
    ):
        await service.operator.apply(small_workspace())
        yield Served(transport, service, (await service.operator.issue()).token)


@pytest.fixture
async def connection(served: Served) -> AsyncIterator[Connection]:
    """A connection to the shared service, which must still work at the end of the test."""
    async with connected(served.service.address) as connection:
        yield connection
        await served.connection_is_fine(connection)


@pytest.fixture
async def proxy(database_url: str) -> AsyncIterator[Proxy]:
    """A network in front of Postgres."""
    folder = parse_qs(urlsplit(database_url).query).get("host")
    if folder is None:
        pytest.skip("needs a Postgres with a socket: the embedded one")
    made = Proxy(Path(folder[0]) / ".s.PGSQL.5432")
    async with made.serving():
        yield made


@pytest.fixture
async def far(proxy: Proxy, sql: asyncpg.Connection[Any]) -> AsyncIterator[Database]:
    """The test's database, behind the proxy."""
    row = await sql.fetchrow("SELECT current_user AS name, current_database() AS database")
    assert row is not None
    url = f"postgresql://{row['name']}@127.0.0.1:{proxy.port}/{row['database']}?sslmode=disable"
    database = await Database.open(DatabaseOptions(url, acquire_timeout=1.0, statement_timeout=60))
    yield database
    proxy.resume()
    await database.close()


@pytest.fixture
async def patient(transport: str, database_url: str, tmp_path: Path) -> AsyncIterator[Service]:
    """A service that takes as long as it needs."""
    async with serving(database_url, tmp_path, transport=transport, call_timeout=120, statement_timeout=60) as service:
        yield service


@asynccontextmanager
async def process_with_workspace(database_url: str, *, follows: bool = True, **options: Any) -> AsyncIterator[Process]:
    """Run a process of the fleet on the small workspace."""
    async with process(database_url, **options) as made:
        await made.apply()
        if follows:
            await made.follow()
        yield made


@pytest.fixture
async def writer(database_url: str) -> AsyncIterator[Process]:
    """A process that only makes changes: it has no lease and no reader row."""
    async with process_with_workspace(database_url, follows=False) as made:
        yield made


@pytest.fixture
async def world_of_effects(empty_service: Service, borrowed: Borrowed) -> World:
    """A workspace and keys, which may have been there before the test began."""
    return replace(borrowed.made, service=empty_service) if borrowed.made else await make_world(empty_service)


@pytest.fixture
async def activity_writer(database: Database) -> Writer:
    """A registered writer of the journal of activity."""
    made = Writer(database)
    await made.register()
    return made


@pytest.fixture
async def reader(database_url: str) -> AsyncIterator[Process]:
    """A process with a lease."""
    async with process_with_workspace(database_url) as made:
        yield made


@pytest.fixture
async def one(database_url: str) -> AsyncIterator[Process]:
    """A process whose lease outlasts the test."""
    async with process_with_workspace(database_url, lease=LONG) as made:
        yield made


@pytest.fixture(scope="session")
async def filled(postgres_url: str, template: str) -> AsyncIterator[str]:
    """The name of a database with many keys, to clone: that takes less time than writing them again."""
    async with new_database(postgres_url, template) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(ROWS)
        finally:
            await connection.close()
        yield urlsplit(url).path.removeprefix("/")


@pytest.fixture(scope="session", params=STATISTICS)
async def full(
    postgres_url: str, filled: str, request: pytest.FixtureRequest
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database with many keys, which no test changes."""
    async with new_database(postgres_url, filled) as url:
        connection = await asyncpg.connect(url)
        try:
            if request.param == "analysed":
                await connection.execute("VACUUM ANALYZE")
            yield connection
        finally:
            await connection.close()
