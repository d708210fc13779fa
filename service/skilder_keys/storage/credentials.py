"""What decides about the tokens of keys: tables `key`, `key_hat`, `member` and `workspace`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.domain.ids import HatId, KeyId, RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.keys import MAX_NAMED_HATS, Credential, KeyFacts
from skilder_keys.domain.networks import sorted_networks
from skilder_keys.domain.revision import Revision
from skilder_keys.domain.token import KeyType
from skilder_keys.storage import fence
from skilder_keys.storage.keys import STORED_HASH
from skilder_keys.storage.plans import prefer_indexes

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


@dataclass(frozen=True, slots=True)
class RenewedHash:
    """Another hash of the same secret.

    Attributes:
        key_id: The key.
        old: The hash that it replaces.
        new: The hash with the current parameters.
    """

    key_id: KeyId
    old: str
    new: str


async def find_credentials(connection: Connection, key_ids: Iterable[KeyId]) -> Credentials:
    """Return what decides about the tokens of keys, except the contents of workspaces, from one snapshot."""
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
            SELECT key.id, key.type, key.workspace_id, key.user_id, key.runtime_id, key.description,
                   CASE WHEN key.limited_to_hats THEN
                       array(SELECT hat_id FROM key_hat WHERE key_hat.key_id = key.id LIMIT {MAX_NAMED_HATS})
                   END AS hat_ids,
                   key.networks, key.expires_at, coalesce(key.family_id, key.id) AS family_id,
                   key.revoked_at IS NOT NULL AS revoked, key.suspended_at IS NOT NULL AS suspended,
                   {STORED_HASH} AS secret_hash, workspace.version AS workspace_version,
                   extract(epoch FROM key.expires_at - clock_timestamp())::double precision AS seconds_left,
                   extract(epoch FROM clock_timestamp() - key.last_used_at)::double precision AS unused_seconds,
                   workspace.revoke_unused_after IS NOT NULL AS revoked_if_unused
            FROM key
            LEFT JOIN LATERAL (
                SELECT version, revoke_unused_after FROM workspace WHERE id = key.workspace_id LIMIT 1
            ) AS workspace ON true
            WHERE key.id = wanted.id LIMIT 1
        ) AS found ON true
        """,  # noqa: S608
        list(key_ids),
    )
    credentials = {row["id"]: _credential(row) for row in rows if row["id"] is not None}
    return Credentials(Revision(rows[0]["epoch"], rows[0]["tag"]), rows[0]["server"], credentials)


async def renew_hashes(connection: Connection, hashes: Iterable[RenewedHash]) -> set[KeyId]:
    """Replace hashes by others of the same secrets; return the keys for which this was done.

    Left out are keys that do not have the old hash any more, revoked keys, which keep theirs, and keys whose row
    another transaction has locked, because this must not wait.

    This changes nobody's access, so the trigger of the fence ignores it: each row sets the one hash that the trigger
    ignores just before that row is updated, and Postgres decides whether the trigger fires just after that.

    Call it inside a transaction.
    """
    await prefer_indexes(connection)
    renewed = list(hashes)
    # A trigger moves the hash of a guarded key into its other column.
    rows = await connection.fetch(
        f"""
        WITH outdated AS MATERIALIZED (
            SELECT found.id, renewed.new_hash
            FROM unnest($1::uuid[], $2::text[], $3::text[]) AS renewed (id, old_hash, new_hash)
            CROSS JOIN LATERAL (
                SELECT key.id FROM key
                WHERE key.id = renewed.id AND {STORED_HASH} = renewed.old_hash AND num_nulls(key.revoked_at) = 1
                LIMIT 1 FOR NO KEY UPDATE OF key SKIP LOCKED
            ) AS found
        )
        UPDATE key SET secret_hash = set_config('skilder_keys.renewed_hash', outdated.new_hash, true)
        FROM outdated WHERE key.id = outdated.id
        RETURNING key.id
        """,  # noqa: S608
        [each.key_id for each in renewed],
        [each.old for each in renewed],
        [each.new for each in renewed],
    )
    return {KeyId(row["id"]) for row in rows}


def _credential(row: asyncpg.Record) -> Credential:
    return Credential(
        key=KeyFacts(
            id=KeyId(row["id"]),
            type=KeyType(row["type"]),
            workspace_id=WorkspaceId(row["workspace_id"]),
            user_id=None if row["user_id"] is None else UserId(row["user_id"]),
            runtime_id=None if row["runtime_id"] is None else RuntimeId(row["runtime_id"]),
            description=row["description"],
            hat_ids=None if row["hat_ids"] is None else frozenset(map(HatId, row["hat_ids"])),
            networks=None if row["networks"] is None else sorted_networks(row["networks"]),
            expires_at=row["expires_at"],
            family_id=KeyId(row["family_id"]),
            revoked=row["revoked"],
            suspended=row["suspended"],
        ),
        secret_hash=row["secret_hash"],
        workspace_version=row["workspace_version"],
        unused_seconds=row["unused_seconds"],
        revoked_if_unused=row["revoked_if_unused"],
        seconds_left=row["seconds_left"],
    )
