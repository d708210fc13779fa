"""Minutes of activity become hours, and hours days, when these are over; old facts go away with their partitions."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import activity_partitions, activity_rollup
from skilder_keys.storage.activity_lag import Step, kept_from
from skilder_keys.storage.activity_partitions import UNPROVEN, Retention
from skilder_keys.storage.activity_rollup import Part, Roll
from tests.support.activity import Cell, Writer, facts, fold_all, present_minute
from tests.support.rows import insert, insert_key

if TYPE_CHECKING:
    import asyncpg

    from skilder_keys.storage.database import Database

pytestmark = pytest.mark.stock_too


@pytest.fixture
async def key(sql: asyncpg.Connection[Any]) -> UUID:
    """A key of `acme`."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    return UUID(str(await insert_key(sql)))


@pytest.fixture
async def yesterday(sql: asyncpg.Connection[Any]) -> int:
    """The number of yesterday, whose hours are all over."""
    return await present_minute(sql) // 1440 - 1


async def roll_all(database: Database, *, but_days: bool = False) -> list[tuple[Roll, int]]:
    """Roll up what is over, and return what was."""
    done: list[tuple[Roll, int]] = []
    while True:
        async with database.transaction() as connection:
            closed = await activity_rollup.oldest_closed(connection)
            if closed is None or (but_days and closed[0] is Roll.DAY):
                return done
            await activity_rollup.roll_up(connection, *closed)
            done.append(closed)


async def test_hours_and_days(
    database: Database, sql: asyncpg.Connection[Any], key: UUID, activity_writer: Writer, yesterday: int
) -> None:
    """An hour adds its minutes up, and a day its hours. The present hour and day wait for their end."""
    day = yesterday * 1440
    await activity_writer.append(day + 61, Cell(key, "", count=2, first=10, last=20, source="10.0.0.1"))
    await activity_writer.append(day + 119, Cell(key, "", count=3, first=5, last=30, source="10.0.0.2"))
    await activity_writer.append(day + 120, Cell(key, "", count=5, first=7, last=40), Cell(key, "", outcome=3))
    await activity_writer.append(await present_minute(sql), Cell(key, "", count=9))
    await fold_all(database)
    hour = yesterday * 24
    assert await roll_all(database) == [(Roll.HOUR, hour + 1), (Roll.HOUR, hour + 2), (Roll.DAY, yesterday)]
    in_hour = Cell(key, "", count=5, first=60_010, last=59 * 60_000 + 30, source="10.0.0.2")
    assert await facts(sql, "activity_hour") == {
        (hour + 1, "acme"): {in_hour},
        (hour + 2, "acme"): {Cell(key, "", count=5, first=7, last=40), Cell(key, "", outcome=3)},
    }
    in_day = Cell(key, "", count=10, first=3_660_010, last=7_200_040, source="10.0.0.2")
    denied = Cell(key, "", outcome=3, first=7_200_000, last=7_200_000)
    assert await facts(sql, "activity_day") == {(yesterday, "acme"): {in_day, denied}}
    stale = await sql.fetch("SELECT step, at FROM activity_stale")
    assert {row["at"] // (24 if row["step"] == 1 else 1) for row in stale} == {yesterday + 1}


async def test_late_rows_roll_up_again(
    database: Database, sql: asyncpg.Connection[Any], key: UUID, activity_writer: Writer, yesterday: int
) -> None:
    """Their hour and its day, from all facts; to do so twice adds nothing."""
    for _ in range(2):
        await activity_writer.append(yesterday * 1440, Cell(key, count=4))
        await fold_all(database)
        assert await roll_all(database) == [(Roll.HOUR, yesterday * 24), (Roll.DAY, yesterday)]
    async with database.transaction() as connection:
        await activity_rollup.roll_up(connection, Roll.HOUR, yesterday * 24)
        await activity_rollup.roll_up(connection, Roll.DAY, yesterday)
    for table, at in (("activity_hour", yesterday * 24), ("activity_day", yesterday)):
        assert await facts(sql, table) == {(at, "acme"): {Cell(key, count=8)}}


@pytest.mark.parametrize("roll", Roll)
async def test_parts_are_summed_up(
    database: Database, sql: asyncpg.Connection[Any], key: UUID, activity_writer: Writer, yesterday: int, roll: Roll
) -> None:
    """Each adds to the sum. It is forgotten when what it has changes; what is over is summed up as a whole."""
    hour = yesterday * 24 + 1
    at, length, table = {
        Roll.HOUR: (hour, 60, "activity_hour"),
        Roll.DAY: (yesterday, 24, "activity_day"),
    }[roll]
    first = at * length
    minute = {Roll.HOUR: 1, Roll.DAY: 60}[roll]  # the length of a part
    ms = minute * 60_000

    async def total() -> Cell:
        (cell,) = (await facts(sql, table))[at, "acme"]
        return cell

    async def until() -> int | None:
        found: int | None = await sql.fetchval(
            "SELECT summed_until FROM activity_stale WHERE step = $1 AND at = $2", roll.value, at
        )
        return found

    async def add(*cells: tuple[int, Cell]) -> None:
        for part, cell in cells:
            await activity_writer.append((first + part) * minute, cell)
        await fold_all(database)
        if roll is Roll.DAY:
            await roll_all(database, but_days=True)

    async def sum_up(begin: int, end: int) -> None:
        async with database.transaction() as connection:
            await activity_rollup.sum_up_part(connection, Part(roll, at, first + begin, first + end))

    await add(
        (1, Cell(key, count=2, first=7, last=9, source="10.0.0.1")),
        (5, Cell(key, count=3, first=1, last=2, source="10.0.0.2")),
        (8, Cell(key, count=4, first=1, last=2)),
    )
    await sum_up(0, 5)
    assert await total() == Cell(key, count=2, first=ms + 7, last=ms + 9, source="10.0.0.1")
    await sum_up(5, 6)
    assert await total() == Cell(key, count=5, first=ms + 7, last=5 * ms + 2, source="10.0.0.2")
    await sum_up(6, 9)
    in_all = Cell(key, count=9, first=ms + 7, last=8 * ms + 2, source="10.0.0.2")
    assert await total() == in_all
    assert await until() == first + 9
    await add((9, Cell(key, count=100)))
    assert await until() == first + 9
    await add((8, Cell(key, count=1000)))
    assert await until() is None
    await sum_up(0, 9)
    assert (await total()).count == 1009
    await roll_all(database)
    assert (await total()).count == 1109
    assert await until() is None


async def test_parts_are_due_after_some_time(
    database: Database, sql: asyncpg.Connection[Any], activity_writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not while there is a writer that does not know them."""

    async def due() -> list[Part]:
        async with database.connection() as connection:
            return await activity_rollup.parts_to_sum_up(connection)

    monkeypatch.setattr(activity_rollup, "PART_MINUTES", 0)  # the present hour may have just begun
    assert await due() == []
    closed = int(await sql.fetchval("SELECT floor((extract(epoch FROM clock_timestamp()) - 60) / 60)"))
    await sql.execute(
        "INSERT INTO activity_stale (step, at) SELECT 1, $1 + n FROM generate_series(0, 1) AS n", closed // 60
    )
    (part,) = await due()
    assert (part.roll, part.at, part.begin) == (Roll.HOUR, part.end // 60, part.end // 60 * 60)
    assert 0 <= part.end - closed <= 1
    await sql.execute("UPDATE activity_stale SET summed_until = $1", part.end - 1)
    (part,) = await due()
    assert 1 <= part.end - part.begin <= 2
    await sql.execute("UPDATE activity_stale SET summed_until = $1 + 1000", part.end)
    assert await due() == []
    await sql.execute("UPDATE activity_stale SET summed_until = NULL")
    monkeypatch.setattr(activity_rollup, "PART_MINUTES", 61)
    assert await due() == []
    monkeypatch.setattr(activity_rollup, "PART_MINUTES", 0)
    await sql.execute("UPDATE activity_writer SET knows_parts = false WHERE id = $1", activity_writer.id)
    assert await due() == []


async def test_hours_of_the_present_day_are_due(
    sql: asyncpg.Connection[Any], activity_writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When they are over and summed up; not while there is a writer that does not know it."""
    del activity_writer  # it is registered
    now = "'2026-11-27 14:30+00'::timestamptz"
    day, hour = 20_784, 20_784 * 24 + 14
    # The clock of the test stands in for that of Postgres: the hour of a run must not matter.
    await sql.execute(f"""
        CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $$ SELECT {now} $$;
        SET search_path = public, pg_catalog
    """)
    monkeypatch.setattr(activity_rollup, "PART_MINUTES", 61)
    for stale, end in (((hour - 3, hour), hour - 3), ((hour,), hour), ((), hour)):
        await sql.execute("TRUNCATE activity_stale")
        await sql.execute("INSERT INTO activity_stale (step, at) SELECT 1, unnest($1::integer[])", list(stale))
        await sql.execute("INSERT INTO activity_stale (step, at) VALUES (2, $1), (2, $2)", day, day - 1)
        assert await activity_rollup.parts_to_sum_up(sql) == [Part(Roll.DAY, day, day * 24, end)]
    await sql.execute("UPDATE activity_stale SET summed_until = $1 WHERE at = $2", hour - 1, day)
    assert await activity_rollup.parts_to_sum_up(sql) == [Part(Roll.DAY, day, hour - 1, hour)]
    await sql.execute("UPDATE activity_stale SET summed_until = $1 WHERE at = $2", hour, day)
    assert await activity_rollup.parts_to_sum_up(sql) == []
    await sql.execute(
        "UPDATE activity_stale SET summed_until = NULL; UPDATE activity_writer SET knows_day_parts = false"
    )
    assert await activity_rollup.parts_to_sum_up(sql) == []
    await sql.execute("DROP FUNCTION public.clock_timestamp()")


async def make_at(sql: asyncpg.Connection[Any], parent: str, *numbers: int) -> None:
    """Make the partitions with these `at`."""
    for number in numbers:
        await sql.execute("SELECT make_activity_partition($1, $2)", parent, number)


async def kept(sql: asyncpg.Connection[Any], parent: str) -> int:
    """Return how many partitions a table has."""
    return int(await sql.fetchval("SELECT count(*) FROM pg_inherits WHERE inhparent = $1::text::regclass", parent))


async def drop_old(database: Database, retention: Retention) -> dict[str, int]:
    """Remove what is older."""
    async with database.transaction() as connection:
        return dict(await activity_partitions.drop_old(connection, retention))


async def test_old_partitions_are_dropped(database: Database, sql: asyncpg.Connection[Any], yesterday: int) -> None:
    """Whole ones only. Facts are kept for at least as long as the setting says."""
    today = yesterday + 1
    await make_at(sql, "activity_minute", *(1440 * (today - ago) for ago in range(10)))
    await make_at(sql, UNPROVEN, *(1440 * (today - ago) for ago in (5, 6, 7)))
    await make_at(sql, "activity_hour", *(24 * (today - ago) for ago in (100, 140, 200)))
    await make_at(sql, "activity_day", *(today - ago for ago in (800, 1200, 1600)))
    before = {step: await kept(sql, step.value) for step in Step}
    assert before[Step.MINUTE] == 11
    dropped = await drop_old(database, Retention(minutes=4, hours=6, days=730))
    assert await kept(sql, "activity_minute") == 6  # four days, today and tomorrow
    assert dropped["activity_minute"] == 5
    assert dropped[UNPROVEN] == 1
    assert dropped["activity_hour"] >= 3
    assert dropped["activity_day"] >= 2
    async with database.connection() as connection:
        first = await kept_from(connection)
    now = await sql.fetchval("SELECT now()")
    assert timedelta(days=4) <= now - first[Step.MINUTE] < timedelta(days=5)
    assert timedelta(days=6) <= now - first[Step.HOUR] < timedelta(days=6 + 31)
    assert timedelta(days=0) <= now - first[Step.DAY]
    assert await drop_old(database, Retention(minutes=4, hours=6, days=730)) == {}
    assert (
        await sql.fetchval("SELECT count(*) FROM pg_class WHERE relname LIKE 'activity_minute_2%' AND relkind = 'r'")
        == 6
    )


async def test_what_is_not_rolled_up_stays(database: Database, sql: asyncpg.Connection[Any], yesterday: int) -> None:
    """Minutes of a stale hour, and hours of a stale day."""
    hour, day = (yesterday - 4) * 24 + 3, yesterday - 100
    await make_at(sql, "activity_minute", *(1440 * (yesterday - ago) for ago in range(8)))
    await make_at(sql, "activity_hour", *(24 * (yesterday - ago) for ago in (100, 200)))
    await sql.execute("INSERT INTO activity_stale (step, at) VALUES (1, $1), (2, $2)", hour, day)
    await drop_old(database, Retention(minutes=1, hours=2, days=730))
    async with database.connection() as connection:
        first = await kept_from(connection)
    assert Step.MINUTE.number(first[Step.MINUTE]) == (yesterday - 4) * 1440
    assert first[Step.HOUR] <= Step.DAY.start(day) < first[Step.HOUR] + timedelta(days=31)


async def test_dropping_waits_for_nobody(database: Database, sql: asyncpg.Connection[Any], yesterday: int) -> None:
    """Whoever reads goes on. The partition is dropped the next time."""
    await make_at(sql, "activity_minute", 1440 * (yesterday - 8))
    async with database.snapshot() as reading:
        await reading.fetchval("SELECT count(*) FROM activity_minute")
        with pytest.raises(UnavailableError):
            await drop_old(database, Retention())
    assert (await drop_old(database, Retention()))["activity_minute"] == 1


async def test_partitions_are_only_for_who_folds(sql: asyncpg.Connection[Any]) -> None:
    """The functions run as the owner, but not for everybody, and for our tables only."""
    for call in ("make_activity_partition('key', 1)", "drop_activity_partitions('key', 1)"):
        with pytest.raises(Exception, match="key has no partitions"):
            await sql.execute(f"SELECT {call}")
    async with sql.transaction():
        await sql.execute("CREATE ROLE activity_stranger; SET LOCAL SESSION AUTHORIZATION activity_stranger")
        for call in ("make_activity_partition('activity_day', 1)", "drop_activity_partitions('activity_day', 1)"):
            with pytest.raises(Exception, match="may not fold activity"):
                async with sql.transaction():
                    await sql.execute(f"SELECT {call}")
        await sql.execute("RESET SESSION AUTHORIZATION; DROP ROLE activity_stranger")
