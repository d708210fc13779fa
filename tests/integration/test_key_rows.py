"""What triggers keep true in the rows of keys: where the hash is, the version, and the end before a rotation."""

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
        ("created_by_kind = created_by_kind, created_by_id = created_by_id", False),
        ("created_by_kind = 'user', created_by_id = 'ada'", True),
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


ADD = "INSERT INTO key_hat (workspace_id, key_id, hat_id) SELECT workspace_id, id, '{}' FROM key WHERE limited_to_hats"


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize(
    ("statements", "counts"),
    [
        (("UPDATE key SET limited_to_hats = true", ADD.format("engineer")), 2),
        (("BEGIN", "UPDATE key SET limited_to_hats = true", ADD.format("engineer"), ADD.format("admin"), "COMMIT"), 1),
        (
            (
                "BEGIN",
                ADD.format("engineer"),
                ADD.format("admin"),
                "UPDATE key_hat SET hat_id = 'a' || hat_id",
                "COMMIT",
            ),
            1,
        ),
        ((ADD.format("engineer"), "UPDATE key_hat SET hat_id = 'admin'", "DELETE FROM key_hat"), 3),
        (("DELETE FROM key_hat", "UPDATE key_hat SET hat_id = 'admin'"), 0),
        ((ADD.format("engineer"), "TRUNCATE key_hat"), 2),
        (("SET session_replication_role = replica", ADD.format("engineer")), 0),
    ],
)
async def test_the_hats_of_a_limit_count_for_their_key(sql: Sql, statements: tuple[str, ...], counts: int) -> None:
    """Once in a transaction. A copy by logical replication has the version from where it was made."""
    if not any("UPDATE key SET" in each for each in statements):
        await sql.execute("UPDATE key SET limited_to_hats = true")
    before = await sql.fetchval("SELECT version FROM key")
    for statement in statements:
        await sql.execute(statement)
    row = await sql.fetchrow("SELECT version, updated_at > created_at AS later FROM key")
    assert row is not None
    assert (row["version"] - before, row["later"]) == (counts, True)


async def test_the_hats_of_a_new_key_do_not_count(key: UUID, sql: Sql) -> None:
    """It begins at version 1 with them; other keys stay as they are."""
    async with sql.transaction():
        await insert_key(sql, limited_to_hats=True)
        await sql.execute(ADD.format("engineer"))
        await sql.execute(ADD.format("admin"))
    assert await sql.fetch("SELECT 1 FROM key WHERE version > 1 OR updated_at IS NOT NULL") == []
    assert await sql.fetchval("SELECT NOT limited_to_hats FROM key WHERE id = $1", key)


ROTATE = """
    expires_at = least(expires_at, now() + interval '1 hour'),
    unrotated_expires_at = coalesce(unrotated_expires_at, expires_at, 'infinity')
"""
ROTATE_AGAIN = ROTATE.replace("1 hour", "1 minute")


@pytest.mark.usefixtures("key")
@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ("expires_at = now() + interval '2 hours'", False),
        ("expires_at = NULL", False),
        (f"{ROTATE_AGAIN}, description = 'Another'", True),
        ("expires_at = expires_at", True),
        ("description = 'Another'", True),
        (REVOKE, True),
        # A rotation of one key says nothing about another change in the same transaction.
        (f"{ROTATE_AGAIN}; UPDATE key SET expires_at = now() + interval '2 hours'", False),  # noqa: S608
        ("unrotated_expires_at = unrotated_expires_at; UPDATE key SET expires_at = now() + interval '3 hours'", False),
    ],
)
async def test_another_expiry_replaces_the_one_before_a_rotation(sql: Sql, changes: str, *, kept: bool) -> None:
    """By it a successor would live as long as the key was to live once. Another rotation keeps it."""
    await sql.execute("UPDATE key SET expires_at = now() + interval '30 days'")
    planned = await sql.fetchval("SELECT expires_at FROM key")
    await sql.execute(f"UPDATE key SET {ROTATE}")  # noqa: S608
    assert await sql.fetchval("SELECT unrotated_expires_at FROM key") == planned
    async with sql.transaction():
        await sql.execute(f"UPDATE key SET {changes}")  # noqa: S608
    assert await sql.fetchval("SELECT unrotated_expires_at FROM key") == (planned if kept else None)


async def test_the_expiry_of_a_key_is_replaced_beside_a_rotated_one(key: UUID, sql: Sql) -> None:
    """In one statement for several keys, each counts for itself."""
    other = await insert_key(sql)
    await sql.execute("UPDATE key SET expires_at = now() + interval '30 days'")
    await sql.execute(f"UPDATE key SET {ROTATE} WHERE id = $1", key)  # noqa: S608
    await sql.execute("UPDATE key SET expires_at = now() + interval '2 days'")
    assert await sql.fetch("SELECT 1 FROM key WHERE unrotated_expires_at IS NOT NULL") == []
    await sql.execute(f"UPDATE key SET {ROTATE} WHERE id = $1", other)  # noqa: S608
    rows = await sql.fetch("SELECT id FROM key WHERE unrotated_expires_at IS NOT NULL")
    assert [row["id"] for row in rows] == [other]
