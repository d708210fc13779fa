"""Activity: what Postgres pays for counting 20,000 calls a second, and for the worst mixes; and that nothing is lost.

The counts are made as a worker makes them, without calls: what a call costs is measured in the other cases.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING
from unittest.mock import patch
from uuid import UUID

import asyncpg

from bench.cpu import cpu_seconds
from bench.load import ROOT
from bench.machine import machine
from bench.seed import MAIN
from skilder_keys.app.activity.counter import GRANTED, ActivityCounter
from skilder_keys.app.activity.fold import ActivityFold
from skilder_keys.app.activity.writer import ActivityWriter
from skilder_keys.config import Settings
from skilder_keys.domain.errors import UnavailableError
from skilder_keys.domain.ids import KeyId
from skilder_keys.logs import make_log
from skilder_keys.storage import activity_lag
from skilder_keys.storage.activity_partitions import Retention
from skilder_keys.storage.database import Database, DatabaseOptions
from tests.docs.pages import replace_part
from tests.support.rows import NO_HASH
from tests.support.workspaces import example_workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.environment import Environment
    from bench.report import Report
    from bench.server import Server

PAGE = ROOT / "docs" / "design" / "activity.md"
MARKS = "activity"
"""The name of the part of the page that is written here."""

_SECONDS = 60.0
_RATE = 20_000
_TICK = 0.005
_TOOLS = 5
_KEYS = 100_000

_FILL = """
INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind, created_by_id)
SELECT ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'workspace', $2, 'Bot', $3, false, 'caller', 'b'
FROM generate_series(0::bigint, $1::bigint - 1) AS n
"""
_BYTES = """
SELECT coalesce(sum(pg_total_relation_size(pg_class.oid)), 0)::bigint FROM pg_class
WHERE relkind = 'r' AND relname LIKE $1
"""


@dataclass
class _Mix:
    """Which calls are counted: `pick` returns the numbers of a key and of a tool."""

    name: str
    pick: Callable[[random.Random], tuple[int, int]]
    rate: int = _RATE
    cuts: bool = False


@dataclass
class _Result:
    """What a mix took.

    Attributes:
        calls: How many calls were counted.
        dropped: How many of them are in no fact.
        held: The most CPU time that one callback held the event loop for, in seconds.
        lags: How far the counts were behind, in seconds, looked at each second.
        revokes: How long the update of a key in use took, in seconds.
    """

    calls: int = 0
    dropped: int = 0
    held: float = 0.0
    lags: list[float] = field(default_factory=list)
    revokes: list[float] = field(default_factory=list)


def _even(random_: random.Random) -> tuple[int, int]:
    return random_.randrange(1000), random_.randrange(_TOOLS)


def _skewed(random_: random.Random) -> tuple[int, int]:
    """Return a key of 100,000, of which a few have most calls: the one in place n has 1/n as many as the first."""
    return int(_KEYS ** random_.random()) - 1, random_.randrange(_TOOLS)


def _worst(random_: random.Random) -> tuple[int, int]:
    return random_.randrange(_KEYS), random_.randrange(1000)


_MIXES = (
    _Mix("1,000 keys, 5 tools", _even),
    _Mix("1,000 keys, 5 tools, connections cut every second", _even, cuts=True),
    _Mix("100,000 keys, most calls by few, 5 tools", _skewed),
    _Mix("every call another fact", _worst),
)


def run(environment: Environment, report: Report) -> None:
    """Measure each mix on a database of its own."""
    del report  # the table stands on a page of its own
    seconds = _SECONDS * environment.effort.scale
    lines: list[str] = []
    for mix in _MIXES:
        with environment.server(f"activity_{len(lines)}", SKILDER_KEYS_ACTIVITY_FOLD_INTERVAL="300") as server:
            lines.append(_measured(server, mix, seconds))
            print(lines[-1], flush=True)  # noqa: T201 - progress
    head = (
        "calls | a second | Postgres, ms of CPU for 1,000 calls | WAL bytes a call | facts | bytes a fact"
        " | journal at the end | behind, at most | loop held, at most, of CPU | UPDATE of a key in use, p99 | counted"
    )
    table = "\n".join([machine(), "", f"| {head} |", "|---" * (head.count("|") + 1) + "|", *lines])
    print(table)  # noqa: T201 - the result of a command for people
    if environment.effort.whole:
        PAGE.write_text(replace_part(PAGE.read_text("utf-8"), MARKS, table), "utf-8")


def _measured(server: Server, mix: _Mix, seconds: float) -> str:
    with server.caller() as caller:
        workspace = example_workspace()
        workspace.id = MAIN
        caller.apply(workspace)
    server.sql.execute("SET session_replication_role = replica")
    server.sql.execute(_FILL, _KEYS, MAIN, NO_HASH)
    server.sql.execute("RESET session_replication_role")
    server.sql.execute("VACUUM (ANALYZE) key")
    server.sql.execute("CHECKPOINT")
    wal, cpu = _wal(server), _postgres_cpu(server)
    result = asyncio.run(_run(server.url, mix, seconds))
    cpu, wal = _postgres_cpu(server) - cpu, _wal(server) - wal
    facts = _number(server, "SELECT count(*) FROM activity_minute")
    size = _number(server, _BYTES.replace("$1", "'activity_minute%'"))
    journal = _number(server, _BYTES.replace("$1", "'activity_journal'"))
    counted = _number(server, "SELECT coalesce(sum(count), 0)::bigint FROM activity_minute")
    wrong = counted + result.dropped - result.calls
    cells = [
        mix.name,
        f"{result.calls / seconds:,.0f}",
        f"{cpu * 1e6 / result.calls:.2f}",
        f"{wal / result.calls:.0f}",
        f"{facts:,}",
        f"{size / max(facts, 1):.0f}",
        f"{journal / 2**20:.0f} MiB",
        f"{max(result.lags):.1f} s",
        f"{result.held * 1000:.0f} ms",
        f"{_percentile(result.revokes, 0.99) * 1000:.1f} ms",
        "all" if wrong == 0 and not result.dropped else f"{wrong:+,} wrong, {result.dropped:,} dropped",
    ]
    return f"| {' | '.join(cells)} |"


def _key(number: int) -> KeyId:
    return KeyId(UUID(f"0198c2f4-7c3e-7000-8000-{number:012x}"))


async def _run(url: str, mix: _Mix, seconds: float) -> _Result:
    log = make_log("json")
    clock = partial(time.clock_gettime, time.CLOCK_BOOTTIME)
    database = await Database.open(DatabaseOptions(url, statement_timeout=60))
    defaults = Settings()
    counter = ActivityCounter(clock, defaults.activity_budget, defaults.activity_waiting)
    writer = ActivityWriter(database, counter, log, defaults.activity_interval)
    fold = ActivityFold(database, log, clock, defaults.activity_fold_interval, Retention())
    await writer.open()
    result = _Result()
    jobs = [writer.run(), fold.run(), _watch_lag(database, result), _update_keys(database, mix, result)]
    if mix.cuts:
        jobs.append(_cut(url))
    tasks = [asyncio.create_task(job) for job in jobs]
    gc.collect()
    gc.freeze()
    gc.set_threshold(5_000, 1, 1_000)  # as a worker has it
    with _watched(result):
        await _count(counter, mix, seconds, result)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    while counter.cells:
        with suppress(UnavailableError):
            await writer.flush()
    await writer.close()
    while await _rows(database):
        await _fold_now(fold)
    await database.close()
    result.dropped = counter.dropped + fold.dropped
    return result


@contextmanager
def _watched(result: _Result) -> Iterator[None]:
    """Measure the CPU time of each callback of the event loop: other programs do not count, whatever they do."""
    run = asyncio.Handle._run  # noqa: SLF001 - asyncio has no other place for it

    def timed(handle: asyncio.Handle) -> None:
        began = time.thread_time()
        run(handle)
        result.held = max(result.held, time.thread_time() - began)

    with patch.object(asyncio.Handle, "_run", timed):
        yield


async def _count(counter: ActivityCounter, mix: _Mix, seconds: float, result: _Result) -> None:
    """Count at the rate of the mix, a few calls in each turn of the event loop."""
    random_ = random.Random(7)  # noqa: S311 - no secret
    picks = [mix.pick(random_) for _ in range(200_000)]
    calls = [(_key(key), f"tool-{tool}") for key, tool in picks]
    began = due = time.monotonic()
    while due < began + seconds:
        due += _TICK
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        now = time.monotonic()
        wanted = int((min(now, began + seconds) - began) * mix.rate)
        while result.calls < wanted:
            key_id, tool = calls[result.calls % len(calls)]
            counter.count(key_id, tool, "gateway", GRANTED, "10.1.2.3", counter.clock())
            result.calls += 1
            if not result.calls % 500:
                await asyncio.sleep(0)


async def _watch_lag(database: Database, result: _Result) -> None:
    """Look each second how far behind the facts are."""
    while True:
        await asyncio.sleep(1)
        with suppress(UnavailableError):
            async with database.snapshot() as connection:
                until = await activity_lag.counted_until(connection)
                now = await connection.fetchval("SELECT clock_timestamp()")
            result.lags.append((now - until).total_seconds())


async def _update_keys(database: Database, mix: _Mix, result: _Result) -> None:
    """Update the rows of keys in use, as a revocation does."""
    random_ = random.Random(8)  # noqa: S311 - no secret
    while True:
        await asyncio.sleep(0.05)
        key, _ = mix.pick(random_)
        began = time.monotonic()
        with suppress(UnavailableError):
            async with database.transaction() as connection:
                await connection.execute("UPDATE key SET description = 'Another bot' WHERE id = $1", _key(key))
            result.revokes.append(time.monotonic() - began)


async def _cut(url: str) -> None:
    """Break the connections of the pool about once a second, at any moment."""
    sql = await asyncpg.connect(url)
    try:
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            await sql.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE application_name = 'skilder-keys' AND datname = current_database()"
            )
    finally:
        await sql.close()


async def _rows(database: Database) -> int:
    async with database.connection() as connection:
        return (await activity_lag.backlog(connection)).rows


async def _fold_now(fold: ActivityFold) -> None:
    """Fold, whatever the age of the rows."""
    await asyncio.sleep(1)
    with suppress(UnavailableError):
        await fold.fold()


def _postgres_cpu(server: Server) -> float:
    """Return the CPU seconds of Postgres."""
    return cpu_seconds(server.target.database)


def _wal(server: Server) -> int:
    return _number(server, "SELECT (pg_current_wal_lsn() - '0/0')::bigint")


def _number(server: Server, query: str) -> int:
    return int(server.sql.value(query))  # type: ignore[call-overload, no-any-return] # a number


def _percentile(values: list[float], part: float) -> float:
    return sorted(values)[min(len(values) - 1, int(len(values) * part))]
