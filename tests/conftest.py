"""Fixtures: one Postgres for the session, a database and a served service for each test."""

from __future__ import annotations

import base64
import logging
import os
import uuid
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.domain.token import MalformedTokenError, Token
from skilder_keys.storage.database import Database, DatabaseOptions
from skilder_keys.supervisor.companion import Companion
from tests.support import reaper
from tests.support.postgres import new_database, template_database, test_postgres
from tests.support.service import TRANSPORTS, Service, serving
from tests.support.stock import stock_server
from tests.support.transport import why_unavailable
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


_REAPER = pytest.StashKey[Companion]()
_REAPER_SECONDS = 30.0


def pytest_sessionstart(session: pytest.Session) -> None:
    """Have everything that tests start end with the run, also where that is killed."""
    os.environ[reaper.MARK] = mark = uuid.uuid4().hex
    session.config.stash[_REAPER] = Companion(reaper.__file__, mark)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what is left."""
    session.config.stash[_REAPER].disconnect(_REAPER_SECONDS)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests marked `stock_too` on both: the Postgres of the session, and a stock one."""
    if "postgres_url" in metafunc.fixturenames and metafunc.definition.get_closest_marker("stock_too"):
        metafunc.parametrize("postgres_url", ("own_postgres", "stock_postgres"), indirect=True, scope="session")


@pytest.fixture(scope="session")
def own_postgres() -> Iterator[str]:
    """The Postgres of the session: the one given, a container's, or the embedded one."""
    with test_postgres() as url:
        yield url


@pytest.fixture(scope="session")
def stock_postgres() -> Iterator[str]:
    """A stock Postgres as the distribution ships it, with JIT and without statistics."""
    with stock_server() as server:
        yield server.url()


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """The Postgres that a test runs on."""
    return str(request.getfixturevalue(getattr(request, "param", "own_postgres")))


@pytest.fixture(scope="session")
async def template(postgres_url: str) -> AsyncIterator[str]:
    """A migrated database to clone."""
    async with template_database(postgres_url) as name:
        yield name


@pytest.fixture
async def database_url(postgres_url: str, template: str) -> AsyncIterator[str]:
    """A migrated database of the test's own."""
    async with new_database(postgres_url, template) as url:
        yield url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The test's database, as the service uses it."""
    database = await Database.open(DatabaseOptions(database_url))
    yield database
    await database.close()


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection of the test's own, to look at its database from outside."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """What calls come in by; whoever asks for it is run with each."""
    chosen = str(request.param)
    if reason := why_unavailable(chosen):
        pytest.skip(reason)
    return chosen


@pytest.fixture
async def empty_service(
    transport: str, database_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Service]:
    """A served service with no workspace.

    When the test is over, its logs and its database are searched for every token that it saw.
    """
    caplog.set_level(logging.DEBUG)
    async with serving(database_url, tmp_path, transport=transport) as service:
        yield service
    await assert_no_token_is_kept(service.watch.seen, service.log.text() + caplog.text, database_url)


@pytest.fixture
async def service(empty_service: Service) -> Service:
    """A served service with the small workspace `acme`."""
    await empty_service.operator.apply(small_workspace())
    return empty_service


async def assert_no_token_is_kept(tokens: set[str], log: str, database_url: str) -> None:
    """Fail where a token, its secret or another spelling of the secret stands in the log or the database."""
    connection = await asyncpg.connect(database_url)
    try:
        tables = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
        rows = [
            row["text"]
            for table in tables
            for row in await connection.fetch(f'SELECT t::text AS text FROM "{table["tablename"]}" AS t')  # noqa: S608
        ]
    finally:
        await connection.close()
    kept = "\n".join([log, *rows])
    for token in tokens:
        for spelling in _spellings(token):
            assert spelling not in kept, "a token was kept"


def _spellings(text: str) -> Iterator[str]:
    try:
        token = Token.parse(text)
    except MalformedTokenError:
        return
    yield text
    yield text[26:69]
    yield token.secret.hex()
    yield base64.b64encode(token.secret).decode().rstrip("=")
    yield base64.urlsafe_b64encode(token.secret).decode().rstrip("=")
