"""Indexes that are made while workers of the version before go on writing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import migrations
from skilder_keys.storage.migrations import Migration, migrate
from tests.support.fence import until_true
from tests.support.postgres import new_database
from tests.support.rows import NO_HASH, insert, insert_key
from tests.support.sql import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

pytestmark = pytest.mark.stock_too

_ALL = migrations.migrations()
_BEFORE = 23
"""The last migration before the indexes."""
_BUILDING = "SELECT index_relid::regclass::text FROM pg_stat_progress_create_index WHERE datname = current_database()"
_BROKEN = "SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid"


@pytest.fixture
async def many_keys_url(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """The URL of a database without the indexes, and with so many keys that making one takes a while."""
    async with new_database(postgres_url) as url:
        with monkeypatch.context() as patch:
            patch.setattr(migrations, "migrations", lambda: _ALL[:_BEFORE])
            await migrate(url)
        async with connected(url) as sql:
            await insert(sql, "workspace", id="acme", name="Acme", version=1)
            await sql.execute(
                """
                INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind,
                                 created_by_id)
                SELECT gen_random_uuid(), 'workspace', 'acme', 'Slack Support Bot ' || n, $1, false, 'caller', 'console'
                FROM generate_series(1, 20000) AS n
                """,
                NO_HASH,
            )
        yield url


async def building(sql: asyncpg.Connection[Any]) -> str | None:
    """Return the index that is being made."""
    name: str | None = await sql.fetchval(_BUILDING)
    return name


async def test_nobody_waits_for_an_index(many_keys_url: str) -> None:
    """A key is issued, used and revoked while the index of words and labels is made, and is in it afterwards."""
    async with connected(many_keys_url) as worker, connected(many_keys_url) as other:
        # Each of these would wait for the end of a plain CREATE INDEX.
        await worker.execute("SET lock_timeout = '1s'")
        migration = asyncio.create_task(migrate(many_keys_url))
        await until_true(other, f"SELECT EXISTS ({_BUILDING} AND index_relid::regclass::text = 'key_by_terms')")
        key = await insert_key(worker, description="made meanwhile")
        await worker.execute("UPDATE key SET last_used_at = now() WHERE id = $1", key)
        await worker.execute(
            """
            UPDATE key SET revoked_at = now(), revoked_by_kind = 'user', revoked_by_id = 'ada', revoke_reason = ''
            WHERE id = $1
            """,
            key,
        )
        assert await building(other) == "key_by_terms"
        assert [each.number for each in await migration] == [each.number for each in _ALL[_BEFORE:]]
        assert await worker.fetch(_BROKEN) == []
        await worker.execute("SET enable_seqscan = off")
        found = "SELECT id FROM key WHERE key_terms(workspace_id, description, labels) @> '{acme meanwhile}'"
        assert await worker.fetchval(found) == key


async def test_an_index_that_was_not_finished_is_made_anew(many_keys_url: str) -> None:
    """Those before it stay. Until then the migration is not done."""
    async with connected(many_keys_url) as sql:
        migration = asyncio.create_task(migrate(many_keys_url))
        await until_true(sql, f"SELECT EXISTS ({_BUILDING} AND index_relid::regclass::text = 'key_by_terms')")
        await sql.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_progress_create_index")
        with pytest.raises(UnavailableError):
            await migration
        assert [row[0] for row in await sql.fetch(_BROKEN)] == ["key_by_terms"]
        kept = await sql.fetchval("SELECT 'key_by_hint'::regclass::oid")
        assert await sql.fetchval("SELECT max(number) FROM schema_migration") == _BEFORE
        await migrate(many_keys_url)
        assert await sql.fetch(_BROKEN) == []
        assert await sql.fetchval("SELECT 'key_by_hint'::regclass::oid") == kept
        assert await sql.fetchval("SELECT max(number) FROM schema_migration") == len(_ALL)


async def test_another_process_waits_for_the_indexes(many_keys_url: str) -> None:
    """Without a snapshot, which would make the index wait for that process. It may run some of the later ones."""
    async with connected(many_keys_url) as sql:
        first = asyncio.create_task(migrate(many_keys_url))
        await until_true(sql, f"SELECT EXISTS ({_BUILDING})")
        second = asyncio.create_task(migrate(many_keys_url))
        ran = [*await first, *await second]
        assert sorted(each.number for each in ran) == [each.number for each in _ALL[_BEFORE:]]


async def test_a_concurrent_migration_makes_indexes_only(many_keys_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything else would be half done if it failed."""
    bad = Migration(_BEFORE + 1, "bad", "-- Comment.\nUPDATE key SET description = ''", concurrent=True)
    monkeypatch.setattr(migrations, "migrations", lambda: (*_ALL[:_BEFORE], bad))
    with pytest.raises(ValueError, match="makes indexes only"):
        await migrate(many_keys_url)
