"""Lists and counts of the keys of a workspace, by one filter: tables `key` and `member`."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.domain.key_filter import MAX_COUNTED, KeyCount, KeyCounts
from skilder_keys.domain.keys import Key, KeyState
from skilder_keys.domain.token import KeyType
from skilder_keys.storage.key_orders import ORDERS
from skilder_keys.storage.key_search import search_for
from skilder_keys.storage.keys import KEY_COLUMNS, key_of

if TYPE_CHECKING:
    from skilder_keys.domain.key_filter import KeyFilter, KeyListing
    from skilder_keys.storage.database import Connection


class ListedKey(NamedTuple):
    """A key, and its position in the list."""

    key: Key
    position: str


async def list_page(
    connection: Connection, listing: KeyListing, *, workspace_deleted: bool, after: str | None, limit: int
) -> list[ListedKey]:
    """Return the first `limit` keys of a list after a position. Call it in a snapshot.

    Args:
        connection: The snapshot.
        listing: The filter and the order.
        workspace_deleted: Whether the workspace of the filter was deleted.
        after: The position where the page before ends; None for the first page.
        limit: The most keys.
    """
    search = await search_for(connection, listing.filter, workspace_deleted=workspace_deleted, order=listing.order)
    if search.is_empty:
        return []
    order = ORDERS[listing.order]
    if after is not None:
        search.add_position(order, after)
    most = search.parameter(limit)
    # First the ids, in a query that is planned alone: Postgres chooses an index by the whole cost, most of which the
    # other columns have.
    found = search.select(f"key.id, {order.places}", search.end(order, most))
    await connection.execute(search.settings)
    rows = await connection.fetch(
        f"""
        WITH page AS MATERIALIZED (SELECT * FROM ({found}) AS found {order.by(most, places=True)})
        SELECT {KEY_COLUMNS}, jsonb_build_array({order.names})::text AS position
        FROM page
        CROSS JOIN LATERAL (SELECT * FROM key WHERE key.id = page.id LIMIT 1) AS key
        {order.by(most, places=True)}
        """,  # noqa: S608
        *search.values,
    )
    return [ListedKey(key_of(row), row["position"]) for row in rows]


async def count(connection: Connection, key_filter: KeyFilter, *, workspace_deleted: bool) -> KeyCounts:
    """Return how many keys of each type and state match a filter, and stop at MAX_COUNTED. Call it in a snapshot.

    Args:
        connection: The snapshot.
        key_filter: The filter.
        workspace_deleted: Whether the workspace of the filter was deleted.
    """
    search = await search_for(connection, key_filter, workspace_deleted=workspace_deleted)
    if search.is_empty:
        return KeyCounts((), partial=False)
    keys = search.select(f"key.type, {search.state} AS state", search.end_of_count(MAX_COUNTED))
    await connection.execute(search.settings)
    rows = await connection.fetch(
        f"""
        SELECT type, state, count(*) AS count FROM (SELECT * FROM ({keys}) AS found LIMIT {MAX_COUNTED}) AS counted
        GROUP BY type, state
        """,  # noqa: S608
        *search.values,
    )
    counts = tuple(KeyCount(KeyType(row["type"]), KeyState(row["state"]), row["count"]) for row in rows)
    return KeyCounts(counts, partial=sum(each.count for each in counts) >= MAX_COUNTED)
