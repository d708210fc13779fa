"""What triggers keep true in the rows of keys: where the hash is, and the number of the version."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from tests.support.rows import NO_HASH, insert, insert_key

if TYPE_CHECKING:
    from uuid import UUID

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too

OTHER_HASH = "$argon2id$v=19$m=1024,t=1,p=1$other$other"
LIMIT = "networks = '{10.0.0.0/8}'"
EXPIRE = "expires_at = now() + interval '1 day'"
SUSPEND = "suspended_at = now(), suspended_by_kind = 'user', suspended_by_id = 'ada', suspend_reason = ''"
RESUME = "suspended_at = NULL, suspended_by_kind = NULL, suspended_by_id = NULL, suspend_reason = NULL"
REVOKE = "revoked_at = now(), revoked_by_kind = 'user', revoked_by_id = 'ada', revoke_reason = ''"


@pytest.fixture
async def key(sql: Sql) -> UUID:
    """A key without anything that older workers do not know."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    return await insert_key(sql)


async def hashes(sql: Sql) -> tuple[str | None, str | None]:
    """Return the two columns of the only key."""
    row = await sql.fetchrow("SELECT secret_hash, guarded_hash FROM key")
    assert row is not None
    return row["secret_hash"], row["guarded_hash"]


@pytest.mark.usefixtures("key")
async def test_a_key_with_anything_new_has_its_hash_guarded(sql: Sql) -> None:
    """As long as it has that, and whichever of the two columns a new hash is written into."""
    for changes, expected in (
        (EXPIRE, (None, NO_HASH)),
        (SUSPEND, (None, NO_HASH)),
        ("expires_at = NULL", (None, NO_HASH)),
        (f"secret_hash = '{OTHER_HASH}'", (None, OTHER_HASH)),
        (f"guarded_hash = '{NO_HASH}'", (None, NO_HASH)),
        ("last_used_at = now()", (None, NO_HASH)),
        (LIMIT, (None, NO_HASH)),
        (RESUME, (None, NO_HASH)),
        ("networks = NULL", (NO_HASH, None)),
        (f"guarded_hash = '{OTHER_HASH}', secret_hash = NULL", (OTHER_HASH, None)),
        (f"secret_hash = '{NO_HASH}', {EXPIRE}", (None, NO_HASH)),
        (f"{REVOKE}", (None, NO_HASH)),
    ):
        await sql.execute(f"UPDATE key SET {changes}")  # noqa: S608 - the constants above
        assert await hashes(sql) == expected, changes
    with pytest.raises(asyncpg.RaiseError, match="is revoked, which cannot be undone"):
        await sql.execute(f"UPDATE key SET secret_hash = '{OTHER_HASH}'")  # noqa: S608


async def test_a_new_row_is_guarded_too(key: UUID, sql: Sql) -> None:
    """Also one that is copied by hand, in a session that is a replica's."""
    await sql.execute("SET session_replication_role = replica")
    await sql.execute(
        """
        INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind,
                         created_by_id, expires_at)
        SELECT gen_random_uuid(), type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind,
               created_by_id, now() + interval '1 day'
        FROM key
        """
    )
    await sql.execute("DELETE FROM key WHERE id = $1", key)
    assert await hashes(sql) == (None, NO_HASH)


@pytest.mark.usefixtures("key")
async def test_the_guard_is_a_constraint_as_well(sql: Sql) -> None:
    """Where the trigger is off, a row with its hash in the wrong column is refused."""
    await sql.execute("ALTER TABLE key DISABLE TRIGGER key_guard")
    for changes in (EXPIRE, SUSPEND, LIMIT, "guarded_hash = secret_hash, secret_hash = NULL"):
        with pytest.raises(asyncpg.CheckViolationError, match="key_guard_check"):
            await sql.execute(f"UPDATE key SET {changes}")  # noqa: S608
    with pytest.raises(asyncpg.CheckViolationError, match="key_hash_check"):
        await sql.execute(f"UPDATE key SET guarded_hash = secret_hash, {EXPIRE}")  # noqa: S608


@pytest.mark.usefixtures("key")
async def test_each_change_that_people_see_counts_once(sql: Sql) -> None:
    """Uses and hashes do not count. The version never goes back, and nobody chooses it."""
    version = 1
    for changes, counts in (
        ("last_used_at = now()", False),
        (f"secret_hash = '{OTHER_HASH}'", False),
        ("description = description", False),
        ("version = version", False),
        ("description = 'Another', " + EXPIRE, True),
        ("limited_to_hats = NOT limited_to_hats", True),
        ("expires_at = expires_at + interval '1 day'", True),
        (LIMIT, True),
        ("networks = networks || '::/0'::cidr", True),
        (SUSPEND, True),
        ("suspend_reason = 'odd calls'", True),
        (RESUME, True),
        ("version = 1", True),
        ("version = 1000", True),
        (REVOKE, True),
    ):
        await sql.execute(f"UPDATE key SET {changes}")  # noqa: S608
        version += counts
        row = await sql.fetchrow("SELECT version, updated_at = now() AS now FROM key")
        assert row is not None
        assert (row["version"], bool(row["now"])) == (version, False), changes
    assert await sql.fetchval("SELECT updated_at > created_at FROM key")
