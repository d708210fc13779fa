"""Workers of the version before, which serve beside newer ones during an upgrade: they grant nothing by mistake.

They read `secret_hash`, and know neither expiry nor suspension nor networks. The statements are of that version.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.test_key_rows import EXPIRE, LIMIT, OTHER_HASH, RESUME, REVOKE, SUSPEND, hashes
from tests.support.fence import epoch, touched
from tests.support.rows import NO_HASH, insert, insert_key

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too

READ = """
    SELECT key.id, key.type, key.workspace_id, key.user_id, key.runtime_id, key.description, key.limited_to_hats,
           key.created_at, key.created_by_kind, key.created_by_id, key.last_used_at,
           key.revoked_at, key.revoked_by_kind, key.revoked_by_id, key.revoke_reason,
           key.secret_hash, workspace.version AS workspace_version
    FROM key JOIN workspace ON workspace.id = key.workspace_id
"""
INSERT = """
    INSERT INTO key (id, type, workspace_id, user_id, runtime_id, description, limited_to_hats, secret_hash,
                     created_by_kind, created_by_id, request_caller, request_id, request_digest)
    VALUES (gen_random_uuid(), 'workspace', 'acme', NULL, NULL, 'Bot', false, $1, 'user', 'ada', NULL, NULL, NULL)
    ON CONFLICT ON CONSTRAINT key_request DO NOTHING RETURNING id
"""
CLAIM = """
    WITH used AS MATERIALIZED (
        SELECT key.id, key.secret_hash
        FROM unnest($1::uuid[], $2::text[]) AS verified (id, secret_hash) JOIN key ON key.id = verified.id
        WHERE key.secret_hash = verified.secret_hash AND key.revoked_at IS NULL
        ORDER BY key.id
        FOR NO KEY UPDATE OF key
    )
    UPDATE key SET last_used_at = coalesce(key.last_used_at, now()) FROM used WHERE key.id = used.id
    RETURNING used.id, used.secret_hash
"""
RENEW = """
    WITH outdated AS MATERIALIZED (
        SELECT key.id, renewed.new_hash
        FROM unnest($1::uuid[], $2::text[], $3::text[]) AS renewed (id, old_hash, new_hash)
        JOIN key ON key.id = renewed.id
        WHERE key.secret_hash = renewed.old_hash AND key.revoked_at IS NULL
        FOR NO KEY UPDATE OF key SKIP LOCKED
    )
    UPDATE key SET secret_hash = set_config('skilder_keys.renewed_hash', outdated.new_hash, true)
    FROM outdated WHERE key.id = outdated.id
    RETURNING key.id
"""
REPLACE = "UPDATE key SET secret_hash = $2 WHERE id = $1 AND revoked_at IS NULL RETURNING true"


@pytest.fixture
async def key(sql: Sql) -> UUID:
    """A key that every version understands."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    return await insert_key(sql)


@pytest.mark.parametrize("changes", [EXPIRE, SUSPEND, LIMIT])
async def test_an_older_worker_cannot_verify_what_it_does_not_understand(key: UUID, sql: Sql, changes: str) -> None:
    """It hears of the change, drops the key, and reads one without a hash; another key it reads as before."""
    before = await epoch(sql)
    await sql.execute(f"UPDATE key SET {changes}")  # noqa: S608 - constants
    assert await touched(sql, before) == {(key, None, None, None)}
    other = await insert_key(sql)
    assert {row["id"]: row["secret_hash"] for row in await sql.fetch(READ)} == {key: None, other: NO_HASH}
    assert [row["id"] for row in await sql.fetch(CLAIM, [key, other], [NO_HASH] * 2)] == [other]
    assert [row["id"] for row in await sql.fetch(RENEW, [key, other], [NO_HASH] * 2, [OTHER_HASH] * 2)] == [other]


async def test_what_an_older_worker_writes_stays_guarded(key: UUID, sql: Sql) -> None:
    """A retry of IssueKey there renews the secret of a suspended key, which stays suspended."""
    await sql.execute(f"UPDATE key SET {SUSPEND}")  # noqa: S608
    assert await sql.fetchval(REPLACE, key, OTHER_HASH) is True
    assert await hashes(sql) == (None, OTHER_HASH)
    await sql.execute(f"UPDATE key SET {REVOKE} WHERE id = $1 AND revoked_at IS NULL", key)  # noqa: S608
    assert await hashes(sql) == (None, OTHER_HASH)


async def test_an_older_worker_serves_what_it_understands(key: UUID, sql: Sql) -> None:
    """It issues, uses, renews and revokes keys, whose rows are as those of newer workers."""
    assert await sql.fetchval(CLAIM.replace("RETURNING used.id, used.secret_hash", "RETURNING 1"), [key], [NO_HASH])
    before = await epoch(sql)
    assert await sql.fetchval(RENEW, [key], [NO_HASH], [OTHER_HASH]) == key
    assert await epoch(sql) == before, "the same secret"
    assert await sql.fetchval(REPLACE, key, NO_HASH) is True
    assert await touched(sql, before) == {(key, None, None, None)}
    await sql.execute(f"UPDATE key SET {SUSPEND}")  # noqa: S608
    await sql.execute(f"UPDATE key SET {RESUME}")  # noqa: S608
    assert await hashes(sql) == (NO_HASH, None)
    issued = await sql.fetchval(INSERT, OTHER_HASH)
    await sql.execute(f"UPDATE key SET {REVOKE} WHERE id = $1 AND revoked_at IS NULL", issued)  # noqa: S608
    row = await sql.fetchrow("SELECT version, secret_hash, guarded_hash, expires_at FROM key WHERE id = $1", issued)
    assert row is not None
    assert tuple(row) == (2, OTHER_HASH, None, None)
