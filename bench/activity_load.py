"""Counting as a worker does it, without calls: at a steady rate, into a database, for `bench.activity`."""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from uuid import UUID

import asyncpg

from bench.cpu import process_seconds
from bench.held import watched
from bench.revoking import revoke
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
from tests.support.garbage import collected_as_in_a_worker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from bench.server import Server

KEYS = 100_000
"""How many keys there are."""

_SECONDS = 60.0
_RATE = 20_000
_TICK = 0.005
_TOOLS = 5

_SESSIONS = "FROM pg_stat_activity WHERE application_name = 'skilder-keys' AND datname = current_database()"


@dataclass
class Mix:
    """Which calls are counted: `pick` returns the numbers of a key and of a tool."""

    name: str
    pick: Callable[[random.Random], tuple[int, int]]
    rate: int = _RATE
    cuts: bool = False
    seconds: float = _SECONDS


@dataclass
class Result:
    """What a mix took.

    Attributes:
        calls: How many calls were counted.
        dropped: How many of them are in no fact.
        held: The most CPU time that one callback held the event loop for, in seconds.
        lags: How far the counts were behind, in seconds, looked at each second.
        revokes: How long RevokeKey of a key in use took, in seconds.
        without: The same while the counts were thrown away.
        backends: The CPU seconds of the sessions that flush and fold, by process id.
        own: The CPU seconds of the sessions of this benchmark.
    """

    calls: int = 0
    dropped: int = 0
    held: float = 0.0
    lags: list[float] = field(default_factory=list)
    revokes: list[float] = field(default_factory=list)
    without: list[float] = field(default_factory=list)
    backends: dict[int, float] = field(default_factory=dict)
    own: float = 0.0


def _even(random_: random.Random) -> tuple[int, int]:
    return random_.randrange(1000), random_.randrange(_TOOLS)


def _skewed(random_: random.Random) -> tuple[int, int]:
    """Return a key of 100,000, of which a few have most calls: the one in place n has 1/n as many as the first."""
    return int(KEYS ** random_.random()) - 1, random_.randrange(_TOOLS)


def _worst(random_: random.Random) -> tuple[int, int]:
    return random_.randrange(KEYS), random_.randrange(1000)


MIXES = (
    Mix("1,000 keys, 5 tools, for ten minutes", _even, seconds=600.0),
    Mix("1,000 keys, 5 tools, connections cut every second", _even, cuts=True),
    Mix("100,000 keys, most calls by few, 5 tools", _skewed),
    Mix("100,000 different facts a flush", _worst, rate=50_000),
)


def _key(number: int) -> KeyId:
    return KeyId(UUID(f"0198c2f4-7c3e-7000-8000-{number:012x}"))


async def revoke_beside(server: Server, mix: Mix, seconds: float, keys: range, *, counts: bool) -> list[float]:
    """Revoke keys in use while calls are counted, and return how long each took.

    Args:
        server: The service, on the database that is counted into.
        mix: The calls.
        seconds: For how long.
        keys: Places among the keys, most used first, of those to revoke.
        counts: Whether the counts are written and folded, or thrown away.
    """
    database = await Database.open(DatabaseOptions(server.url))
    counter, writer, fold = _parts(database)
    await writer.open()
    jobs = [writer.run(), fold.run()] if counts else [_discard(counter)]
    tasks = [asyncio.create_task(job) for job in jobs]
    client = asyncio.create_task(revoke(server.revoking([str(_key(each)) for each in keys], seconds / len(keys))))
    await _count(counter, mix, _calls(mix), seconds, Result())
    took = await client
    await _end(tasks)
    while counts and counter.cells:
        with suppress(UnavailableError):
            await writer.flush()
    await writer.close()
    await database.close()
    return took


async def run(url: str, mix: Mix, seconds: float, result: Result) -> None:
    """Count, flush and fold."""
    database = await Database.open(DatabaseOptions(url))
    counter, writer, fold = _parts(database)
    await writer.open()
    calls = _calls(mix)
    async with _own_session(url, result) as watching:
        jobs = [writer.run(), fold.run(), _watch(watching, result)]
        if mix.cuts:
            jobs.append(_cut(url, result))
        tasks = [asyncio.create_task(job) for job in jobs]
        with collected_as_in_a_worker(), watched() as held:
            await _count(counter, mix, calls, seconds, result)
        result.held = max(result.held, held.seconds)
        await _end(tasks)
        while counter.cells:
            with suppress(UnavailableError):
                await writer.flush()
        await writer.close()
        while await _rows(database):
            await _fold_now(fold)
        await _note_backends(watching, result)
    await database.close()
    result.dropped = counter.dropped + fold.dropped


def _parts(database: Database) -> tuple[ActivityCounter, ActivityWriter, ActivityFold]:
    """Return what counts, writes and folds, as a worker has them."""
    log, defaults = make_log("json"), Settings()
    counter = ActivityCounter(_clock, defaults.activity_budget, defaults.activity_waiting)
    writer = ActivityWriter(database, counter, log, defaults.activity_interval)
    return counter, writer, ActivityFold(database, log, _clock, defaults.activity_fold_interval, Retention())


def _clock() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)


@asynccontextmanager
async def _own_session(url: str, result: Result) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """Open a session of the benchmark's own, and measure its CPU time, which is not the price of counting."""
    sql = await asyncpg.connect(url, server_settings={"application_name": "benchmark"})
    try:
        yield sql
    finally:
        result.own += process_seconds(sql.get_server_pid())
        await sql.close()


async def _end(tasks: list[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _discard(counter: ActivityCounter) -> None:
    """Throw away what was counted, as often as it would be written."""
    while True:
        await asyncio.sleep(Settings().activity_interval)
        for minute in counter.take():
            counter.release(len(minute.cells))


def _calls(mix: Mix) -> list[tuple[KeyId, str]]:
    """Return the keys and tools of calls."""
    random_ = random.Random(7)  # noqa: S311 - no secret
    picks = [mix.pick(random_) for _ in range(200_000)]
    return [(_key(key), f"tool-{tool}") for key, tool in picks]


async def _count(
    counter: ActivityCounter, mix: Mix, calls: list[tuple[KeyId, str]], seconds: float, result: Result
) -> None:
    """Count at the rate of the mix, a few calls in each turn of the event loop."""
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


async def _watch(sql: asyncpg.Connection[asyncpg.Record], result: Result) -> None:
    """Look each second how far behind the facts are, and how much the sessions have worked."""
    while True:
        await asyncio.sleep(1)
        async with sql.transaction(isolation="repeatable_read", readonly=True):
            until = await activity_lag.counted_until(sql)
            now = await sql.fetchval("SELECT clock_timestamp()")
        result.lags.append((now - until).total_seconds())
        await _note_backends(sql, result)


async def _note_backends(sql: asyncpg.Connection[asyncpg.Record], result: Result) -> None:
    """Note the CPU time of the sessions that flush and fold. Of one that ends, the time since the last look is lost."""
    for row in await sql.fetch(f"SELECT pid {_SESSIONS}"):
        with suppress(OSError):  # it has just ended
            result.backends[row["pid"]] = process_seconds(row["pid"])


async def _cut(url: str, result: Result) -> None:
    """Break the connections of the pool about once a second, at any moment."""
    async with _own_session(url, result) as sql:
        while True:
            await asyncio.sleep(random.uniform(0.5, 1.5))  # noqa: S311 - no secret
            await _note_backends(sql, result)
            await sql.execute(f"SELECT pg_terminate_backend(pid) {_SESSIONS}")


async def _rows(database: Database) -> int:
    async with database.connection() as connection:
        return (await activity_lag.backlog(connection)).rows


async def _fold_now(fold: ActivityFold) -> None:
    """Fold, whatever the age of the rows."""
    await asyncio.sleep(1)
    with suppress(UnavailableError):
        await fold.fold()
