"""What decides about the tokens of keys: tables `key`, `key_hat`, `member`, `team_member` and `workspace`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.domain.ids import KeyId, TeamId
from skilder_keys.domain.keys import Credential
from skilder_keys.domain.revision import Revision
from skilder_keys.storage import fence
from skilder_keys.storage.keys import OWN_COLUMNS, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

    from skilder_keys.storage.database import Connection


@dataclass(frozen=True, slots=True)
class Credentials:
    """The credentials of some keys, from one snapshot.

    Attributes:
        revision: The revision of the database at that time.
        server: Identifies the server, as in `fence.FenceState`.
        credentials: The credentials by the ids of the keys, without those of unknown keys.
    """

    revision: Revision
    server: str
    credentials: dict[KeyId, Credential]


async def find_credentials(connection: Connection, key_ids: Iterable[KeyId]) -> Credentials:
    """Return everything that decides about the tokens of keys, except the catalog, from one snapshot."""
    # Each key must be looked up by its id, even if Postgres has no statistics. The LIMIT prevents a join of whole
    # tables. The estimated cost must stay small too, because above `jit_above_cost` each run compiles for milliseconds.
    # So the epoch is not a join, which would multiply the cost by the rows that Postgres expects in `fence`, and a
    # subquery hides the length of the array.
    rows = await connection.fetch(
        f"""
        SELECT (SELECT epoch FROM fence) AS epoch, (SELECT tag FROM fence) AS tag,
               (SELECT {fence.SERVER} FROM fence) AS server, found.*
        FROM unnest((SELECT $1::uuid[])) AS wanted (id)
        LEFT JOIN LATERAL (
            SELECT {OWN_COLUMNS}, key.secret_hash, workspace.version AS workspace_version,
                   workspace.deleted_at IS NOT NULL AS workspace_deleted,
                   array(SELECT team_id FROM team_member
                         WHERE team_member.workspace_id = key.workspace_id
                           AND team_member.user_id = key.user_id) AS team_ids
            FROM key
            LEFT JOIN LATERAL (SELECT version, deleted_at FROM workspace WHERE id = key.workspace_id LIMIT 1)
                AS workspace ON true
            WHERE key.id = wanted.id LIMIT 1
        ) AS found ON true
        """,  # noqa: S608
        list(key_ids),
    )
    credentials = {row["id"]: _credential(row) for row in rows if row["id"] is not None}
    return Credentials(Revision(rows[0]["epoch"], rows[0]["tag"]), rows[0]["server"], credentials)


async def renew_hash(connection: Connection, key_id: KeyId, *, old_hash: str, new_hash: str) -> bool:
    """Replace `old_hash` by another hash of the same secret; return whether `old_hash` was still there.

    This changes nobody's access, so it makes the trigger of the fence ignore this hash, in this transaction. A revoked
    key keeps its hash, and the result is False.
    """
    return bool(
        await connection.fetchval(
            """
            WITH renewed AS MATERIALIZED (SELECT set_config('skilder_keys.renewed_hash', $3, true) AS secret_hash)
            UPDATE key SET secret_hash = renewed.secret_hash FROM renewed
            WHERE key.id = $1 AND key.secret_hash = $2 AND revoked_at IS NULL
            RETURNING true
            """,
            key_id,
            old_hash,
            new_hash,
        )
    )


def _credential(row: asyncpg.Record) -> Credential:
    return Credential(
        key=key_of(row),
        secret_hash=row["secret_hash"],
        workspace_version=row["workspace_version"],
        team_ids=frozenset(map(TeamId, row["team_ids"])),
    )
