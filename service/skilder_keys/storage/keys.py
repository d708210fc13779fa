"""Keys: tables `key` and `key_hat`. See also `storage.credentials`, `storage.key_lists` and `storage.key_uses`."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.domain.ids import HatId, KeyId
from skilder_keys.storage import principals
from skilder_keys.storage.key_rows import KEY_COLUMNS, key_of, present
from skilder_keys.storage.plans import forget_plans

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from skilder_keys.domain.key_spec import KeySpec
    from skilder_keys.domain.keys import Key
    from skilder_keys.domain.labels import Label
    from skilder_keys.domain.principal import Principal
    from skilder_keys.storage.database import Connection


@dataclass(frozen=True, slots=True)
class IssueRequest:
    """The identity of a call of IssueKey, by which its retries are recognised.

    Attributes:
        caller: The name of the caller.
        id: The request_id.
        digest: The digest of the arguments, 32 bytes.
    """

    caller: str
    id: str
    digest: bytes


STORED_HASH = "coalesce(key.secret_hash, key.guarded_hash)"
"""The hash of the secret. It is in `guarded_hash` if the key has anything that older workers would ignore."""

# A UUID version 7 (RFC 9562) of the time in the key's `created_at`: the milliseconds, 12 bits of their fraction, and 62
# random bits. The database makes it, because lists are in order of id, and the clocks of processes may differ by days.
NEW_ID = """
    (SELECT encode(overlay(overlay(uuid_send(gen_random_uuid())
                                   PLACING substring(int8send(microseconds / 1000) FROM 3) FROM 1 FOR 6)
                           PLACING int2send((28672 + microseconds % 1000 * 4096 / 1000)::smallint) FROM 7 FOR 2),
                   'hex')::uuid
     FROM (SELECT (extract(epoch FROM now()) * 1000000)::bigint AS microseconds) AS clock)
"""


async def transaction_time(connection: Connection) -> datetime:
    """Return the start of the transaction by the database's clock, which is also when a key that it makes was made."""
    moment: datetime = await connection.fetchval("SELECT now()")
    return moment


async def insert(
    connection: Connection,
    spec: KeySpec,
    *,
    secret_hash: str,
    created_by: Principal,
    request: IssueRequest | None,
) -> KeyId | None:
    """Insert a key and return its id. If the request has issued a key already, insert nothing and return None.

    Ids sort by the start of the transaction that makes them. A lifetime runs from there.
    """
    lifetime = spec.lifetime or spec.default_lifetime
    key_id: UUID | None = await connection.fetchval(
        f"""
        INSERT INTO key (id, type, workspace_id, user_id, runtime_id, description, limited_to_hats, secret_hash,
                         created_by_kind, created_by_id, request_caller, request_id, request_digest, expires_at, labels,
                         networks)
        VALUES ({NEW_ID}, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12,
                coalesce($13::timestamptz, now() + make_interval(secs => $14)), $15, $16::text[]::cidr[])
        ON CONFLICT ON CONSTRAINT key_request DO NOTHING
        RETURNING id
        """,  # noqa: S608
        spec.type.value,
        spec.workspace_id,
        spec.user_id,
        spec.runtime_id,
        spec.description,
        spec.hat_ids is not None,
        secret_hash,
        *principals.columns(created_by),
        request.caller if request else None,
        request.id if request else None,
        request.digest if request else None,
        spec.expires_at,
        None if lifetime is None else lifetime.total_seconds(),
        _json(spec.labels),
        spec.networks,
    )
    if key_id is not None and spec.hat_ids:
        await forget_plans(connection)
        await connection.execute(
            "INSERT INTO key_hat (workspace_id, key_id, hat_id) SELECT $1, $2, unnest($3::text[])",
            spec.workspace_id,
            key_id,
            spec.hat_ids,
        )
    return None if key_id is None else KeyId(key_id)


async def lock_issued(connection: Connection, request: IssueRequest) -> tuple[Key, bytes]:
    """Lock the key that a request has issued; return it and the digest of the arguments of that request."""
    row = await connection.fetchrow(
        f"SELECT {KEY_COLUMNS}, key.request_digest FROM key WHERE request_caller = $1 AND request_id = $2 FOR UPDATE",  # noqa: S608
        request.caller,
        request.id,
    )
    return key_of(present(row)), present(row)["request_digest"]


async def find(connection: Connection, key_id: KeyId) -> Key | None:
    """Return a key, or None."""
    row = await connection.fetchrow(f"SELECT {KEY_COLUMNS} FROM key WHERE key.id = $1", key_id)  # noqa: S608
    return None if row is None else key_of(row)


async def replace_secret(connection: Connection, key_id: KeyId, new_hash: str) -> bool:
    """Replace the hash of a key's secret by that of another secret, unless the key is revoked; return whether.

    A trigger moves the hash into the column where it belongs.
    """
    return bool(
        await connection.fetchval(
            "UPDATE key SET secret_hash = $2 WHERE id = $1 AND num_nulls(revoked_at) = 1 RETURNING true",
            key_id,
            new_hash,
        )
    )


async def revoke(connection: Connection, key_id: KeyId, *, by: Principal, reason: str) -> Key | None:
    """Revoke a key and return it. If it was revoked before, or does not exist, return None."""
    row = await connection.fetchrow(
        f"""
        UPDATE key SET revoked_at = now(), revoked_by_kind = $2, revoked_by_id = $3, revoke_reason = $4
        WHERE id = $1 AND num_nulls(revoked_at) = 1
        RETURNING {KEY_COLUMNS}
        """,  # noqa: S608
        key_id,
        *principals.columns(by),
        reason,
    )
    return None if row is None else key_of(row)


async def lock(connection: Connection, key_id: KeyId) -> None:
    """Keep a key from being changed by others until the transaction ends, if there is such a key."""
    await connection.execute("SELECT FROM key WHERE id = $1 FOR NO KEY UPDATE", key_id)


async def update(
    connection: Connection,
    key: Key,
    *,
    description: str,
    expires_at: datetime | None,
    hat_ids: tuple[HatId, ...] | None,
    networks: tuple[str, ...] | None,
    labels: tuple[Label, ...],
) -> None:
    """Change a key that is locked and not revoked: its version counts up, whether or not a value is another one.

    Args:
        connection: Inside the transaction.
        key: The key as it is now.
        description: Its new description.
        expires_at: When it expires; None if it does not. Another time than now also counts for how long its successor
            lives, and not when it was to expire before it was rotated: a trigger sees to that.
        hat_ids: The hats that it may reach; None for every hat.
        networks: The networks from which it may be used; None for any.
        labels: Its new labels.
    """
    await connection.execute(
        """
        UPDATE key
        SET description = $2, expires_at = $3, limited_to_hats = $4, networks = $5::text[]::cidr[], labels = $6,
            version = version + 1
        WHERE id = $1
        """,
        key.id,
        description,
        expires_at,
        hat_ids is not None,
        networks,
        _json(labels),
    )
    before, after = set(key.hat_ids or ()), set(hat_ids or ())
    if before != after:
        await forget_plans(connection)
        await connection.execute(
            "DELETE FROM key_hat WHERE key_id = $1 AND hat_id = ANY($2::text[])", key.id, list(before - after)
        )
        await connection.execute(
            "INSERT INTO key_hat (workspace_id, key_id, hat_id) SELECT $1, $2, unnest($3::text[])",
            key.workspace_id,
            key.id,
            list(after - before),
        )


async def suspend(connection: Connection, key_id: KeyId, *, by: Principal, reason: str) -> Key:
    """Suspend a key that is locked, and neither revoked nor suspended; return it."""
    row = await connection.fetchrow(
        f"""
        UPDATE key SET suspended_at = now(), suspended_by_kind = $2, suspended_by_id = $3, suspend_reason = $4
        WHERE id = $1 RETURNING {KEY_COLUMNS}
        """,  # noqa: S608
        key_id,
        *principals.columns(by),
        reason,
    )
    return key_of(present(row))


async def resume(connection: Connection, key_id: KeyId) -> Key:
    """End the suspension of a key that is locked and not revoked; return it."""
    row = await connection.fetchrow(
        f"""
        UPDATE key
        SET suspended_at = NULL, suspended_by_kind = NULL, suspended_by_id = NULL, suspend_reason = NULL
        WHERE id = $1 RETURNING {KEY_COLUMNS}
        """,  # noqa: S608
        key_id,
    )
    return key_of(present(row))


def _json(labels: tuple[Label, ...]) -> str:
    return json.dumps({label.name: label.value for label in labels})
