"""Lists and counts of the keys of a workspace, by one filter: tables `key` and `member`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import asyncpg

from skilder_keys.domain.key_filter import MAX_COUNTED, KeyCount, KeyCounts
from skilder_keys.domain.keys import Key, KeyState
from skilder_keys.domain.token import KeyType
from skilder_keys.storage.key_orders import ORDERS
from skilder_keys.storage.key_rows import KEY_COLUMNS, key_of
from skilder_keys.storage.key_search import search_for

if TYPE_CHECKING:
    from skilder_keys.domain.key_filter import KeyFilter, KeyListing
    from skilder_keys.storage.database import Connection
    from skilder_keys.storage.key_search import KeySearch


MOST_READ, MOST_COUNTED_OF = 10_000, 50_000
"""How many keys are read for a page, and for a count that would take too long; of each value that is looked up. For a
page it is fewer, where it takes longer to look at a key."""
MOST_SORTED = 50_000
"""How many keys with some words and labels are all read for a page. If there are more, keys are read in its order."""
_PATIENCE = "2s"
"""How long an exact count may take."""


class ListedKey(NamedTuple):
    """A key, and its position in the list."""

    key: Key
    position: str


class KeyPage(NamedTuple):
    """The keys of a page, and the position after which the next page begins; None if there is none."""

    keys: list[ListedKey]
    end: str | None


async def list_page(
    connection: Connection, listing: KeyListing, *, workspace_deleted: bool, after: str | None, limit: int
) -> KeyPage:
    """Return the first keys of a list after a position. Call it in a snapshot.

    It may be fewer than `limit`, also none, although more follow: where few keys match, only so many are looked at for
    a page.

    Args:
        connection: The snapshot.
        listing: The filter and the order.
        workspace_deleted: Whether the workspace of the filter was deleted.
        after: The position where the page before ends; None for the first page.
        limit: The most keys.
    """
    search = await search_for(
        connection, listing.filter, workspace_deleted=workspace_deleted, order=listing.order, most=MOST_SORTED
    )
    if search.is_empty:
        return KeyPage([], None)
    order = ORDERS[listing.order]
    if after is not None:
        search.add_position(order, after)
    most = search.parameter(limit + 1)
    # First the ids, in a query that is planned alone: Postgres chooses an index by the whole cost, most of which the
    # other columns have.
    if search.reads_more:
        page = search.page(order, most, max(1, MOST_READ // search.weight))
        last = f"(SELECT jsonb_build_array({order.names})::text FROM last)"  # noqa: S608
    else:
        found = search.select(f"key.id, {order.places}", search.end(order, most))
        page = f"page AS MATERIALIZED (SELECT * FROM ({found}) AS found {order.by(most, places=True)})"  # noqa: S608
        last = "NULL"
    await connection.execute(search.settings)
    rows = await connection.fetch(
        f"""
        WITH {page}
        SELECT {KEY_COLUMNS}, jsonb_build_array({order.names})::text AS position, {last} AS last
        FROM (SELECT) AS once LEFT JOIN page ON true
        LEFT JOIN LATERAL (SELECT * FROM key WHERE key.id = page.id LIMIT 1) AS key ON true
        {order.by(most, places=True)}
        """,  # noqa: S608
        *search.values,
    )
    keys = [ListedKey(key_of(row), row["position"]) for row in rows if row["id"] is not None]
    end = keys[limit - 1].position if len(keys) > limit else rows[0]["last"]
    return KeyPage(keys[:limit], end)


async def count(
    connection: Connection, key_filter: KeyFilter, *, workspace_deleted: bool, exactly: bool = False
) -> KeyCounts:
    """Return how many keys of each type and state match a filter. Call it in a snapshot.

    It stops at MAX_COUNTED. If it takes long, it starts again and looks at some of the keys only.

    Args:
        connection: The snapshot.
        key_filter: The filter.
        workspace_deleted: Whether the workspace of the filter was deleted.
        exactly: Whether it may take as long as any statement.
    """
    search = await search_for(connection, key_filter, workspace_deleted=workspace_deleted)
    if search.is_empty:
        return KeyCounts((), partial=False)
    columns = f"key.type, {search.state} AS state"
    if exactly:
        counts = await _counted(connection, search, search.select(columns, search.end_of_count(MAX_COUNTED)))
    else:
        try:
            async with connection.transaction():  # in the one of the snapshot, so it is a savepoint
                await connection.execute(f"SET LOCAL statement_timeout = '{_PATIENCE}'")
                counts = await _counted(connection, search, search.select(columns, search.end_of_count(MAX_COUNTED)))
        except asyncpg.QueryCanceledError:
            search = await search_for(connection, key_filter, workspace_deleted=workspace_deleted)
            counts = await _counted(connection, search, search.some(columns, MOST_COUNTED_OF))
            return KeyCounts(counts, partial=True)
    return KeyCounts(counts, partial=sum(each.count for each in counts) >= MAX_COUNTED)


async def _counted(connection: Connection, search: KeySearch, keys: str) -> tuple[KeyCount, ...]:
    await connection.execute(search.settings)
    rows = await connection.fetch(
        f"""
        SELECT type, state, count(*) AS count FROM (SELECT * FROM ({keys}) AS found LIMIT {MAX_COUNTED}) AS counted
        GROUP BY type, state
        """,  # noqa: S608
        *search.values,
    )
    return tuple(KeyCount(KeyType(row["type"]), KeyState(row["state"]), row["count"]) for row in rows)
