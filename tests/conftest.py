"""Fixtures: one Postgres for the session, a database and a served service for each test."""

from __future__ import annotations

import base64
import gc
import logging
import os
import signal
import uuid
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from hypothesis import settings

from skilder_keys.domain.token import MalformedTokenError, Token
from skilder_keys.storage.database import Database, DatabaseOptions
from skilder_keys.supervisor.companion import Companion
from tests.support import reaper
from tests.support.lengths import LONG, LONGEST, by_form
from tests.support.memory_folder import use_memory
from tests.support.order import in_order
from tests.support.postgres import test_postgres
from tests.support.postgres_files import copy_postgres, made_once
from tests.support.progress import Progress
from tests.support.servers import Borrowed, Servers
from tests.support.service import TRANSPORTS, Service, serving
from tests.support.shared_service import apply_small_workspace
from tests.support.stock import stock_server
from tests.support.together import joined
from tests.support.transport import ONLY_GRPCIO, chooses_a_transport, is_for_the_long_form, why_unavailable
from tests.support.turns import SERVERS, is_for_the_longest_form

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from tests.support.shared_service import Preparation


_REAPER = pytest.StashKey[Companion]()
_REAPER_SECONDS = 30.0
_MAX_PROCESSES = 8


# Collection makes hundreds of thousands of objects that stay: `pytest_collection_finish` turns the collector on again.
gc.disable()
# Before anything asks for a temporary folder.
use_memory()
# A run in the background of a script ignores Ctrl-C, and everything that it starts would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
# Of Hypothesis: the long form tries as many examples as it does by default.
settings.register_profile("form", max_examples=by_form(12, 100))
settings.load_profile("form")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Make sure that everything that tests start ends with the run, even if the run is killed."""
    os.environ[reaper.MARK] = mark = uuid.uuid4().hex
    session.config.stash[_REAPER] = Companion(reaper.__file__, mark)
    prints = not hasattr(session.config, "workerinput")
    if prints and session.config.get_verbosity() == 0 and not session.config.option.collectonly:
        session.config.pluginmanager.register(Progress(session.config))


def pytest_sessionfinish(session: pytest.Session) -> None:
    """End what is left."""
    session.config.stash[_REAPER].disconnect(_REAPER_SECONDS)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return how many tests run at the same time: more than there are cores, as most of their time is waiting."""
    return min(2 * (os.cpu_count() or 1), _MAX_PROCESSES)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the tests marked `long` first, and then those that wait most: the others fill their time.

    Each process of a parallel run gets a run of tests of the same length, so each of them begins with some of these.
    Tests that share much go to one process, which prepares it once. In the short form, small cases of the same test
    become one. In the long form, cases take turns with the transports and the servers.
    """
    if not LONG:
        items[:] = joined(each for each in items if not is_for_the_long_form(each))
    elif not LONGEST:
        items[:] = [each for each in items if not is_for_the_longest_form(each)]
    items[:] = in_order(items, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))


def pytest_collection_finish() -> None:
    """Keep what was collected out of garbage collection, which would go through all of it again and again."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run tests on the Postgres servers and with the transports that their marks ask for.

    Those marked `stock_too` run on both: the Postgres of the session, and a stock one. In the short form, those marked
    `grpcio_if_short` run with grpcio only, unless they choose a transport themselves.
    """
    test = metafunc.definition
    if "postgres_url" in metafunc.fixturenames and test.get_closest_marker("stock_too"):
        metafunc.parametrize("postgres_url", SERVERS, indirect=True, scope="session")
    if (
        "transport" in metafunc.fixturenames
        and test.get_closest_marker("grpcio_if_short")
        and not (LONG or chooses_a_transport(test))
    ):
        test.add_marker(ONLY_GRPCIO)


@pytest.fixture(scope="session")
def shared_servers(tmp_path_factory: pytest.TempPathFactory) -> Servers:
    """What the tests of the session share on each Postgres."""
    return Servers(lambda: tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="session")
async def own_postgres(shared_servers: Servers) -> AsyncIterator[str]:
    """The Postgres of the session: the given one, a container's, or the embedded one."""
    with test_postgres() as url:
        yield url
        await shared_servers.leave(url)


@pytest.fixture(scope="session")
def postgres_files(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder with the files of an embedded Postgres that was migrated and not used, to copy."""
    folder = tmp_path_factory.getbasetemp()
    return made_once(folder.parent if hasattr(request.config, "workerinput") else folder)


@pytest.fixture
def with_postgres_files(postgres_files: Path, tmp_path: Path) -> None:
    """Spare a server that starts in the test's folder making the files of its embedded Postgres, and migrating it."""
    copy_postgres(postgres_files, tmp_path / "data")


@pytest.fixture(scope="session")
async def stock_postgres(shared_servers: Servers) -> AsyncIterator[str]:
    """A stock Postgres as the distribution ships it, with JIT and without statistics."""
    with stock_server() as server:
        yield server.url()
        await shared_servers.leave(server.url())


@pytest.fixture(scope="session")
def postgres_url(request: pytest.FixtureRequest) -> str:
    """The Postgres that a test runs on."""
    return str(request.getfixturevalue(getattr(request, "param", "own_postgres")))


@pytest.fixture(scope="session")
async def template(postgres_url: str, shared_servers: Servers) -> str:
    """A migrated database to clone."""
    return (await shared_servers.on(postgres_url)).template


@pytest.fixture
async def borrowed(
    request: pytest.FixtureRequest, postgres_url: str, shared_servers: Servers
) -> AsyncIterator[Borrowed]:
    """A migrated database for one test and, where a shared service is enough, that service with its database."""
    server = await shared_servers.on(postgres_url)
    if _may_share_a_service(request.node):
        shared = server.services[request.getfixturevalue("transport")]
        prepare = _preparation(request.node)
        async with shared.lent(prepare) as (service, database, made):
            yield Borrowed(database, service, prepare, made)
    else:
        async with server.databases.lent() as database:
            yield Borrowed(database)


def _may_share_a_service(test: pytest.Function) -> bool:
    return "empty_service" in test.fixturenames and test.get_closest_marker("own_service") is None


def _preparation(test: pytest.Function) -> Preparation | None:
    if "world_of_effects" in test.fixturenames:
        from tests.support.effects import make_world  # noqa: PLC0415 - only a few modules need it

        return make_world
    return apply_small_workspace if "service" in test.fixturenames else None


@pytest.fixture
def database_url(borrowed: Borrowed) -> str:
    """A migrated database for one test."""
    return borrowed.database.url


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """The test's database, opened as the service does."""
    database = await Database.open(DatabaseOptions(database_url))
    yield database
    await database.close()


@pytest.fixture
async def sql(database_url: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A connection that looks at the test's database from outside the service."""
    connection = await asyncpg.connect(database_url)
    yield connection
    await connection.close()


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    """The transport of the service; a test with this fixture runs once with each."""
    chosen = str(request.param)
    if reason := why_unavailable(chosen):
        pytest.skip(reason)
    return chosen


@pytest.fixture
async def empty_service(
    transport: str, borrowed: Borrowed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Service]:
    """A served service without a workspace; a test marked `own_service` gets its own.

    At the end of the test, its logs and its database are searched for every token that it saw.
    """
    caplog.set_level(logging.DEBUG)
    url = borrowed.database.url
    lent = nullcontext(borrowed.service) if borrowed.service else serving(url, tmp_path, transport=transport)
    async with lent as service:
        yield service
    if seen := service.watch.seen:
        assert_no_token_is_kept(seen, service.log.text() + caplog.text, await borrowed.database.text_rows())


@pytest.fixture
async def service(empty_service: Service, borrowed: Borrowed) -> Service:
    """A served service with the small workspace `acme`, which may have been there before the test began."""
    if borrowed.prepared is None:
        await apply_small_workspace(empty_service)
    return empty_service


def assert_no_token_is_kept(tokens: set[str], log: str, rows: list[str]) -> None:
    """Fail if a token, its secret or another spelling of the secret is in the log or the rows of the database."""
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
