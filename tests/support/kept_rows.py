"""The rows that a database keeps from one test to the next, so that nobody has to write them again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import asyncpg

# Tables of the catalog: a service counts each change of them as a new version of its workspace.
_OF_A_CATALOG = """
SELECT DISTINCT tgrelid::regclass::text FROM pg_trigger JOIN pg_proc ON pg_proc.oid = tgfoid
WHERE proname IN ('note_parts', 'note_change') AND tgtype & 16 = 16 AND tgrelid <> 'key'::regclass
"""
# Numbers that identity columns give next, of tables other than these.
_SEQUENCES = """
SELECT pg_get_serial_sequence(attrelid::regclass::text, attname) FROM pg_attribute
JOIN pg_class ON pg_class.oid = attrelid
WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> ALL($1::text[])
  AND attidentity <> '' AND NOT attisdropped
"""


def is_counted(name: str) -> bool:
    """Return whether a table or sequence has what a running service counts, and writes by itself at any time."""
    return name.removeprefix("public.").startswith(("activity_", "key_use"))


Rows = dict[str, frozenset[str]]
"""The rows of each table as texts; of each sequence, its state."""


@dataclass(frozen=True, slots=True)
class KeptRows:
    """What a database had at one moment, apart from some tables."""

    rows: Rows
    sequences: tuple[str, ...]
    of_a_catalog: frozenset[str]

    @classmethod
    async def of(cls, sql: asyncpg.Connection[Any], tables: Sequence[str], apart_from: Collection[str]) -> Self:
        """Return the rows of some tables as they are now."""
        sequences = tuple(row[0] for row in await sql.fetch(_SEQUENCES, list(apart_from)))
        of_a_catalog = frozenset(row[0] for row in await sql.fetch(_OF_A_CATALOG))
        return cls(await _rows(sql, tables, sequences), sequences, of_a_catalog)

    async def restore(self, sql: asyncpg.Connection[Any], tables: Sequence[str]) -> bool:
        """Remove what was added since and write again what was changed; return whether all is as it was.

        It is not where the catalog was changed: to change it back would be another change. What the service counts is
        removed, and may come again at once.

        Args:
            sql: A session, in a transaction, as a replica's: rows that stay may refer to rows that are removed and
                written again. Triggers that forbid removing rows must be turned off.
            tables: The tables, those that refer to others first.
        """
        now = await _rows(sql, tables, self.sequences)
        changed = {name for name in now if now[name] != self.rows[name]}
        if any(self.rows[name] - now[name] for name in changed & self.of_a_catalog):
            return False
        for name in tables:
            if name in changed:
                await sql.execute(f"DELETE FROM {name} AS t WHERE t::text <> ALL($1)", list(self.rows[name]))  # noqa: S608 - a table's own name
        for name in reversed(tables):
            if name in changed and (gone := self.rows[name] - now[name]):
                await sql.execute(
                    f"INSERT INTO {name} OVERRIDING SYSTEM VALUE SELECT (unnest($1::text[])::{name}).*",
                    list(gone),
                )
        for name in changed.intersection(self.sequences):
            (state,) = self.rows[name]
            last, _, called = state.partition(" ")
            await sql.execute("SELECT setval($1::text::regclass, $2, $3)", name, int(last), called == "t")
        return not changed or _compared(await _rows(sql, tables, self.sequences)) == _compared(self.rows)


def _compared(rows: Rows) -> Rows:
    return {name: found for name, found in rows.items() if not is_counted(name)}


async def _rows(sql: asyncpg.Connection[Any], tables: Sequence[str], sequences: Sequence[str]) -> Rows:
    selects = [f"SELECT '{name}' AS name, t::text AS text FROM {name} AS t" for name in tables]  # noqa: S608 - its own names
    selects += [f"SELECT '{name}', concat_ws(' ', last_value, is_called) FROM {name}" for name in sequences]  # noqa: S608 - its own names
    found: dict[str, set[str]] = {name: set() for name in (*tables, *sequences)}
    for row in await sql.fetch(" UNION ALL ".join(selects)):
        found[row["name"]].add(row["text"])
    return {name: frozenset(rows) for name, rows in found.items()}
