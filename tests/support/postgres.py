"""The Postgres the tests run on, and a database of its own for each test."""

from __future__ import annotations

import os
import tempfile
import uuid
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from service.embedded import EmbeddedPostgres
from service.storage import fence
from service.storage.migrations import migrate

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

URL_VARIABLE = "SKILDER_KEYS_TEST_DATABASE_URL"
_IMAGE = "postgres:18-alpine"


@contextmanager
def test_postgres() -> Iterator[str]:
    """Lends the URL of a Postgres whose user may create databases.

    A given one where SKILDER_KEYS_TEST_DATABASE_URL is set; a container where a Docker engine answers; else an
    embedded one, in a folder of its own: pytest closes its folders to other users whenever it starts, and to a Postgres
    that runs there as one, where root runs the tests.
    """
    if given := os.environ.get(URL_VARIABLE):
        yield given
    elif _docker_answers():
        from testcontainers.postgres import PostgresContainer  # noqa: PLC0415 - slow to import, and seldom needed

        with PostgresContainer(_IMAGE, driver=None) as container:
            yield container.get_connection_url()
    else:
        with tempfile.TemporaryDirectory(prefix="skilder-keys-tests-") as folder:
            postgres = EmbeddedPostgres.start(Path(folder) / "postgres")
            try:
                yield postgres.url()
            finally:
                postgres.stop()


@asynccontextmanager
async def template_database(server_url: str) -> AsyncIterator[str]:
    """Lends the name of a migrated database to clone."""
    async with new_database(server_url) as url:
        await migrate(url)
        yield urlsplit(url).path.removeprefix("/")


@asynccontextmanager
async def new_database(server_url: str, template: str = "template1") -> AsyncIterator[str]:
    """Lends the URL of a database of one's own: a clone of `template`, by default empty."""
    name = f"test_{uuid.uuid4().hex}"
    await _execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template}")
    try:
        url = database_url(server_url, name)
        if template != "template1":
            # A clone may be a restored database, whose first change would wait for the readers of the other one.
            await _execute(url, f"UPDATE fence SET server = {fence.SERVER}")  # noqa: S608 - a constant
        yield url
    finally:
        await _execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")


def database_url(server_url: str, name: str) -> str:
    """Answers the URL of another database of the same server."""
    parts = urlsplit(server_url)
    # A URL without a host (a socket folder in its query) must keep its empty host: urlunsplit would drop the slashes.
    return urlunsplit(parts._replace(netloc=parts.netloc, path=f"/{name}"))


async def _execute(url: str, sql: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


def _docker_answers() -> bool:
    import docker  # noqa: PLC0415 - slow to import

    try:
        client = docker.from_env(timeout=5)
    except docker.errors.DockerException:
        return False
    try:
        return bool(client.ping())
    except (docker.errors.DockerException, OSError):
        return False
    finally:
        client.close()
