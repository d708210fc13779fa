"""A running server: its processes, its metrics and its database."""

from __future__ import annotations

import asyncio
import re
import signal
import time
import urllib.request
from collections import defaultdict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import asyncpg
import psutil

from bench.caller import Caller
from bench.revoking import Revoking
from skilder_keys.supervisor import watchdog
from tests.support.running import worker_processes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from bench.load import Sample, Target

_METRIC = re.compile(r"^skilder_keys_(?:cache_)?(\w+?)(?:_total)?(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_MODE = re.compile('mode="([a-z]+)"')
_WATCHDOG = Path(watchdog.__file__).name
_PATIENCE = 30.0


class Server:
    """A running server.

    Attributes:
        target: The target of the load.
        sql: A connection to its database.
        url: The URL of its database.
    """

    def __init__(self, target: Target, token: str, metrics: str, sql: Sql, url: str) -> None:
        self.target = target
        self.sql = sql
        self._token = token
        self._metrics = metrics
        self.url = url

    def caller(self) -> Caller:
        """Return a connection to the server."""
        return Caller(self.target.address, self._token)

    def revoking(self, key_ids: Sequence[str], pause: float) -> Revoking:
        """Return what a client is to revoke."""
        return Revoking(self.target.address, self._token, key_ids, pause)

    def workers(self) -> list[psutil.Process]:
        """Return the worker processes."""
        return [each for each in worker_processes(self.target.server) if _works(each)]

    def connections(self, ports: Sequence[int]) -> list[list[int]]:
        """Return for each worker the numbers of its connections, given the local ports of their clients."""
        own = int(self.target.address.rpartition(":")[2])
        numbers = {port: number for number, port in enumerate(ports)}
        return [
            [numbers[each.raddr.port] for each in found if each.laddr.port == own and each.raddr.port in numbers]
            for found in ([c for c in worker.net_connections("tcp") if c.raddr] for worker in self.workers())
        ]

    def replace_workers(self) -> None:
        """Replace the worker processes: where things happen to be in memory changes a call by some percent."""
        before = set(self.workers())
        self.target.server.send_signal(signal.SIGHUP)
        end = time.monotonic() + _PATIENCE
        while before.intersection(self.workers()):
            if time.monotonic() > end:
                raise RuntimeError("the workers were not replaced")
            time.sleep(0.05)

    def counts(self) -> Mapping[str, float]:
        """Return the server's metrics without the prefix, summed over their labels; a mode by its name."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            with urllib.request.urlopen(f"http://{self._metrics}/metrics", timeout=_PATIENCE) as response:
                text = response.read().decode()
            found: defaultdict[str, float] = defaultdict(float)
            for name, labels, value in _METRIC.findall(text):
                mode = _MODE.search(labels)
                found[mode[1] if mode else name] += float(value)
            if found["worker_up"]:  # a worker that is too busy to respond is asked again
                return found
        raise RuntimeError("no worker reports its metrics")

    def granting(self, tokens: int, run: Callable[[], Sample], *, from_memory: bool = True) -> Sample:
        """Run load with this many tokens; fail if one was denied, or was decided in another way than expected.

        A lease may lapse for a moment: one token in a hundred may have been read from Postgres.
        """
        before = self.counts()
        sample = run()
        after = self.counts()
        hits, misses, denials = (after[name] - before[name] for name in ("hits", "misses", "denials"))
        wrong = max(0.0, misses - tokens / 100) if from_memory else hits
        if hits + misses != tokens or wrong or denials:
            raise RuntimeError(f"of {tokens} tokens, {hits} were known, {misses} looked up, and {denials} denied")
        return sample

    def await_counts(self, what: str, satisfied: Callable[[Mapping[str, float]], bool]) -> None:
        """Wait until the metrics satisfy a condition."""
        end = time.monotonic() + _PATIENCE
        while not satisfied(self.counts()):
            if time.monotonic() > end:
                raise RuntimeError(f"the server has not reached this state: {what}")
            time.sleep(0.05)

    def forget(self) -> None:
        """Make the server forget all keys, as if it had been evicted: it registers again within half a second."""
        self.sql.execute("DELETE FROM reader")
        self.await_counts("no key in memory", lambda counts: not counts["cached_keys"] and counts["cached"] == 1)

    @contextmanager
    def without_lease(self) -> Iterator[None]:
        """Lock the table of readers, so that there is no lease and every decision is read from Postgres."""
        with Sql(self.url) as holder:
            holder.execute("BEGIN")
            holder.execute("LOCK TABLE reader IN EXCLUSIVE MODE")
            self.await_counts("no lease", lambda counts: not counts["cached"])
            yield
            holder.execute("ROLLBACK")


class Sql:
    """A connection to Postgres for blocking statements. It closes when the context ends."""

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
        """Return the only value of a query."""
        return self._runner.run(self._connection.fetchval(query))

    def copy(self, table: str, columns: Iterable[str], rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows to a table."""
        self._runner.run(self._connection.copy_records_to_table(table, records=list(rows), columns=list(columns)))


def _works(process: psutil.Process) -> bool:
    """Return whether a process has not ended, and is no watchdog; that of another version has another path."""
    try:
        return all(Path(part).name != _WATCHDOG for part in process.cmdline())
    except psutil.NoSuchProcess:
        return False
