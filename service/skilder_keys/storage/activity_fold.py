"""Fold the journal of activity into the facts. One process does so at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.storage.plans import prefer_indexes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skilder_keys.storage.database import Connection

_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended(concat('activity of ', current_schema()), 0))"

# To what a fact has already.
_ADD = """
        SET count = fact.count + excluded.count,
            first_ms = least(fact.first_ms, excluded.first_ms),
            last_ms = greatest(fact.last_ms, excluded.last_ms),
            source_ip = CASE WHEN fact.last_ms > excluded.last_ms THEN coalesce(fact.source_ip, excluded.source_ip)
                             ELSE coalesce(excluded.source_ip, fact.source_ip) END
"""
# The time of a call stands before its source, always in 16 digits: so the source of the last call is found without
# sorting. A tool that no key was granted, and that no workspace has, gets no number: anybody can make ids up.
_NAMES_AND_USES = """
    WITH cell AS MATERIALIZED (
        SELECT cell.key, cell.tool, cell.caller, max(minute) FILTER (WHERE outcome = 0) AS granted_at,
               max((1000000000000000 + minute * 60000::bigint + last)::text || source COLLATE "C")
                   FILTER (WHERE outcome = 0 AND source <> '') AS source
        FROM activity_journal AS journal, unnest(keys, tools, callers, outcomes, lasts, sources)
                                              AS cell (key, tool, caller, outcome, last, source)
        WHERE journal.id = ANY($1::bigint[])
        GROUP BY cell.key, cell.tool, cell.caller
    ), of_key AS MATERIALIZED (
        SELECT cell.key, max(granted_at) AS granted_at, (left(max(source), 16)::bigint - 1000000000000000) / 60000
                   AS source_minute, substr(max(source), 17)::inet AS source_ip
        FROM cell GROUP BY cell.key
    ), new_key AS MATERIALIZED (
        SELECT id, workspace_id FROM (
            SELECT of_key.key AS id FROM of_key
            WHERE NOT EXISTS (SELECT FROM activity_key AS known WHERE known.key_id = of_key.key)
        ) AS unknown JOIN key USING (id)
    ), new_workspace AS (
        INSERT INTO activity_workspace (id)
        SELECT DISTINCT workspace_id FROM new_key
        WHERE NOT EXISTS (SELECT FROM activity_workspace AS known WHERE known.id = new_key.workspace_id)
        RETURNING number, id
    ), add_keys AS (
        INSERT INTO activity_key (key_id, workspace)
        SELECT new_key.id, coalesce(new_workspace.number, known.number)
        FROM new_key LEFT JOIN new_workspace ON new_workspace.id = new_key.workspace_id
        LEFT JOIN activity_workspace AS known ON known.id = new_key.workspace_id
        ORDER BY new_key.id
    ), add_tools AS (
        -- A tool that a key was granted is looked up once. That of a denied cell is looked up each time: a join with a
        -- list of tools that have no number would compare all with all.
        INSERT INTO activity_tool (id)
        SELECT id FROM (
            SELECT tool AS id FROM cell WHERE granted_at IS NOT NULL AND tool <> ''
            UNION
            SELECT tool FROM cell
            WHERE granted_at IS NULL AND tool <> ''
              AND NOT EXISTS (SELECT FROM activity_tool AS known WHERE known.id = cell.tool)
              AND EXISTS (
                  SELECT FROM key JOIN tool ON tool.workspace_id = key.workspace_id AND tool.id = cell.tool
                  WHERE key.id = cell.key
              )
        ) AS used
        WHERE NOT EXISTS (SELECT FROM activity_tool AS known WHERE known.id = used.id)
    ), add_callers AS (
        INSERT INTO activity_caller (name)
        SELECT name FROM (SELECT DISTINCT caller AS name FROM cell) AS caller
        WHERE NOT EXISTS (SELECT FROM activity_caller AS known WHERE known.name = caller.name)
    )
    INSERT INTO key_use AS known (key_id, last_minute, source_minute, source_ip)
    SELECT of_key.key, granted_at, of_key.source_minute, of_key.source_ip
    FROM of_key LEFT JOIN key_use AS earlier ON earlier.key_id = of_key.key
    -- Most keys were used in the same minute from the same address: their rows are not even locked.
    WHERE granted_at IS NOT NULL AND (
        earlier.key_id IS NULL OR earlier.last_minute < granted_at
        OR (of_key.source_minute >= coalesce(earlier.source_minute, 0)
            AND of_key.source_ip IS DISTINCT FROM earlier.source_ip)
    ) AND EXISTS (SELECT FROM key WHERE id = of_key.key)
    ORDER BY of_key.key
    ON CONFLICT (key_id) DO UPDATE
    SET last_minute = greatest(known.last_minute, excluded.last_minute),
        source_minute = greatest(known.source_minute, excluded.source_minute),
        source_ip = CASE WHEN excluded.source_minute >= coalesce(known.source_minute, 0) THEN excluded.source_ip
                         ELSE known.source_ip END
"""
# $2 is the first minute that is kept. A minute that the clock of the database has not reached yet is the present one:
# the clock was set back.
_FOLD = f"""
    WITH gone AS (
        DELETE FROM activity_journal WHERE id = ANY($1::bigint[])
        RETURNING least(minute, floor(extract(epoch FROM clock_timestamp()) / 60)::integer) AS at, keys, tools, callers,
                  outcomes, counts, firsts, lasts, sources, hints
    ), cell AS MATERIALIZED (
        -- Added up before any number is looked up. A source has the time of its call before it, in six digits.
        SELECT at, cell.key, tool, caller, outcome, hint, sum(count)::bigint AS count, min(first) AS first,
               max(last) AS last, count(*) AS cells,
               max((100000 + last)::text || source COLLATE "C") FILTER (WHERE source <> '') AS source
        FROM gone, unnest(keys, tools, callers, outcomes, counts, firsts, lasts, sources, hints)
                       AS cell (key, tool, caller, outcome, count, first, last, source, hint)
        GROUP BY at, cell.key, tool, caller, outcome, hint
    ), found AS (
        SELECT at, activity_key.workspace, activity_key.number AS key,
               CASE WHEN tool = '' THEN 0 ELSE coalesce(activity_tool.number, -1) END AS tool,
               coalesce(activity_caller.number, 0) AS caller, outcome, count, first, last, source
        FROM cell JOIN activity_key ON activity_key.key_id = cell.key
        LEFT JOIN activity_tool ON activity_tool.id = cell.tool
        LEFT JOIN activity_caller ON activity_caller.name = cell.caller
        WHERE at >= $2
    ), proven AS MATERIALIZED (
        -- Again, as several tools may have no number.
        SELECT at, workspace, key, tool, caller, outcome, sum(count)::bigint AS count, min(first) AS first_ms,
               max(last) AS last_ms, substr(max(source), 7)::inet AS source_ip
        FROM found GROUP BY at, workspace, key, tool, caller, outcome
        ORDER BY at, workspace, key, tool, caller, outcome
    ), unproven AS MATERIALIZED (
        SELECT at, coalesce(activity_caller.number, 0) AS caller, outcome, hint, sum(count)::bigint AS count,
               min(first) AS first, max(last) AS last, substr(max(source), 7)::inet AS source
        FROM cell LEFT JOIN activity_caller ON activity_caller.name = cell.caller
        WHERE key IS NULL AND at >= $2 GROUP BY at, activity_caller.number, outcome, hint
    ), add_proven AS (
        INSERT INTO activity_minute AS fact (at, workspace, key, tool, caller, outcome, count, first_ms, last_ms,
                                             source_ip)
        SELECT * FROM proven
        ON CONFLICT (at, workspace, key, tool, caller, outcome) DO UPDATE {_ADD}
    ), add_unproven AS (
        INSERT INTO activity_unproven AS fact (at, caller, outcome, hint, count, first_ms, last_ms, source_ip)
        SELECT * FROM unproven ORDER BY at, caller, outcome, hint
        ON CONFLICT (at, caller, outcome, hint) DO UPDATE {_ADD}
    ), stale AS (
        INSERT INTO activity_stale (step, at)
        SELECT DISTINCT step, minute.at / length
        FROM (SELECT DISTINCT at FROM proven) AS minute, (VALUES (1, 60), (2, 1440)) AS steps (step, length)
        ON CONFLICT (step, at) DO NOTHING
    )
    SELECT coalesce(sum(count), 0)::bigint AS calls, coalesce(sum(cells), 0)::bigint AS cells,
           (SELECT min(at) FROM proven) AS first_minute,
           (SELECT coalesce(sum(count), 0)::bigint FROM proven)
               + (SELECT coalesce(sum(count), 0)::bigint FROM unproven) AS kept
    FROM cell
"""  # noqa: S608 - a constant
# The hours and days of whose sums a minute has changed.
_DROP_PARTS = """
    DELETE FROM activity_stale
    WHERE step = 1 AND summed_until > $1::integer OR step = 2 AND summed_until > $1::integer / 60
    RETURNING step, at
"""


class Folded(NamedTuple):
    """What was folded: rows of the journal, their cells, and the calls that these counted.

    `dropped` are those of the calls that came too late, or whose key does not exist any more.
    """

    rows: int
    cells: int
    calls: int
    dropped: int


async def try_lock(connection: Connection) -> bool:
    """Let no other process fold until the transaction ends; return False if one does so now."""
    return bool(await connection.fetchval(_LOCK))


async def oldest_rows(connection: Connection, limit: int) -> list[int]:
    """Return the ids of the oldest rows of the journal."""
    rows = await connection.fetch("SELECT id FROM activity_journal ORDER BY id LIMIT $1", limit)
    return [row["id"] for row in rows]


async def note_uses(connection: Connection, row_ids: Sequence[int]) -> None:
    """Give numbers to what rows of the journal name, and record the last grants in them. Twice changes nothing.

    Do this before the rows are folded, in a transaction of its own: no lock on a key's use is held while they are.
    """
    await prefer_indexes(connection)
    await connection.execute(_NAMES_AND_USES, row_ids)


async def fold(connection: Connection, row_ids: Sequence[int], oldest: int) -> Folded:
    """Move rows of the journal into the facts, whose partitions must be there.

    Args:
        connection: Inside a transaction, with the lock.
        row_ids: The rows, whose uses are noted.
        oldest: The first minute that is kept. What is before it is dropped.
    """
    await prefer_indexes(connection)
    row = await connection.fetchrow(_FOLD, row_ids, oldest)
    if row is None:
        raise LookupError("a select of aggregates always has a row")
    late = await connection.fetch(_DROP_PARTS, row["first_minute"])
    if late:
        await connection.executemany("INSERT INTO activity_stale (step, at) VALUES ($1, $2)", map(tuple, late))
    return Folded(len(row_ids), row["cells"], row["calls"], row["calls"] - row["kept"])
