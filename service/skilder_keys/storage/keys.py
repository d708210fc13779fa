"""Keys: tables `key` and `key_hat`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.domain.ids import HatId, KeyId, RuntimeId, TeamId, UserId, WorkspaceId
from skilder_keys.domain.keys import MAX_NAMED_HATS, Credential, Key, KeyFilter, KeySpec, KeyState, Revocation
from skilder_keys.domain.revision import Revision
from skilder_keys.domain.token import KeyType
from skilder_keys.storage import fence

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from uuid import UUID

    import asyncpg

    from skilder_keys.storage.database import Connection

# The columns of every query whose rows become keys. Constants only: no value is ever put into SQL this way. A key names
# no more hats than the LIMIT says; without it and without statistics, Postgres would expect thousands of them.
_KEY = f"""
    key.id, key.type, key.workspace_id, key.user_id, key.runtime_id, key.description, key.limited_to_hats,
    key.created_at, key.created_by, key.last_used_at, key.revoked_at, key.revoked_by, key.revoke_reason,
    array(SELECT hat_id FROM key_hat WHERE key_hat.key_id = key.id LIMIT {MAX_NAMED_HATS}) AS hat_ids
"""  # noqa: S608


@dataclass(frozen=True, slots=True)
class IssueRequest:
    """What makes a retry of IssueKey recognisable: the caller's name, its request id, and a digest of the arguments."""

    caller: str
    id: str
    digest: bytes


# A UUID version 7 (RFC 9562) of the moment that is the key's `created_at`: milliseconds, 12 bits of the fraction, then
# 62 random bits. By the database's clock, since ids order the lists, and the clocks of processes may differ by days.
_NEW_ID = """
    (SELECT encode(overlay(overlay(uuid_send(gen_random_uuid())
                                   PLACING substring(int8send(microseconds / 1000) FROM 3) FROM 1 FOR 6)
                           PLACING int2send((28672 + microseconds % 1000 * 4096 / 1000)::smallint) FROM 7 FOR 2),
                   'hex')::uuid
     FROM (SELECT (extract(epoch FROM now()) * 1000000)::bigint AS microseconds) AS clock)
"""


async def insert(
    connection: Connection, spec: KeySpec, *, secret_hash: str, created_by: str, request: IssueRequest | None
) -> KeyId | None:
    """Write a new key and return its id; None, and nothing is written, where this request has issued one already.

    Ids sort by the beginning of the transaction that makes them.
    """
    key_id: UUID | None = await connection.fetchval(
        f"""
        INSERT INTO key (id, type, workspace_id, user_id, runtime_id, description, limited_to_hats, secret_hash,
                         created_by, request_caller, request_id, request_digest)
        VALUES ({_NEW_ID}, $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        ON CONFLICT ON CONSTRAINT key_request DO NOTHING
        RETURNING id
        """,  # noqa: S608
        spec.type.value,
        spec.workspace_id,
        spec.user_id,
        spec.runtime_id,
        spec.description,
        bool(spec.hat_ids),
        secret_hash,
        created_by,
        request.caller if request else None,
        request.id if request else None,
        request.digest if request else None,
    )
    if key_id is not None and spec.hat_ids:
        await connection.execute(
            "INSERT INTO key_hat (workspace_id, key_id, hat_id) SELECT $1, $2, unnest($3::text[])",
            spec.workspace_id,
            key_id,
            spec.hat_ids,
        )
    return None if key_id is None else KeyId(key_id)


async def lock_issued(connection: Connection, request: IssueRequest) -> tuple[Key, bytes]:
    """Answers, locked, the key that a request issued, and the digest of the arguments it was issued with."""
    row = await connection.fetchrow(
        f"SELECT {_KEY}, key.request_digest FROM key WHERE request_caller = $1 AND request_id = $2 FOR UPDATE",  # noqa: S608
        request.caller,
        request.id,
    )
    return _key(_present(row)), _present(row)["request_digest"]


async def find(connection: Connection, key_id: KeyId) -> Key | None:
    """Answers a key, or None."""
    row = await connection.fetchrow(f"SELECT {_KEY} FROM key WHERE key.id = $1", key_id)  # noqa: S608
    return None if row is None else _key(row)


@dataclass(frozen=True, slots=True)
class Credentials:
    """What was found of some keys, in one snapshot.

    Attributes:
        revision: The state of the database that it is of.
        server: Names the server that answered, as in `fence.FenceState`.
        credentials: By the keys' ids; unknown ones are not among them.
    """

    revision: Revision
    server: str
    credentials: dict[KeyId, Credential]


async def find_credentials(connection: Connection, key_ids: Iterable[KeyId]) -> Credentials:
    """Return all that decides about the tokens of keys but for the catalog, from one snapshot."""
    # Each key is looked up by itself, whatever Postgres guesses about tables that it has no statistics of. A LIMIT
    # keeps it from joining whole tables; a scalar subquery, unlike EXISTS, from reading all members into a hash table.
    # The cost must stay small too, as past `jit_above_cost` each run compiles for milliseconds: so the epoch is no
    # join, which would multiply it by the rows guessed for `fence`, and the subquery hides the array's length.
    rows = await connection.fetch(
        f"""
        SELECT (SELECT epoch FROM fence) AS epoch, (SELECT tag FROM fence) AS tag,
               (SELECT {fence.SERVER} FROM fence) AS server, found.*
        FROM unnest((SELECT $1::uuid[])) AS wanted (id)
        LEFT JOIN LATERAL (
            SELECT {_KEY}, key.secret_hash, workspace.version AS workspace_version,
                   workspace.deleted_at IS NOT NULL AS workspace_deleted,
                   (SELECT true FROM member
                    WHERE member.workspace_id = key.workspace_id
                      AND member.user_id = key.user_id) IS NOT NULL AS user_is_member,
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


async def list_page(connection: Connection, wanted: KeyFilter, *, before: KeyId | None, limit: int) -> list[Key]:
    """Answers at most `limit` keys, newest first, from below `before`. Call it in a snapshot."""
    # Planned for a workspace that it knows to hold most of the keys, or where it knows of few workspaces and takes
    # reading out of order to be dear, Postgres would walk the keys of all workspaces.
    await connection.execute("SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL random_page_cost = 1")
    conditions = ["key.workspace_id = $1"]
    values: list[object] = [wanted.workspace_id, limit]

    def condition(sql: str, value: object) -> None:
        values.append(value)
        conditions.append(sql.format(f"${len(values)}"))

    if wanted.type is not None:
        condition("key.type = {}", wanted.type.value)
    if wanted.user_id is not None:
        condition("key.user_id = {}", wanted.user_id)
    if wanted.state is not None:
        conditions.append(f"key.revoked_at IS {'' if wanted.state is KeyState.ACTIVE else 'NOT '}NULL")
    if wanted.unused_since is not None:
        condition("coalesce(key.last_used_at, key.created_at) < {}", wanted.unused_since)
    if before is not None:
        condition("key.id < {}", before)
    rows = await connection.fetch(
        f"SELECT {_KEY} FROM key WHERE {' AND '.join(conditions)} ORDER BY key.id DESC LIMIT $2",  # noqa: S608
        *values,
    )
    return [_key(row) for row in rows]


async def replace_secret(connection: Connection, key_id: KeyId, new_hash: str) -> bool:
    """Put the hash of another secret in the place of a key's hash, unless it is revoked, and return whether it was."""
    return bool(
        await connection.fetchval(
            "UPDATE key SET secret_hash = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING true", key_id, new_hash
        )
    )


async def renew_hash(connection: Connection, key_id: KeyId, *, old_hash: str, new_hash: str) -> bool:
    """Put another hash of the same secret in the place of `old_hash`, and return whether that was still there.

    It takes nothing from anybody, and says so to the fence's trigger: for this hash, in this transaction. A revoked key
    keeps its hash: the answer is False.
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


async def revoke(connection: Connection, key_id: KeyId, *, by: str, reason: str) -> Key | None:
    """Revoke a key and return it; None where it was revoked before, or is not there."""
    row = await connection.fetchrow(
        f"""
        UPDATE key SET revoked_at = now(), revoked_by = $2, revoke_reason = $3
        WHERE id = $1 AND revoked_at IS NULL
        RETURNING {_KEY}
        """,  # noqa: S608
        key_id,
        by,
        reason,
    )
    return None if row is None else _key(row)


async def claim_first_uses(
    connection: Connection, secret_hashes: Iterable[tuple[KeyId, str]]
) -> dict[tuple[KeyId, str], bool]:
    """Notes the first use of keys; tells which of them, with the secrets that were verified, are still good.

    A retry of IssueKey may renew the secret of a key that was never used. Both take the row's lock, so exactly one of
    the two comes first: a key that was used is never renewed, and a renewed secret is never used.
    """
    # In order of id, so that two processes that claim the same keys do not deadlock.
    ordered = sorted(secret_hashes)
    rows = await connection.fetch(
        """
        WITH used AS MATERIALIZED (
            SELECT key.id, key.secret_hash
            FROM unnest($1::uuid[], $2::text[]) AS verified (id, secret_hash) JOIN key ON key.id = verified.id
            WHERE key.secret_hash = verified.secret_hash AND key.revoked_at IS NULL
            ORDER BY key.id
            FOR NO KEY UPDATE OF key
        )
        UPDATE key SET last_used_at = coalesce(key.last_used_at, now()) FROM used WHERE key.id = used.id
        RETURNING used.id, used.secret_hash
        """,
        [key_id for key_id, _ in ordered],
        [secret_hash for _, secret_hash in ordered],
    )
    return {(KeyId(row["id"]), row["secret_hash"]): True for row in rows}


async def note_uses(connection: Connection, ages: Mapping[KeyId, float], precision: float) -> dict[KeyId, float | None]:
    """Note how many seconds ago keys were last used, and return how many seconds ago they were by the record.

    Times are those of the database's clock: what is on record is never in its future, and is put right where it is. A
    row is left as it is where another transaction has locked it, so that this never waits, and where its last use is at
    most `precision` seconds before the one noted. In the result, None stands for a key without a use on record; unknown
    keys are left out.

    Call it in a transaction of its own, which it makes wait neither for the disk nor for a standby: a last use that a
    crash loses does no harm, but whoever revokes one of the keys waits for the transaction.
    """
    # Planned while there were few keys, the statements would read all of them for as long as the connection lasts.
    await connection.execute("SET LOCAL synchronous_commit = off; SET LOCAL enable_seqscan = off")
    key_ids = list(ages)
    await connection.execute(
        """
        WITH due AS MATERIALIZED (
            SELECT key.id, used.at
            FROM (SELECT id, now() - make_interval(secs => age) AS at
                  FROM unnest($1::uuid[], $2::double precision[]) AS noted (id, age)) AS used
            JOIN key ON key.id = used.id
            WHERE key.last_used_at IS NULL
               OR key.last_used_at < used.at - make_interval(secs => $3)
               OR key.last_used_at > clock_timestamp()
            FOR NO KEY UPDATE OF key SKIP LOCKED
        )
        UPDATE key SET last_used_at = due.at FROM due WHERE key.id = due.id
        """,
        key_ids,
        [max(0.0, age) for age in ages.values()],
        precision,
    )
    rows = await connection.fetch(
        """
        SELECT id, extract(epoch FROM clock_timestamp() - last_used_at)::double precision AS age
        FROM key WHERE id = ANY($1::uuid[])
        """,
        key_ids,
    )
    return {KeyId(row["id"]): row["age"] for row in rows}


def _credential(row: asyncpg.Record) -> Credential:
    return Credential(
        key=_key(row),
        secret_hash=row["secret_hash"],
        workspace_version=row["workspace_version"],
        workspace_deleted=row["workspace_deleted"],
        user_is_member=row["user_is_member"],
        team_ids=frozenset(map(TeamId, row["team_ids"])),
    )


def _key(row: asyncpg.Record) -> Key:
    revocation = None
    if row["revoked_at"] is not None:
        revocation = Revocation(row["revoked_at"], row["revoked_by"], row["revoke_reason"])
    return Key(
        id=KeyId(row["id"]),
        type=KeyType(row["type"]),
        workspace_id=WorkspaceId(row["workspace_id"]),
        user_id=None if row["user_id"] is None else UserId(row["user_id"]),
        runtime_id=None if row["runtime_id"] is None else RuntimeId(row["runtime_id"]),
        description=row["description"],
        hat_ids=tuple(map(HatId, sorted(row["hat_ids"]))) if row["limited_to_hats"] else None,
        created_at=row["created_at"],
        created_by=row["created_by"],
        last_used_at=row["last_used_at"],
        revocation=revocation,
    )


def _present(row: asyncpg.Record | None) -> asyncpg.Record:
    if row is None:
        raise LookupError("a row that this transaction has just met is gone")
    return row
