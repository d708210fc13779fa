"""The terms of a search for keys: the words and labels by which an index finds them. Table `key`."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skilder_keys.domain.key_filter import KeyFilter
    from skilder_keys.storage.database import Connection

TERMS = "key_terms(key.workspace_id, key.description, key.labels)"
"""The terms of a key, as an index has them. Each begins with the workspace."""


async def terms_of(connection: Connection, key_filter: KeyFilter) -> list[str] | None:
    """Return the terms that a key must have by the text and the labels of a filter; None for any.

    It is an empty list if Postgres finds no word in the text, so that no key matches.
    """
    terms: list[str] = []
    if key_filter.text is not None:
        words = await connection.fetchval("SELECT key_terms($1, $2, '{}')", key_filter.workspace_id, key_filter.text)
        if not words:
            return []
        terms += words
    terms += [f"{key_filter.workspace_id} ={label}" for label in key_filter.labels or ()]
    return terms or None


async def have_more(connection: Connection, terms: list[str], number: int) -> bool:
    """Return whether more than a number of keys have all of some terms, after reading that many at most.

    Call it in the transaction of a search, with its settings.
    """
    found: bool = await connection.fetchval(
        f"SELECT count(*) > $2 FROM (SELECT FROM key WHERE {TERMS} @> $1::text[] LIMIT $2::bigint + 1) AS found",  # noqa: S608
        terms,
        number,
    )
    return found
