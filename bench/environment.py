"""What the cases run on: one Postgres, servers with a database of it each, and empty methods to compare with."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import asyncpg
import psutil

from bench.caller import Caller
from bench.h2load import H2Load
from bench.load import ROOT, Generator, Target
from skilder_keys.auth.callers_file import local_operator
from skilder_keys.config import OPERATOR_TOKEN_FILE
from skilder_keys.storage.migrations import migrate
from skilder_keys.supervisor.embedded_postgres import EmbeddedPostgres
from tests.support.postgres import database_url
from tests.support.process import serving_process
from tests.support.running import worker_processes
from tests.support.stock import StockServer, cluster_folder, running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from bench.load import Sample
    from bench.rounds import Effort

_METRIC = re.compile(r"^skilder_keys_(?:cache_)?(\w+?)(?:_total)?(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_MODE = re.compile('mode="([a-z]+)"')
_PATIENCE = 30.0


@dataclass(frozen=True)
class Postgres:
    """A running Postgres.

    Attributes:
        url: Where it is.
        process: The parent of its processes.
    """

    url: str
    process: psutil.Process

    @classmethod
    def of(cls, url: str, data: Path) -> Self:
        """Return the one that runs in a data folder."""
        lines = (data / "postmaster.pid").read_text("ascii").splitlines()
        return cls(url, psutil.Process(int(lines[0])))


class Environment:
    """What the cases run on. Make it with `environment_of`.

    Attributes:
        effort: How much is to be done.
        load: What makes load.
        h2load: What makes more of it than that can.
        callers: The callers file that lets h2load in.
    """

    def __init__(self, folder: Path, effort: Effort, postgres: Postgres) -> None:
        self.effort = effort
        self._folder = folder
        self._postgres = postgres
        # All servers share the folder of the operator's token, so that calls are the same whomever they are made to.
        self._data = folder / "data"
        self._data.mkdir()
        local_operator(self._data / OPERATOR_TOKEN_FILE)
        self._token = (self._data / OPERATOR_TOKEN_FILE).read_text("ascii").strip()
        self.load = Generator(folder, self._token)
        # Its arguments can be read by all: so it has a caller of its own, who may ask for decisions and nothing else.
        token = secrets.token_urlsafe(32)
        self.callers = folder / "callers.yaml"
        digest = hashlib.sha256(token.encode()).hexdigest()
        self.callers.write_text(
            json.dumps({"callers": [{"name": "h2load", "role": "service", "token_sha256": digest}]})
        )
        self.h2load = H2Load(folder, token)

    @contextmanager
    def server(
        self, name: str, *, workers: int = 1, postgres: Postgres | None = None, again: bool = False, **variables: str
    ) -> Iterator[Server]:
        """Run `skilder-keys serve` on a database of its own, in processes of its own.

        Args:
            name: The name of the database.
            workers: How many workers serve.
            postgres: Where the database is, if not in the Postgres of the other servers.
            again: Whether an earlier server has left the database behind.
            variables: Settings.
        """
        postgres = postgres or self._postgres
        with Sql(postgres.url) as sql:
            if not again:
                sql.execute(f"CREATE DATABASE {name}")
        url = database_url(postgres.url, name)
        asyncio.run(migrate(url))
        settings = {
            "SKILDER_KEYS_DATABASE_URL": url,
            "SKILDER_KEYS_DATA_DIR": str(self._data),
            "SKILDER_KEYS_METRICS_LISTEN": "127.0.0.1:0",
            "SKILDER_KEYS_WORKERS": str(workers),
        }
        with serving_process(self._folder, **settings, **variables) as process:
            serving = process.wait_for("serving")
            target = Target(serving["address"], psutil.Process(process.process.pid), postgres.process)
            with Sql(url) as sql:
                yield Server(target, self._token, serving["metrics"], sql, url)

    @contextmanager
    def stock(self) -> Iterator[Postgres]:
        """Run a stock Postgres of the machine's, with its own settings but for autovacuum, which would analyse."""
        with cluster_folder() as folder:
            server = StockServer.create(folder, fsync="on")
            with running(server):
                yield Postgres.of(server.url(), server.data)

    @contextmanager
    def transport(self, name: str, transport: str) -> Iterator[Server]:
        """Run a server behind a transport, for h2load; connections do not end by age while it measures."""
        with self.server(
            name,
            SKILDER_KEYS_TRANSPORT=transport,
            SKILDER_KEYS_MAX_CONNECTION_AGE="3600",
            SKILDER_KEYS_CALLERS=str(self.callers),
        ) as server:
            yield server

    @contextmanager
    def empty(self, body: bytes) -> Iterator[Target]:
        """Run an empty method that answers a body, in a process of its own."""
        with self._answering("empty_server", str(self._written(body))) as target:
            yield target

    @contextmanager
    def empty_asgi(self, body: bytes, part: str = "empty") -> Iterator[Target]:
        """Run one of `empty_asgi.PARTS`, which answers a body, in an Envoy of its own."""
        with (
            tempfile.TemporaryDirectory(dir=self._folder) as folder,
            self._answering("empty_asgi", part, str(self._written(body)), str(self.callers), folder) as target,
        ):
            _await_connections(target.address)
            yield target

    def _written(self, body: bytes) -> Path:
        file = self._folder / "body.bin"
        file.write_bytes(body)
        return file

    @contextmanager
    def _answering(self, module: str, *arguments: str) -> Iterator[Target]:
        """Run a module that prints its address, until left; what it has to complain of goes into a file."""
        command = [sys.executable, "-m", f"bench.{module}", *arguments]
        with (
            (self._folder / f"{module}.log").open("w") as log,
            subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=log, text=True) as process,
        ):
            try:
                address = "" if process.stdout is None else process.stdout.readline().strip()
                if not address:
                    raise RuntimeError(f"{module} does not serve: {Path(log.name).read_text('utf-8')}")
                yield Target(address, psutil.Process(process.pid))
            finally:
                process.terminate()
                try:
                    process.wait(_PATIENCE)
                except subprocess.TimeoutExpired:
                    process.kill()


def _await_connections(address: str) -> None:
    """Wait until connections are accepted at an address, HOST:PORT."""
    host, _, port = address.rpartition(":")
    end = time.monotonic() + _PATIENCE
    while True:
        with suppress(ConnectionRefusedError), socket.create_connection((host, int(port)), _PATIENCE):
            return
        if time.monotonic() > end:
            raise RuntimeError("the empty application does not accept connections")
        time.sleep(0.05)


@contextmanager
def environment_of(effort: Effort) -> Iterator[Environment]:
    """Run a Postgres in a temporary folder, which both are gone when left."""
    with tempfile.TemporaryDirectory(prefix="skilder-keys-bench-") as name:
        folder = Path(name)
        postgres = EmbeddedPostgres.start(folder / "postgres")
        try:
            yield Environment(folder, effort, Postgres.of(postgres.url(), folder / "postgres"))
        finally:
            postgres.stop()


class Server:
    """A running server.

    Attributes:
        target: What is loaded.
        sql: A connection to its database.
    """

    def __init__(self, target: Target, token: str, metrics: str, sql: Sql, url: str) -> None:
        self.target = target
        self.sql = sql
        self._token = token
        self._metrics = metrics
        self._url = url

    def caller(self) -> Caller:
        """Return a connection to it."""
        return Caller(self.target.address, self._token)

    def workers(self) -> list[psutil.Process]:
        """Return the processes that answer calls."""
        return worker_processes(self.target.server)

    def replace_workers(self) -> None:
        """Has other processes answer from now on: where things happen to lie in memory makes some percent of a call."""
        before = set(self.workers())
        self.target.server.send_signal(signal.SIGHUP)
        end = time.monotonic() + _PATIENCE
        while before.intersection(self.workers()):
            if time.monotonic() > end:
                raise RuntimeError("the workers were not replaced")
            time.sleep(0.05)

    def counts(self) -> Mapping[str, float]:
        """Return its metrics, without the prefix, each summed up over its labels; a mode by its name."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=_PATIENCE) as response:
                text = response.read().decode()
            found: defaultdict[str, float] = defaultdict(float)
            for name, labels, value in _METRIC.findall(text):
                mode = _MODE.search(labels)
                found[mode[1] if mode else name] += float(value)
            if found["worker_up"]:  # one that is too busy to tell is asked again
                return found
        raise RuntimeError("no worker tells its metrics")

    def granting(self, tokens: int, run: Callable[[], Sample], *, from_memory: bool = True) -> Sample:
        """Run load about so many tokens; fails where one was denied, or was decided about from elsewhere.

        A lease that ran out for a moment is borne with: one token in a hundred may have been looked up.
        """
        before = self.counts()
        sample = run()
        after = self.counts()
        hits, misses, denials = (after[name] - before[name] for name in ("hits", "misses", "denials"))
        wrong = max(0.0, misses - tokens / 100) if from_memory else hits
        if hits + misses != tokens or wrong or denials:
            raise RuntimeError(f"of {tokens} tokens, {hits} were known, {misses} looked up, and {denials} denied")
        return sample

    def await_counts(self, what: str, told: Callable[[Mapping[str, float]], bool]) -> None:
        """Wait until its metrics tell something."""
        end = time.monotonic() + _PATIENCE
        while not told(self.counts()):
            if time.monotonic() > end:
                raise RuntimeError(f"the server has not come to this: {what}")
            time.sleep(0.05)

    def forget(self) -> None:
        """Has it forget all keys, as if the database had taken it for gone: it registers anew within half a second."""
        self.sql.execute("DELETE FROM reader")
        self.await_counts("no key in memory", lambda counts: not counts["cached_keys"] and counts["cached"] == 1)

    @contextmanager
    def without_lease(self) -> Iterator[None]:
        """Hold the table of readers, so that no lease can be had and every answer is read from the database."""
        with Sql(self._url) as holder:
            holder.execute("BEGIN")
            holder.execute("LOCK TABLE reader IN EXCLUSIVE MODE")
            self.await_counts("no lease", lambda counts: not counts["cached"])
            yield
            holder.execute("ROLLBACK")


class Sql:
    """A connection to Postgres, for statements that are waited for. Leave it to close it."""

    def __init__(self, url: str) -> None:
        self._runner = asyncio.Runner()
        self._connection = self._runner.run(asyncpg.connect(url, timeout=_PATIENCE))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._runner.run(self._connection.close(timeout=_PATIENCE))
        self._runner.close()

    def execute(self, statement: str, *values: Any) -> None:
        """Run a statement."""
        self._runner.run(self._connection.execute(statement, *values))

    def value(self, query: str) -> object:
        """Return the one value that a query asks for."""
        return self._runner.run(self._connection.fetchval(query))

    def copy(self, table: str, columns: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows to a table."""
        self._runner.run(self._connection.copy_records_to_table(table, records=list(rows), columns=list(columns)))
