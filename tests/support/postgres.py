"""The Postgres that the tests run on, and a database for each test."""

from __future__ import annotations

import os
import signal
import tempfile
import uuid
import warnings
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from skilder_keys.storage import activity_partitions, fence
from skilder_keys.storage.migrations import migrate
from skilder_keys.supervisor.embedded_postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

URL_VARIABLE = "SKILDER_KEYS_TEST_DATABASE_URL"
# The start of the warning, by which pyproject.toml keeps it from being an error.
FALLBACK = "The Docker engine could not start a Postgres, so the tests run on the embedded one:"
_DOCKER_SOCKET = Path("/var/run/docker.sock")
_IMAGE = "postgres:18-alpine"
# Nothing of the tests has to survive a crash of the machine. Only tests decide which tables have statistics.
_SETTINGS = "fsync = off\nfull_page_writes = off\nautovacuum = off\n"


@contextmanager
def test_postgres() -> Iterator[str]:
    """Yield the URL of a Postgres whose user may create databases.

    It is the one in SKILDER_KEYS_TEST_DATABASE_URL if that is set, else a container if a Docker engine responds and has
    or can pull the image, else an embedded one, with a warning if an engine failed.
    """
    if given := os.environ.get(URL_VARIABLE):
        yield given
    else:
        with ExitStack() as stack:
            yield _container_url(stack) or stack.enter_context(_embedded_url())


@contextmanager
def _embedded_url() -> Iterator[str]:
    # Not in a folder of pytest, which closes its folders to other users at every start.
    with tempfile.TemporaryDirectory(prefix="skilder-keys-tests-") as folder:
        data = Path(folder) / "postgres"
        postgres = EmbeddedPostgres.start(data)
        try:
            with (data / "postgresql.conf").open("a") as settings:
                settings.write(_SETTINGS)
            os.kill(int((data / "postmaster.pid").read_text("ascii").split()[0]), signal.SIGHUP)
            yield postgres.url()
        finally:
            postgres.stop()


def _container_url(stack: ExitStack) -> str | None:
    """Return the URL of a container, or None if no Docker engine responds or can start it."""
    if not _docker_answers():
        return None
    from testcontainers.community.postgres import PostgresContainer  # noqa: PLC0415 - slow to import, and seldom needed

    try:
        container = stack.enter_context(PostgresContainer(_IMAGE, driver=None))
        return str(container.get_connection_url())
    except Exception as error:  # noqa: BLE001 - no image, no network, no room: whatever it is, the tests can go on
        words = f"{FALLBACK} {type(error).__name__}: {str(error)[:300]}"
        warnings.warn(words, stacklevel=1)
        return None


@asynccontextmanager
async def template_database(server_url: str) -> AsyncIterator[str]:
    """Yield the name of a migrated database to clone.

    It has the partitions that a service would make, so that a service leaves the schema as it is.
    """
    async with new_database(server_url) as url:
        await migrate(url)
        async with _connected(url) as connection:
            await activity_partitions.make(connection)
        yield urlsplit(url).path.removeprefix("/")


@asynccontextmanager
async def new_database(server_url: str, template: str = "template1") -> AsyncIterator[str]:
    """Yield the URL of a separate database: a clone of `template`, by default empty."""
    url = await create_database(server_url, template)
    try:
        yield url
    finally:
        await drop_database(server_url, url)


async def create_database(server_url: str, template: str) -> str:
    """Clone a database, after ending its sessions, and return the URL of the clone."""
    name = f"test_{uuid.uuid4().hex}"
    async with _connected(server_url) as server:
        await server.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = $1", template
        )
        # Copying files is faster than logging every page, but only where checkpoints wait for no disk.
        strategy = "FILE_COPY" if await server.fetchval("SHOW fsync") == "off" else "WAL_LOG"
        await server.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY {strategy}")
    url = database_url(server_url, name)
    if template != "template1":
        # A clone counts as a restored database, whose first change would wait for the readers of the original.
        await _execute(url, f"UPDATE fence SET server = {fence.SERVER}")  # noqa: S608 - a constant
    return url


async def drop_database(server_url: str, url: str) -> None:
    """Remove a database, given its URL, and end its sessions."""
    await _execute(server_url, f"DROP DATABASE {urlsplit(url).path.removeprefix('/')} WITH (FORCE)")


def database_url(server_url: str, name: str) -> str:
    """Return the URL of another database of the same server."""
    parts = urlsplit(server_url)
    # A URL without a host (a socket folder in its query) must keep its empty host: urlunsplit would drop the slashes.
    return urlunsplit(parts._replace(netloc=parts.netloc, path=f"/{name}"))


async def _execute(url: str, sql: str) -> None:
    async with _connected(url) as connection:
        await connection.execute(sql)


@asynccontextmanager
async def _connected(url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


def _docker_answers() -> bool:
    if "DOCKER_HOST" not in os.environ and not _DOCKER_SOCKET.exists():
        return False
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
