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
# A tool that no key was granted, and that no workspace has, is not recorded: anybody with a key can make names up.
_NUMBERS = tuple(
    each.format(cells=_CELLS)
    for each in (
        """
    WITH key_ids AS MATERIALIZED (SELECT DISTINCT cell.key {cells})
    INSERT INTO activity_workspace (id)
    SELECT DISTINCT key.workspace_id FROM key_ids JOIN key ON key.id = key_ids.key
    WHERE NOT EXISTS (SELECT FROM activity_workspace AS known WHERE known.id = key.workspace_id)
    ORDER BY 1
    """,
        """
    WITH key_ids AS MATERIALIZED (SELECT DISTINCT cell.key {cells})
    INSERT INTO activity_key (key_id, workspace)
    SELECT key.id, activity_workspace.number
    FROM key_ids JOIN key ON key.id = key_ids.key JOIN activity_workspace ON activity_workspace.id = key.workspace_id
    WHERE NOT EXISTS (SELECT FROM activity_key AS known WHERE known.key_id = key.id)
    ORDER BY 1
    """,
        """
    WITH used AS MATERIALIZED (
        SELECT cell.tool, bool_or(cell.outcome = 0) AS is_granted, array_agg(DISTINCT cell.key) AS keys
        {cells} AND cell.tool <> '' GROUP BY cell.tool
    )
    INSERT INTO activity_tool (id)
    SELECT tool FROM used
    WHERE NOT EXISTS (SELECT FROM activity_tool AS known WHERE known.id = used.tool)
      AND (is_granted OR EXISTS (
          SELECT FROM unnest(used.keys) AS asking (key_id) JOIN activity_key USING (key_id)
          JOIN activity_workspace ON activity_workspace.number = activity_key.workspace
          JOIN tool ON tool.workspace_id = activity_workspace.id AND tool.id = used.tool
      ))
    ORDER BY 1
    """,
        """
    WITH names AS MATERIALIZED (SELECT DISTINCT cell.caller {cells})
    INSERT INTO activity_caller (name)
    SELECT caller FROM names WHERE NOT EXISTS (SELECT FROM activity_caller AS known WHERE known.name = names.caller)
    ORDER BY 1
    """,
    )
)
# $2 is the first minute that is kept. A minute that the clock of the database has not reached yet is the present one:
# the clock was set back.
_FOLD = """
    WITH gone AS (
        DELETE FROM activity_journal WHERE id = ANY($1::bigint[])
        RETURNING least(minute, floor(extract(epoch FROM clock_timestamp()) / 60)::integer) AS at, keys, tools, callers,
                  outcomes, counts, firsts, lasts, sources, hints
    ), cell AS MATERIALIZED (
        SELECT at, cell.key, tool, coalesce(activity_caller.number, 0) AS caller, outcome, count, first, last,
               nullif(source, '')::inet AS source, hint
        FROM gone, unnest(keys, tools, callers, outcomes, counts, firsts, lasts, sources, hints)
                       AS cell (key, tool, caller, outcome, count, first, last, source, hint)
        LEFT JOIN activity_caller ON activity_caller.name = cell.caller
    ), proven AS (
        SELECT at, activity_key.workspace, activity_key.number AS key,
               CASE WHEN tool = '' THEN 0 ELSE coalesce(activity_tool.number, -1) END AS tool, caller, outcome,
               sum(count) AS count, min(first) AS first, max(last) AS last,
               (array_agg(source ORDER BY last DESC) FILTER (WHERE source IS NOT NULL))[1] AS source
        FROM cell JOIN activity_key ON activity_key.key_id = cell.key
        LEFT JOIN activity_tool ON activity_tool.id = cell.tool
        WHERE at >= $2
        GROUP BY 1, 2, 3, 4, 5, 6
    ), unproven AS (
        SELECT at, caller, outcome, hint, sum(count) AS count, min(first) AS first, max(last) AS last,
               (array_agg(source ORDER BY last DESC) FILTER (WHERE source IS NOT NULL))[1] AS source
        FROM cell WHERE key IS NULL AND at >= $2 GROUP BY 1, 2, 3, 4
    ), add_proven AS (
        INSERT INTO activity_minute AS fact (at, workspace, key, tool, caller, outcome, count, first_ms, last_ms,
                                             source_ip)
        SELECT * FROM proven ORDER BY at, workspace, key, tool, caller, outcome
        ON CONFLICT (at, workspace, key, tool, caller, outcome) DO UPDATE
        SET count = fact.count + excluded.count,
            first_ms = least(fact.first_ms, excluded.first_ms),
            last_ms = greatest(fact.last_ms, excluded.last_ms),
            source_ip = CASE WHEN fact.last_ms > excluded.last_ms THEN coalesce(fact.source_ip, excluded.source_ip)
                             ELSE coalesce(excluded.source_ip, fact.source_ip) END
    ), add_unproven AS (
        INSERT INTO activity_unproven AS fact (at, caller, outcome, hint, count, first_ms, last_ms, source_ip)
        SELECT * FROM unproven ORDER BY at, caller, outcome, hint
        ON CONFLICT (at, caller, outcome, hint) DO UPDATE
        SET count = fact.count + excluded.count,
            first_ms = least(fact.first_ms, excluded.first_ms),
            last_ms = greatest(fact.last_ms, excluded.last_ms),
            source_ip = CASE WHEN fact.last_ms > excluded.last_ms THEN coalesce(fact.source_ip, excluded.source_ip)
                             ELSE coalesce(excluded.source_ip, fact.source_ip) END
    ), stale AS (
        INSERT INTO activity_stale (step, at)
        SELECT DISTINCT step, proven.at / length
        FROM proven, (VALUES (1, 60), (2, 1440)) AS steps (step, length)
        ON CONFLICT (step, at) DO NOTHING
    )
    SELECT (SELECT coalesce(sum(count), 0) FROM cell) AS calls, (SELECT count(*) FROM cell) AS cells,
           (SELECT coalesce(sum(count), 0) FROM proven) + (SELECT coalesce(sum(count), 0) FROM unproven) AS kept
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
    """Record the last grants that are in rows of the journal. To do so twice changes nothing.

    Do this before the rows are folded, in a transaction of its own.
    """
    await prefer_indexes(connection)
    await connection.execute(
        f"""
        WITH used AS MATERIALIZED (
            SELECT cell.key, max(minute) AS minute, max(minute) FILTER (WHERE source <> '') AS source_minute,
                   (array_agg(source ORDER BY minute DESC, last DESC) FILTER (WHERE source <> ''))[1]::inet AS source
            {_CELLS} AND cell.outcome = 0 GROUP BY cell.key
        )
        INSERT INTO key_use AS known (key_id, last_minute, source_minute, source_ip)
        SELECT used.* FROM used WHERE EXISTS (SELECT FROM key WHERE id = used.key) ORDER BY key
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
    for statement in _NUMBERS:
        await connection.execute(statement, row_ids)
    row = await connection.fetchrow(_FOLD, row_ids, oldest)
    if row is None:
        raise LookupError("a select of aggregates always has a row")
    return Folded(len(row_ids), row["cells"], int(row["calls"]), int(row["calls"]) - int(row["kept"]))
