"""What the cases run on: one Postgres, servers with a database of it each, and empty methods to compare with."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import asyncpg
import psutil

from service.callers_file import local_operator
from service.config import OPERATOR_TOKEN_FILE
from service.embedded import EmbeddedPostgres
from service.storage.migrations import migrate
from tests.bench.caller import Caller
from tests.bench.load import ROOT, Generator, Target
from tests.support.postgres import database_url
from tests.support.process import serving_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from tests.bench.load import Sample
    from tests.bench.rounds import Effort

_METRIC = re.compile(r"^skilder_keys_(?:cache_)?(\w+?)(?:_total)?(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_MODE = re.compile('mode="([a-z]+)"')
_PATIENCE = 30.0


class Stage:
    """What the cases run on. Make it with `staged`.

    Attributes:
        effort: How much is to be done.
        load: What makes load.
    """

    def __init__(self, folder: Path, effort: Effort, postgres: EmbeddedPostgres) -> None:
        self.effort = effort
        self._folder = folder
        self._postgres = postgres
        lines = (folder / "postgres" / "postmaster.pid").read_text("ascii").splitlines()
        self._postmaster = psutil.Process(int(lines[0]))
        # All servers share the folder of the operator's token, so that calls are the same whomever they are made to.
        self._data = folder / "data"
        self._data.mkdir()
        local_operator(self._data / OPERATOR_TOKEN_FILE)
        self._token = (self._data / OPERATOR_TOKEN_FILE).read_text("ascii").strip()
        self.load = Generator(folder, self._token)

    @contextmanager
    def server(self, name: str, *, workers: int = 1, **variables: str) -> Iterator[Server]:
        """Runs `skilder-keys serve` on a database of its own, in processes of its own."""
        with Sql(self._postgres.url()) as sql:
            sql.execute(f"CREATE DATABASE {name}")
        url = database_url(self._postgres.url(), name)
        asyncio.run(migrate(url))
        settings = {
            "SKILDER_KEYS_DATABASE_URL": url,
            "SKILDER_KEYS_DATA_DIR": str(self._data),
            "SKILDER_KEYS_METRICS_LISTEN": "127.0.0.1:0",
            "SKILDER_KEYS_WORKERS": str(workers),
        }
        with serving_process(self._folder, **settings, **variables) as process:
            serving = process.wait_for("serving")
            target = Target(serving["address"], psutil.Process(process.process.pid), self._postmaster)
            with Sql(url) as sql:
                yield Server(target, self._token, serving["metrics"], sql, url)

    @contextmanager
    def empty(self, body: bytes) -> Iterator[Target]:
        """Runs an empty method that answers a body, in a process of its own."""
        file = self._folder / "body.bin"
        file.write_bytes(body)
        command = [sys.executable, "-m", "tests.bench.empty_server", str(file)]
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            try:
                if process.stdout is None:
                    raise RuntimeError("the empty server has no output to read its address from")
                yield Target(process.stdout.readline().strip(), psutil.Process(process.pid))
            finally:
                process.terminate()


@contextmanager
def staged(effort: Effort) -> Iterator[Stage]:
    """Runs a Postgres in a temporary folder, which both are gone when left."""
    with tempfile.TemporaryDirectory(prefix="skilder-keys-bench-") as name:
        folder = Path(name)
        postgres = EmbeddedPostgres.start(folder / "postgres")
        try:
            yield Stage(folder, effort, postgres)
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
        """Answers a connection to it."""
        return Caller(self.target.address, self._token)

    def workers(self) -> list[psutil.Process]:
        """Answers the processes that answer calls."""
        return self.target.server.children()

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
        """Answers its metrics, without the prefix, each summed up over its labels; a mode by its name."""
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
        """Runs load about so many tokens; fails where one was denied, or was decided about from elsewhere.

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
        """Waits until its metrics tell something."""
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
        """Holds the table of readers, so that no lease can be had and every answer is read from the database."""
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
        """Runs a statement."""
        self._runner.run(self._connection.execute(statement, *values))

    def copy(self, table: str, columns: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> None:
        """Adds rows to a table."""
        self._runner.run(self._connection.copy_records_to_table(table, records=list(rows), columns=list(columns)))
