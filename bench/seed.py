"""Keys by the thousand and by the million, inserted directly into the database as IssueKey would write them."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING
from uuid import UUID

from skilder_keys.domain.hashing import HashParameters, SecretHasher
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.token import KeyType, Token
from tests.support.ids import new_key_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.server import Sql

MAIN, SMALL, OTHERS = "acme", "small", ("other-0", "other-1", "other-2", "other-3")
"""The workspaces of `fill`: one with most of the keys, one with about 150, and some between."""

_SMALL_KEYS = 150


@dataclass(frozen=True)
class MadeKey:
    """A key whose token is known."""

    id: KeyId
    token: str
    secret_hash: str


def make_keys(ids: Sequence[KeyId], key_type: KeyType = KeyType.WORKSPACE) -> list[MadeKey]:
    """Make tokens for keys, and hashes with the parameters of the service."""
    hasher = SecretHasher(HashParameters())
    tokens = [Token.mint(key_type, key_id) for key_id in ids]
    with ThreadPoolExecutor() as threads:
        hashes = list(threads.map(hasher.hash, (token.secret for token in tokens)))
    return [MadeKey(key_id, token.reveal(), hashed) for key_id, token, hashed in zip(ids, tokens, hashes, strict=True)]


def add_keys(sql: Sql, workspace_id: str, number: int, *, analyse: bool = True) -> list[MadeKey]:
    """Add workspace keys that were never used and, by default, let Postgres analyse the table."""
    return _add(sql, workspace_id, KeyType.WORKSPACE, [None] * number, analyse=analyse)


def add_user_keys(sql: Sql, workspace_id: str, users: Sequence[str]) -> list[MadeKey]:
    """Add a user key that was never used for each user, and let Postgres analyse the table."""
    return _add(sql, workspace_id, KeyType.USER, users, analyse=True)


def _add(
    sql: Sql, workspace_id: str, key_type: KeyType, users: Sequence[str | None], *, analyse: bool
) -> list[MadeKey]:
    made = make_keys([new_key_id() for _ in users], key_type)
    columns = (
        "id",
        "type",
        "workspace_id",
        "user_id",
        "description",
        "secret_hash",
        "limited_to_hats",
        "created_by_kind",
        "created_by_id",
    )
    creator = ("caller", "benchmark")
    rows = (
        (key.id, key_type.value, workspace_id, user, f"Benchmark {index}", key.secret_hash, False, *creator)
        for index, (key, user) in enumerate(zip(made, users, strict=True))
    )
    sql.execute("SET session_replication_role = replica")
    sql.copy("key", columns, rows)
    sql.execute("RESET session_replication_role")
    if analyse:
        sql.execute("VACUUM (ANALYZE) key")
    return made


def fill(sql: Sql, total: int, *, callable_: int) -> list[MadeKey]:
    """Add used workspace keys, of all workspaces in turn, as if issued one a millisecond.

    Some random ones have known tokens; the others share a hash of an unknown secret.

    Args:
        sql: The database.
        total: How many keys are added.
        callable_: How many of them are returned, with their tokens.
    """
    began = int(time.time() * 1000) - total
    places = random.sample(range(total), callable_)
    made = make_keys([_id_at(began + place) for place in places])
    nobodys = make_keys([new_key_id()])[0].secret_hash
    sql.execute("CREATE TEMPORARY TABLE made (place integer PRIMARY KEY, id uuid, secret_hash text)")
    rows = ((place, key.id, key.secret_hash) for place, key in zip(places, made, strict=True))
    sql.copy("made", ("place", "id", "secret_hash"), rows)
    sql.execute("ANALYZE made")
    # Triggers would check foreign keys row by row. The workspaces exist, so this is left out.
    sql.execute("SET session_replication_role = replica")
    sql.execute(
        """
        INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats, created_at,
                         created_by_kind, created_by_id, last_used_at)
        SELECT coalesce(made.id, (lpad(to_hex($1::bigint + place), 12, '0') || '7' || left(md5(place::text), 3)
                                  || '8' || right(md5(place::text), 15))::uuid),
               'workspace',
               CASE WHEN place % ($2::integer / $3) = 1 THEN $4
                    WHEN place % 10 < 8 THEN $5
                    ELSE ($6::text[])[1 + place % 4] END,
               'Benchmark ' || place, coalesce(made.secret_hash, $7), false,
               to_timestamp(($1::bigint + place) / 1000.0), 'caller', 'benchmark',
               to_timestamp(($1::bigint + place) / 1000.0)
        FROM generate_series(0, $2::integer - 1) AS place LEFT JOIN made USING (place)
        ORDER BY place
        """,
        began,
        total,
        _SMALL_KEYS,
        SMALL,
        MAIN,
        list(OTHERS),
        nobodys,
    )
    sql.execute("RESET session_replication_role")
    sql.execute("VACUUM (ANALYZE) key")
    sql.execute("CHECKPOINT")
    return made


def _id_at(milliseconds: int) -> KeyId:
    """Return a UUID version 7 (RFC 9562) with a given time."""
    return KeyId(
        UUID(int=milliseconds << 80 | 7 << 76 | random.getrandbits(12) << 64 | 2 << 62 | random.getrandbits(62))
    )
