"""The journal of activity is folded into facts: exactly, once, and by one process at a time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from skilder_keys.app.activity import fold
from skilder_keys.storage import activity_fold, activity_journal, activity_partitions
from skilder_keys.storage.activity_journal import Appended
from skilder_keys.storage.activity_lag import counted_until
from skilder_keys.storage.activity_partitions import Retention
from tests.support.activity import (
    REVOKED,
    TOOL_NOT_ALLOWED,
    UNKNOWN,
    Cell,
    Writer,
    facts,
    fold_all,
    present_minute,
)
from tests.support.clock import FakeClock
from tests.support.log import CapturedLog
from tests.support.rows import insert, insert_key

if TYPE_CHECKING:
    import asyncpg

    from skilder_keys.storage.database import Connection, Database

pytestmark = pytest.mark.stock_too


@pytest.fixture
async def key(sql: asyncpg.Connection[Any]) -> UUID:
    """A key of `acme`, which has the disabled tool `search`."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    await insert(sql, "tool", workspace_id="acme", id="search", name="Search", mcp_server="docs", disabled=True)
    return UUID(str(await insert_key(sql)))


@pytest.fixture
async def minute(sql: asyncpg.Connection[Any]) -> int:
    """The minute before the present one."""
    return await present_minute(sql) - 1


async def test_cells_add_up(
    database: Database, sql: asyncpg.Connection[Any], key: UUID, activity_writer: Writer, minute: int
) -> None:
    """Of several rows, writers and folds: counts are added, first and last are the outermost, and so is the source."""
    other = Writer(database)
    await other.register()
    await activity_writer.append(
        minute, Cell(key, "search", count=3, first=100, last=900, source="10.0.0.1"), Cell(key)
    )
    await other.append(minute, Cell(key, "search", count=4, first=50, last=800, source="10.0.0.2"))
    assert await fold_all(database) == (2, 3, 8, 0)
    await activity_writer.append(minute, Cell(key, "search", count=5, first=1000, last=2000))
    await activity_writer.append(minute, Cell(key, "search", caller="other"), Cell(key, outcome=REVOKED, count=2))
    assert await fold_all(database) == (2, 3, 8, 0)
    assert await facts(sql) == {
        (minute, "acme"): {
            Cell(key, "search", count=12, first=50, last=2000, source="10.0.0.1"),
            Cell(key, "search", caller="other"),
            Cell(key),
            Cell(key, outcome=REVOKED, count=2),
        }
    }
    assert await sql.fetchval("SELECT count(*) FROM activity_journal") == 0
    stale = await sql.fetch("SELECT step, at FROM activity_stale ORDER BY step")
    assert [tuple(row) for row in stale] == [(1, minute // 60), (2, minute // 1440)]


async def test_a_row_that_is_sent_again_counts_once(
    database: Database, sql: asyncpg.Connection[Any], key: UUID, activity_writer: Writer, minute: int
) -> None:
    """Before and after the fold, and also when the writer's registration was lost."""
    first, second = activity_writer.row(minute, Cell(key)), activity_writer.row(minute, Cell(key, count=10))
    assert [await activity_writer.send(each) for each in (first, first, second)] == [Appended.YES] * 3
    await fold_all(database)
    assert [await activity_writer.send(each) for each in (second, first)] == [Appended.YES] * 2
    await fold_all(database)
    assert await facts(sql) == {(minute, "acme"): {Cell(key, count=11)}}
    stranger = Writer(database)
    assert await stranger.send(stranger.row(minute, Cell(key))) is Appended.UNKNOWN_WRITER


async def test_two_processes_fold(
    database: Database, sql: asyncpg.Connection[Any], key: UUID, activity_writer: Writer, minute: int
) -> None:
    """Each row is folded once, whoever does it."""
    for _ in range(30):
        await activity_writer.append(minute, Cell(key, count=7))
        results = await asyncio.gather(*(fold_all(database) for _ in range(3)))
        assert sum(each.calls for each in results if each is not None) == 7
    assert await facts(sql) == {(minute, "acme"): {Cell(key, count=210)}}


async def test_one_process_folds_at_a_time(database: Database) -> None:
    """Another one does not wait for it."""
    async with database.transaction() as first, database.transaction() as second:
        assert await activity_fold.try_lock(first)
        assert not await activity_fold.try_lock(second)


async def test_tools_that_nobody_has_are_not_recorded(
    database: Database, sql: asyncpg.Connection[Any], key: UUID, activity_writer: Writer, minute: int
) -> None:
    """Whoever has a key can make ids up. A tool that is in the workspace, or was granted, is recorded by its id."""
    await activity_writer.append(
        minute,
        Cell(key, "search", outcome=TOOL_NOT_ALLOWED),
        Cell(key, "gone", count=2),
        Cell(key, "made-up-1", outcome=TOOL_NOT_ALLOWED, count=3),
        Cell(key, "made-up-2", outcome=TOOL_NOT_ALLOWED, count=4),
        Cell(key, None, outcome=TOOL_NOT_ALLOWED, count=5),
    )
    await fold_all(database)
    assert await facts(sql) == {
        (minute, "acme"): {
            Cell(key, "search", outcome=TOOL_NOT_ALLOWED),
            Cell(key, "gone", count=2),
            Cell(key, None, outcome=TOOL_NOT_ALLOWED, count=12),
        }
    }
    assert [row["id"] for row in await sql.fetch("SELECT id FROM activity_tool ORDER BY id")] == ["gone", "search"]


async def test_tokens_that_prove_no_key(
    database: Database, sql: asyncpg.Connection[Any], activity_writer: Writer, minute: int
) -> None:
    """They are counted by caller, reason and hint, in a table of their own."""
    for number in (1, 2):
        await activity_writer.append(
            minute,
            Cell(None, outcome=UNKNOWN, hint="WSK_4mBq8Jd41x", count=2, last=number, source=f"10.0.0.{number}"),
            Cell(None, outcome=1, count=5),
        )
        await fold_all(database)
    rows = await sql.fetch(
        """
        SELECT at, name, outcome, hint, count, last_ms, host(source_ip) AS source
        FROM activity_unproven JOIN activity_caller ON number = caller ORDER BY outcome
        """
    )
    assert [tuple(row) for row in rows] == [
        (minute, "gateway", 1, "", 10, 0, None),
        (minute, "gateway", UNKNOWN, "WSK_4mBq8Jd41x", 4, 2, "10.0.0.2"),
    ]
    assert await facts(sql) == {}
    assert await sql.fetchval("SELECT count(*) FROM activity_stale") == 0


async def test_the_last_use_and_its_source(
    database: Database, sql: asyncpg.Connection[Any], key: UUID, activity_writer: Writer, minute: int
) -> None:
    """Grants count, denials do not; a late row changes nothing; a use without a source keeps the last source."""

    async def use() -> tuple[Any, ...]:
        await fold_all(database)
        (row,) = await sql.fetch(
            "SELECT last_minute, source_minute, host(source_ip) FROM key_use WHERE key_id = $1", key
        )
        return tuple(row)

    await activity_writer.append(
        minute, Cell(key, source="10.0.0.1", last=5), Cell(key, "search", source="10.0.0.2", last=9)
    )
    assert await use() == (minute, minute, "10.0.0.2")
    await activity_writer.append(minute - 1, Cell(key, source="10.0.0.3"))
    await activity_writer.append(minute + 1, Cell(key))
    await activity_writer.append(minute + 1, Cell(key, outcome=REVOKED, source="10.0.0.4"), Cell(uuid4()))
    assert await use() == (minute + 1, minute, "10.0.0.2")
    assert await sql.fetchval("SELECT count(*) FROM key_use") == 1


async def test_what_nobody_keeps_is_dropped(
    database: Database, sql: asyncpg.Connection[Any], key: UUID, activity_writer: Writer, minute: int
) -> None:
    """Minutes before the oldest partition, and calls of keys that do not exist any more; each is in the result."""
    await activity_writer.append(minute - 3 * 1440, Cell(key, count=3))
    await activity_writer.append(minute - 1440, Cell(key, count=5))
    await activity_writer.append(minute, Cell(uuid4(), count=7))
    assert await fold_all(database) == (3, 3, 15, 10)
    assert await facts(sql) == {(minute - 1440, "acme"): {Cell(key, count=5)}}


async def test_minutes_to_come_are_now(
    database: Database, sql: asyncpg.Connection[Any], key: UUID, activity_writer: Writer, minute: int
) -> None:
    """The clock of the database may be set back; a fact in a year from now would stay for a year too long."""
    await activity_writer.append(minute + 500_000, Cell(key))
    await fold_all(database)
    ((at, _),) = await facts(sql)
    assert minute < at <= await present_minute(sql)


async def test_the_journal_is_bounded(
    database: Database,
    sql: asyncpg.Connection[Any],
    key: UUID,
    activity_writer: Writer,
    minute: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A row that finds it full is not lost: it is appended when there is room."""
    monkeypatch.setattr(activity_journal, "MAX_ROWS", 2)
    await activity_writer.append(minute, Cell(key))
    await activity_writer.append(minute, Cell(key))
    third = activity_writer.row(minute, Cell(key))
    assert await activity_writer.send(third) is Appended.FULL
    await fold_all(database)
    assert await activity_writer.send(third) is Appended.YES
    await fold_all(database)
    assert await facts(sql) == {(minute, "acme"): {Cell(key, count=3)}}


async def test_counted_until(
    database: Database, sql: asyncpg.Connection[Any], key: UUID, activity_writer: Writer, minute: int
) -> None:
    """It is before what is in the journal, and before what a writer has not flushed; a silent writer does not count."""
    start = float(minute * 60)

    async def until() -> float:
        async with database.snapshot() as connection:
            return (await counted_until(connection)).timestamp()

    now = float(await sql.fetchval("SELECT extract(epoch FROM now())"))
    assert now - 5 < await until()  # a writer at rest
    await activity_writer.append(minute, Cell(key), began_at=start, counted_until=start + 2)
    assert await until() == start
    await fold_all(database)
    assert await until() == start + 2
    async with database.connection() as connection:
        await activity_journal.rest(connection, activity_writer.id, start + 4)
    assert now - 5 < await until()
    await activity_writer.append(minute, Cell(key), began_at=start + 4, counted_until=start + 6)
    await fold_all(database)
    await sql.execute("UPDATE activity_writer SET seen_at = now() - interval '1 minute'")
    assert now - 5 < await until()


async def test_as_many_rows_at_once_as_take_little_time(
    database: Database, key: UUID, activity_writer: Writer, minute: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts of many rows are changed once then; but Postgres ends a statement that takes long."""
    limits: list[int] = []
    took = [0.0]
    oldest_rows = activity_fold.oldest_rows

    async def noted(connection: Connection, limit: int) -> list[int]:
        limits.append(limit)
        clock.now += took[0]
        return await oldest_rows(connection, limit)

    monkeypatch.setattr(activity_fold, "oldest_rows", noted)
    monkeypatch.setattr(fold, "MAX_ROWS", 8)
    clock = FakeClock(0.0)
    job = fold.ActivityFold(database, CapturedLog().logger, clock, 0.0, Retention())
    for seconds, expected in ((0.1, [2, 4, 8, 8]), (2.0, [8, 4, 2, 1]), (0.7, [1] * 16)):
        limits.clear()
        took[0] = seconds
        for _ in range(15):
            await activity_writer.append(minute, Cell(key))
        assert await job.fold()
        assert limits[: len(expected)] == expected
    assert job.calls == 45


async def test_partitions_are_made_once(database: Database, sql: asyncpg.Connection[Any]) -> None:
    """For yesterday, today and tomorrow; again changes nothing."""
    for parent in ("activity_minute", "activity_hour", "activity_day", "activity_unproven"):
        await sql.execute("SELECT drop_activity_partitions($1, 2000000000)", parent)
    names = "SELECT array_agg(relname::text ORDER BY relname) FROM pg_class WHERE relispartition AND relkind = 'r'"
    async with database.transaction() as connection:
        oldest = await activity_partitions.make(connection)
    made = await sql.fetchval(names)
    assert oldest % 1440 == 0
    assert 1440 <= await present_minute(sql) - oldest < 2 * 1440 + 1
    assert sum(each.startswith("activity_minute") for each in made) == 3
    assert sum(each.startswith("activity_unproven") for each in made) == 3
    with_room = await sql.fetch("SELECT relname FROM pg_class WHERE reloptions = '{fillfactor=50}' AND relispartition")
    assert {row["relname"] for row in with_room} == {each for each in made if each.startswith("activity_minute")}
    async with database.transaction() as connection:
        await activity_partitions.make(connection)
    assert await sql.fetchval(names) == made
