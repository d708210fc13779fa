"""Fold the journal of activity into the facts. One process does so at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.storage.plans import prefer_indexes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skilder_keys.storage.database import Connection

_LOCK = "SELECT pg_try_advisory_xact_lock(hashtextextended(concat('activity of ', current_schema()), 0))"

_CELLS = """
    FROM activity_journal AS journal,
         unnest(keys, tools, callers, outcomes, counts, firsts, lasts, sources, hints)
             AS cell (key, tool, caller, outcome, count, first, last, source, hint)
    WHERE journal.id = ANY($1::bigint[])
"""
# A tool that no key was granted, and that no workspace has, gets no number: anybody with a key can make ids up.
_NUMBERS = f"""
    WITH cell AS MATERIALIZED (
        SELECT cell.key, cell.tool, cell.caller, bool_or(cell.outcome = 0) AS is_granted {_CELLS}
        GROUP BY cell.key, cell.tool, cell.caller
    ), new_key AS MATERIALIZED (
        SELECT key.id, key.workspace_id FROM (SELECT DISTINCT cell.key AS id FROM cell) AS used JOIN key USING (id)
        WHERE NOT EXISTS (SELECT FROM activity_key AS known WHERE known.key_id = key.id)
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
        INSERT INTO activity_tool (id)
        SELECT DISTINCT cell.tool FROM cell
        WHERE cell.tool <> '' AND NOT EXISTS (SELECT FROM activity_tool AS known WHERE known.id = cell.tool)
          AND (is_granted OR EXISTS (
              SELECT FROM key JOIN tool ON tool.workspace_id = key.workspace_id AND tool.id = cell.tool
              WHERE key.id = cell.key
          ))
    )
    INSERT INTO activity_caller (name)
    SELECT DISTINCT cell.caller FROM cell
    WHERE NOT EXISTS (SELECT FROM activity_caller AS known WHERE known.name = cell.caller)
"""  # noqa: S608 - a constant
# To what a fact has already.
_ADD = """
        SET count = fact.count + excluded.count,
            first_ms = least(fact.first_ms, excluded.first_ms),
            last_ms = greatest(fact.last_ms, excluded.last_ms),
            source_ip = CASE WHEN fact.last_ms > excluded.last_ms THEN coalesce(fact.source_ip, excluded.source_ip)
                             ELSE coalesce(excluded.source_ip, fact.source_ip) END
"""
# $2 is the first minute that is kept. A minute that the clock of the database has not reached yet is the present one:
# the clock was set back.
_FOLD = f"""
    WITH gone AS (
        DELETE FROM activity_journal WHERE id = ANY($1::bigint[])
        RETURNING least(minute, floor(extract(epoch FROM clock_timestamp()) / 60)::integer) AS at, keys, tools, callers,
                  outcomes, counts, firsts, lasts, sources, hints
    ), cell AS MATERIALIZED (
        -- Added up before any number is looked up. The source of the last call is found without sorting: its time, of
        -- at most five digits, stands before it.
        SELECT at, cell.key, tool, caller, outcome, hint, sum(count)::bigint AS count, min(first) AS first,
               max(last) AS last, count(*) AS cells,
               max(lpad(last::text, 5, '0') || source COLLATE "C") FILTER (WHERE source <> '') AS source
        FROM gone, unnest(keys, tools, callers, outcomes, counts, firsts, lasts, sources, hints)
                       AS cell (key, tool, caller, outcome, count, first, last, source, hint)
        GROUP BY at, cell.key, tool, caller, outcome, hint
    ), named AS (
        SELECT cell.at, cell.key, cell.tool, coalesce(activity_caller.number, 0) AS caller, cell.outcome, cell.hint,
               cell.count, cell.first, cell.last, substr(cell.source, 6)::inet AS source
        FROM cell LEFT JOIN activity_caller ON activity_caller.name = cell.caller
        WHERE cell.at >= $2
    ), found AS (
        SELECT at, activity_key.workspace, activity_key.number AS key,
               CASE WHEN tool = '' THEN 0 ELSE coalesce(activity_tool.number, -1) END AS tool, caller, outcome,
               count, first, last, source
        FROM named JOIN activity_key ON activity_key.key_id = named.key
        LEFT JOIN activity_tool ON activity_tool.id = named.tool
    ), proven AS MATERIALIZED (
        -- Again, as several tools may have no number.
        SELECT at, workspace, key, tool, caller, outcome, sum(count)::bigint AS count, min(first) AS first,
               max(last) AS last,
               (array_agg(source ORDER BY last DESC) FILTER (WHERE source IS NOT NULL))[1] AS source
        FROM found GROUP BY at, workspace, key, tool, caller, outcome
    ), unproven AS MATERIALIZED (
        SELECT at, caller, outcome, hint, sum(count)::bigint AS count, min(first) AS first, max(last) AS last,
               (array_agg(source ORDER BY last DESC) FILTER (WHERE source IS NOT NULL))[1] AS source
        FROM named WHERE key IS NULL GROUP BY at, caller, outcome, hint
    ), add_proven AS (
        INSERT INTO activity_minute AS fact (at, workspace, key, tool, caller, outcome, count, first_ms, last_ms,
                                             source_ip)
        SELECT * FROM proven ORDER BY at, workspace, key, tool, caller, outcome
        ON CONFLICT (at, workspace, key, tool, caller, outcome) DO UPDATE {_ADD}
    ), add_unproven AS (
        INSERT INTO activity_unproven AS fact (at, caller, outcome, hint, count, first_ms, last_ms, source_ip)
        SELECT * FROM unproven ORDER BY at, caller, outcome, hint
        ON CONFLICT (at, caller, outcome, hint) DO UPDATE {_ADD}
    ), stale AS (
        INSERT INTO activity_stale (step, at)
        SELECT DISTINCT step, proven.at / length
        FROM proven, (VALUES (1, 60), (2, 1440)) AS steps (step, length)
        ON CONFLICT (step, at) DO NOTHING
    )
    SELECT (SELECT coalesce(sum(count), 0) FROM cell) AS calls,
           (SELECT coalesce(sum(cells), 0)::bigint FROM cell) AS cells,
           (SELECT coalesce(sum(count), 0) FROM proven) + (SELECT coalesce(sum(count), 0) FROM unproven) AS kept
"""  # noqa: S608 - a constant


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
    """Record the last grants that are in rows of the journal. To do so twice changes nothing.

    Do this before the rows are folded, in a transaction of its own.
    """
    await prefer_indexes(connection)
    await connection.execute(
        f"""
        WITH used AS MATERIALIZED (
            -- The source of the last call with one has the time of that before it, in 15 digits: no need to sort.
            SELECT cell.key, max(minute) AS minute,
                   max(lpad(minute::text, 10, '0') || lpad(last::text, 5, '0') || source COLLATE "C")
                       FILTER (WHERE source <> '') AS source
            {_CELLS} AND cell.outcome = 0 GROUP BY cell.key
        )
        INSERT INTO key_use AS known (key_id, last_minute, source_minute, source_ip)
        SELECT key, minute, left(source, 10)::integer, substr(source, 16)::inet FROM used
        WHERE EXISTS (SELECT FROM key WHERE id = used.key) ORDER BY key
        ON CONFLICT (key_id) DO UPDATE
        SET last_minute = greatest(known.last_minute, excluded.last_minute),
            source_minute = greatest(known.source_minute, excluded.source_minute),
            source_ip = CASE WHEN excluded.source_minute >= coalesce(known.source_minute, 0) THEN excluded.source_ip
                             ELSE known.source_ip END
        WHERE known.last_minute < excluded.last_minute
           OR (excluded.source_minute >= coalesce(known.source_minute, 0)
               AND excluded.source_ip IS DISTINCT FROM known.source_ip)
        """,  # noqa: S608 - a constant
        row_ids,
    )


async def fold(connection: Connection, row_ids: Sequence[int], oldest: int) -> Folded:
    """Move rows of the journal into the facts, whose partitions must be there.

    Args:
        connection: Inside a transaction, with the lock.
        row_ids: The rows.
        oldest: The first minute that is kept. What is before it is dropped.
    """
    await prefer_indexes(connection)
    await connection.execute(_NUMBERS, row_ids)
    row = await connection.fetchrow(_FOLD, row_ids, oldest)
    if row is None:
        raise LookupError("a select of aggregates always has a row")
    return Folded(len(row_ids), row["cells"], int(row["calls"]), int(row["calls"]) - int(row["kept"]))
