"""The fold and the roll-up look up what they need by an index, however many keys and facts there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.storage import activity_fold, activity_lag, activity_rollup
from skilder_keys.storage.activity_rollup import Roll
from tests.support.activity import present_minute
from tests.support.lengths import by_form
from tests.support.many_keys import key_id
from tests.support.plans import Mode, plans, undone

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    Run = Callable[[asyncpg.Connection[Any]], Awaitable[object]]

pytestmark = pytest.mark.stock_too(in_turn=True)

FACTS, HOURS = by_form((20_000, 8_000), (60_000, 20_000))
# A number for every key and many tools, FACTS facts of this hour and the one before, and a row of the journal.
_FILL = """
INSERT INTO activity_workspace (id) SELECT id FROM workspace;
INSERT INTO activity_key (key_id, workspace)
SELECT key.id, number FROM key JOIN activity_workspace ON activity_workspace.id = workspace_id;
INSERT INTO activity_tool (id) SELECT 'tool-' || n FROM generate_series(1, 5000) AS n;
INSERT INTO activity_caller (name) SELECT 'caller-' || n FROM generate_series(1, 1000) AS n;
INSERT INTO key_use (key_id, last_minute) SELECT id, 1 FROM key;
INSERT INTO activity_minute (at, workspace, key, tool, caller, outcome, count, first_ms, last_ms)
SELECT {now} - n % 120, 1, n % 5000, n / 5000, 1, 0, 1, 0, 0 FROM generate_series(1, {facts}) AS n
ON CONFLICT DO NOTHING;
INSERT INTO activity_hour (at, workspace, key, tool, caller, outcome, count, first_ms, last_ms)
SELECT {now} / 60 - n % 24, 1, n, 0, 1, 0, 1, 0, 0 FROM generate_series(1, {hours}) AS n;
INSERT INTO activity_journal (began_at, minute, keys, tools, callers, outcomes, counts, firsts, lasts, sources, hints)
VALUES (now(), {now}, '{{{key},{key},NULL}}', '{{tool-7,tool-8,""}}', '{{caller-1,caller-2,caller-3}}', '{{0,6,1}}',
        '{{1,2,3}}', '{{0,0,0}}', '{{1,1,1}}', '{{10.0.0.1,"",""}}', '{{"","",""}}')
""".replace("{facts}", str(FACTS)).replace("{hours}", str(HOURS))
_LARGE = {"key", "key_use", "tool", "activity_key", "activity_tool", "activity_caller", "activity_workspace"}


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_nothing_large_is_read_as_a_whole(full: asyncpg.Connection[Any], mode: Mode) -> None:
    """Neither of keys and names, nor of facts."""
    async with undone(full):
        now = await present_minute(full)
        await full.execute(_FILL.format(now=now, key=key_id(77)))
        row_ids = await activity_fold.oldest_rows(full, 10)
        statements: dict[str, Run] = {
            "uses": lambda sql: activity_fold.note_uses(sql, row_ids),
            "fold": lambda sql: activity_fold.fold(sql, row_ids, now - 1440),
            "hour": lambda sql: activity_rollup.roll_up(sql, Roll.HOUR, now // 60),
            "day": lambda sql: activity_rollup.roll_up(sql, Roll.DAY, now // 1440),
            "closed": activity_rollup.oldest_closed,
            "until": activity_lag.counted_until,
        }
        read: dict[str, set[str]] = {}
        for name, run in statements.items():
            for plan in await plans(full, run, mode):
                for node in plan.nodes():
                    table = node.get("Relation Name", "")
                    is_large = table in _LARGE or table.startswith(("activity_minute", "activity_hour"))
                    if is_large and node["Node Type"] != "ModifyTable":
                        read.setdefault(name, set()).add(node["Node Type"])
    kinds = {"Index Scan", "Index Only Scan", "Bitmap Heap Scan"}
    assert read.keys() == {"uses", "fold", "hour", "day"}
    assert set.union(*read.values()) <= kinds, read


async def test_a_roll_up_reads_its_own_facts_only(full: asyncpg.Connection[Any]) -> None:
    """An hour has half of them here."""
    async with undone(full):
        now = await present_minute(full)
        await full.execute(_FILL.format(now=now, key=key_id(77)))
        hour = now // 60 - 1
        expected = await full.fetchval("SELECT count(*) FROM activity_minute WHERE at / 60 = $1", hour)
        (plan, *_) = await plans(
            full, lambda sql: activity_rollup.roll_up(sql, Roll.HOUR, hour), "custom", analyze=True
        )
        read = sum(plan.rows_read(table) for table in {node.get("Relation Name", "") for node in plan.nodes()} - {""})
        assert expected <= read <= expected + 1, plan


_CELLS = 400
# Half of the cells are grants of ten tools that have numbers, and half are denials of a tool each that has none.
_MANY = """
INSERT INTO activity_journal (began_at, minute, keys, tools, callers, outcomes, counts, firsts, lasts, sources, hints)
SELECT now(), $1, array_agg(id), array_agg(CASE WHEN number % 2 = 0 THEN 'tool-' || number % 20 + 1
                                                ELSE 'made-up-' || number END),
       array_agg('caller-1'::text), array_agg((CASE WHEN number % 2 = 0 THEN 0 ELSE 6 END)::smallint),
       array_agg(1::bigint), array_agg(0), array_agg(1), array_agg(''::text), array_agg(''::text)
FROM (SELECT id, row_number() OVER (ORDER BY id) AS number FROM key ORDER BY id LIMIT $2) AS chosen
"""


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_the_work_is_in_proportion_to_the_cells(full: asyncpg.Connection[Any], mode: Mode) -> None:
    """No step compares all with all, and a tool that many cells name is looked up once."""
    async with undone(full):
        now = await present_minute(full)
        await full.execute(_FILL.format(now=now, key=key_id(77)))
        await full.execute("DELETE FROM activity_journal")
        await full.execute(_MANY, now, _CELLS)
        row_ids = await activity_fold.oldest_rows(full, 10)

        async def uses(sql: asyncpg.Connection[Any]) -> None:
            async with undone(sql):  # a second time there would be nothing new
                await activity_fold.note_uses(sql, row_ids)

        async def fold(sql: asyncpg.Connection[Any]) -> None:
            async with undone(sql):
                await activity_fold.fold(sql, row_ids, now - 1440)

        for run in (uses, fold):
            found = await plans(full, run, mode, analyze=True)
            plan = next(each for each in found if "unnest" in each.query and "cell" in each.query)
            read = []
            for node in plan.nodes():
                removed = sum(count for key, count in node.items() if key.startswith("Rows Removed by"))
                read.append((node["Actual Rows"] + removed) * node["Actual Loops"])
            assert _CELLS <= max(read) <= 1.1 * _CELLS, read
            looks = sum(
                node["Actual Loops"]
                for node in plan.nodes()
                if node.get("Relation Name") == "activity_tool" and node["Node Type"] != "ModifyTable"
            )
            assert looks <= (_CELLS if run is fold else _CELLS // 4), looks
