"""A database's schema as text. Equal schemas give equal texts, however and on whatever day they were made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg

# The parts of a table are named by the day on which they were made; the functions that make them are in the text.
_TABLES = """
SELECT c.oid, c.relname AS name, coalesce(array_to_string(c.reloptions, ', '), '') AS options
FROM pg_class AS c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm')
      AND NOT c.relispartition
ORDER BY c.relname COLLATE "C"
"""
# What is listed below a table's name. NOT NULL is shown with the columns: only newer servers list it as a constraint.
_OF_A_TABLE = """
SELECT line FROM (
    SELECT 1 AS kind, lpad(attnum::text, 5, '0') AS place,
           'column ' || attname || ' ' || format_type(atttypid, atttypmod)
           || CASE WHEN attnotnull THEN ' not null' ELSE '' END
           || CASE attidentity WHEN 'a' THEN ' generated always as identity' ELSE '' END
           || coalesce(' default ' || pg_get_expr(adbin, adrelid), '') AS line
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped
    UNION ALL
    SELECT 2, conname, 'constraint ' || conname || ' ' || pg_get_constraintdef(oid)
    FROM pg_constraint WHERE conrelid = $1 AND contype <> 'n'
    UNION ALL
    SELECT 3, indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = $1
    UNION ALL
    SELECT 4, tgname, pg_get_triggerdef(oid)
           || CASE tgenabled WHEN 'A' THEN ', always' WHEN 'R' THEN ', replica' ELSE '' END
    FROM pg_trigger WHERE tgrelid = $1 AND NOT tgisinternal
) AS lines
ORDER BY kind, place COLLATE "C"
"""
_FUNCTIONS = """
SELECT pg_get_functiondef(oid) FROM pg_proc WHERE pronamespace = 'public'::regnamespace ORDER BY proname COLLATE "C"
"""


async def schema_text(sql: asyncpg.Connection[Any]) -> str:
    """Return every table with its columns, constraints, indexes and triggers, and every function."""
    blocks = []
    for table in await sql.fetch(_TABLES):
        options = f" with ({table['options']})" if table["options"] else ""
        rows = await sql.fetch(_OF_A_TABLE, table["oid"])
        blocks.append("\n    ".join([f"table {table['name']}{options}", *(row["line"] for row in rows)]))
    blocks += [row[0].strip() for row in await sql.fetch(_FUNCTIONS)]
    return "\n\n".join(blocks) + "\n"
