"""Last uses of very many keys: they block neither each other, nor revocations, nor the event loop."""

from __future__ import annotations

import asyncio
import gc
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from skilder_keys.app.authorization import usage as usage_module
from skilder_keys.app.authorization.usage import MAX_PENDING, Usage
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.storage import keys
from skilder_keys.storage.database import Database, DatabaseOptions
from tests.support.clock import FakeClock
from tests.support.lengths import by_form
from tests.support.log import CapturedLog
from tests.support.rows import NO_HASH, without_events

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

pytestmark = pytest.mark.stock_too

_WORKERS = 4
_HOUR = 3600.0
_ATTEMPTS = 3


async def add_used_keys(sql: asyncpg.Connection[Any], number: int) -> list[KeyId]:
    """Add keys that were last used two hours ago, and return their ids in order."""
    await sql.execute("INSERT INTO workspace (id, name, version) VALUES ('acme', 'Acme', 1)")
    async with without_events(sql):
        rows = await sql.fetch(
            """
            INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats,
                             created_by_kind, created_by_id, last_used_at)
            SELECT ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'workspace', 'acme', 'D', $2, false,
                   'caller', 'tests', now() - interval '2 hours'
            FROM generate_series(1, $1::integer) AS n RETURNING id
            """,
            number,
            NO_HASH,
        )
    return sorted(KeyId(row["id"]) for row in rows)


@asynccontextmanager
async def workers(database_url: str, log: CapturedLog) -> AsyncIterator[list[Usage]]:
    """Yield the usage recorders of several workers, whose clocks are independent."""
    databases = [await Database.open(DatabaseOptions(database_url)) for _ in range(_WORKERS)]
    try:
        yield [
            Usage(database, log.logger, FakeClock(number * 1e6), 1.0) for number, database in enumerate(databases, 1)
        ]
    finally:
        for database in databases:
            await database.close()


async def test_many_workers_with_the_same_keys_do_not_block_revocations(
    database_url: str, database: Database, sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits for a row, so nothing deadlocks, no revocation fails, and no use is lost."""
    monkeypatch.setattr(usage_module, "CHUNK", 100)
    key_ids = await add_used_keys(sql, 3000)
    log = CapturedLog()
    async with workers(database_url, log) as fleet:
        for number, usage in enumerate(fleet):
            for key_id in key_ids[:: -1 if number % 2 else 1]:
                usage.note(key_id)
        flushing = [asyncio.create_task(usage.flush()) for usage in fleet]
        for key_id in key_ids[::60]:
            async with database.transaction() as transaction:
                assert await keys.revoke(transaction, key_id, by=Principal(PrincipalKind.USER, "ada"), reason="")
        await asyncio.gather(*flushing)
        assert log.events == []
        # A key that another worker or a revocation had locked waits for the next flush.
        for usage in fleet:
            await usage.flush()
    assert await sql.fetchval("SELECT count(*) FROM key WHERE last_used_at < now() - interval '1 hour'") == 0
    assert await sql.fetchval("SELECT count(*) FROM key WHERE last_used_at > now()") == 0


async def test_a_key_in_use_by_many_workers_is_written_by_one(database_url: str, sql: asyncpg.Connection[Any]) -> None:
    """The others find it on record, and do not send it again for a minute."""
    key_ids = await add_used_keys(sql, 100)
    async with workers(database_url, CapturedLog()) as fleet:
        written = []
        for usage in fleet:
            for key_id in key_ids:
                usage.note(key_id)
            await usage.flush()
            written.append(await sql.fetch("SELECT DISTINCT xmin FROM key"))
        assert written == written[:1] * _WORKERS


async def longest_slice(usage: Usage) -> float:
    """Flush, and return the longest CPU time in seconds for which the event loop ran nothing else.

    CPU time, because other load on the machine must not count.
    """
    longest = 0.0
    writing = asyncio.create_task(usage.flush())
    gc.disable()  # garbage collection would go through all objects that the tests have left
    try:
        while not writing.done():
            before = time.thread_time()
            await asyncio.sleep(0.001)  # without a pause, it would keep the processor busy while Postgres works
            longest = max(longest, time.thread_time() - before)
    finally:
        gc.enable()
    await writing
    return longest


@pytest.mark.long
@pytest.mark.parametrize("reachable", by_form([True], [True, False]), ids=by_form(["written"], ["written", "kept"]))
async def test_very_many_uses_do_not_stall_the_event_loop(
    database: Database, sql: asyncpg.Connection[Any], *, reachable: bool
) -> None:
    """They are written in slices: none takes a tenth of the time that making MAX_PENDING ids at once takes.

    The short form has an eighth of the keys: at once, they would still take more than a tenth. Other processes may slow
    down a slice now and then, so not each attempt must succeed.
    """
    key_ids = await add_used_keys(sql, MAX_PENDING // by_form(8, 2, 1))
    numbers = [key_id.int for key_id in key_ids] * by_form(8, 2, 1)
    before = time.thread_time()
    made = [UUID(int=number) for number in numbers]
    at_once = time.thread_time() - before
    assert made[: len(key_ids)] == key_ids
    if not reachable:
        await database.close()
    slices: list[float] = []
    while not slices or slices[-1] >= at_once / 10:
        assert len(slices) < _ATTEMPTS, (slices, at_once)
        if slices:
            await sql.execute("UPDATE key SET last_used_at = now() - interval '2 hours'")
        usage = Usage(database, CapturedLog().logger, FakeClock(_HOUR), 1.0)
        for key_id in key_ids:
            usage.note(key_id)
        slices.append(await longest_slice(usage))
    left = await sql.fetchval("SELECT count(*) FROM key WHERE last_used_at < now() - interval '1 hour'")
    assert left == (0 if reachable else len(key_ids))
