"""The schema: made by numbered migrations, each run once, and exactly what schema.txt says."""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage import migrations
from skilder_keys.storage.migrations import Migration, SchemaOutdatedError, migrate, require_schema, schema_version
from tests.support.audit import add_event, as_owner, findings, record_nothing_by_hand
from tests.support.fence import until_true
from tests.support.ids import new_key_id
from tests.support.postgres import database_url, new_database
from tests.support.rows import NO_HASH, insert, insert_key
from tests.support.schema import schema_text
from tests.support.service import serving
from tests.support.sql import connected
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.stock_too


SCHEMA_FILE = Path(__file__).with_name("schema.txt")
UPDATE_VARIABLE = "UPDATE_SCHEMA"


@pytest.fixture
async def empty_url(postgres_url: str) -> AsyncIterator[str]:
    """The URL of a database without any migration."""
    async with new_database(postgres_url) as url:
        yield url


def test_migrations_are_numbered_without_gaps() -> None:
    """From 0001, four digits and a name. An SQL file with another name is an error."""
    found = sorted(
        file.name for file in files("skilder_keys.storage.migrations").iterdir() if not file.name.startswith("__")
    )
    expected = [
        f"{each.number:04}_{each.name}{'.concurrent' if each.concurrent else ''}.sql"
        for each in migrations.migrations()
    ]
    assert found == expected
    assert [each.number for each in migrations.migrations()] == list(range(1, len(found) + 1))


async def test_each_migration_runs_once(empty_url: str) -> None:
    """The first call runs all of them in order, the second finds nothing to do."""
    assert await migrate(empty_url) == migrations.migrations()
    assert await migrate(empty_url) == ()
    async with connected(empty_url) as sql:
        done = await sql.fetch("SELECT number, name FROM schema_migration ORDER BY number")
        assert [tuple(row) for row in done] == [(each.number, each.name) for each in migrations.migrations()]
        assert await schema_version(sql) == len(migrations.migrations())


async def test_tables_with_many_rows_are_analysed(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small tables are not: without statistics Postgres reads them by index."""
    earlier = tuple(each for each in migrations.migrations() if each.name != "statistics")
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "migrations", lambda: earlier)
        await migrate(empty_url)
    async with connected(empty_url) as sql:
        await record_nothing_by_hand(sql)
        await sql.execute(
            "INSERT INTO workspace (id, name, version) SELECT 'w' || n, 'W', 1 FROM generate_series(1, 5000) AS n"
        )
        await sql.execute(files("skilder_keys.storage.migrations").joinpath("0007_statistics.sql").read_text("utf-8"))
        analysed = await sql.fetch(
            "SELECT DISTINCT starelid::regclass::text AS name FROM pg_statistic WHERE starelid >= 16384"
        )
        assert [row["name"] for row in analysed] == ["workspace"]


async def migrate_to(url: str, number: int, patch: pytest.MonkeyPatch) -> None:
    """Run the migrations up to a number."""
    earlier = tuple(each for each in migrations.migrations() if each.number <= number)
    with patch.context() as patched:
        patched.setattr(migrations, "migrations", lambda: earlier)
        await migrate(url)


async def test_hats_and_tools_keep_their_meaning(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A hat without a team goes on to serve the whole workspace, another one its teams; a tool stays on or off.

    A workspace in which something had to be written gets a new version, through the fence; others keep theirs.
    """
    await migrate_to(empty_url, 8, monkeypatch)
    async with connected(empty_url) as sql:
        await sql.execute(
            """
            INSERT INTO workspace (id, name, version) SELECT id, id, 7 FROM unnest('{acme,globex,off}'::text[]) AS id;
            INSERT INTO team (workspace_id, id, name) SELECT id, 'team', 'Team' FROM workspace;
            INSERT INTO hat (workspace_id, id, name, description, instructions)
            SELECT workspace.id, hat, hat, 'd', 'i' FROM workspace, unnest('{all,of-team}'::text[]) AS hat
            WHERE workspace.id = 'acme' OR hat = 'of-team';
            INSERT INTO hat_team (workspace_id, hat_id, team_id) SELECT workspace_id, 'of-team', id FROM team;
            INSERT INTO tool (workspace_id, id, name, mcp_server, active)
            SELECT workspace.id, tool, tool, 'server', tool = 'on' FROM workspace, unnest('{on,off}'::text[]) AS tool
            WHERE workspace.id = 'off' OR tool = 'on';
            UPDATE workspace SET version = 7
            """
        )
        epoch = await sql.fetchval("SELECT epoch FROM fence")
        await migrate(empty_url)
        hats = await sql.fetch("SELECT workspace_id, id, audience FROM hat ORDER BY workspace_id, id")
        assert [tuple(row) for row in hats] == [
            ("acme", "all", "workspace"),
            ("acme", "of-team", "teams"),
            ("globex", "of-team", "teams"),
            ("off", "of-team", "teams"),
        ]
        links = await sql.fetch("SELECT workspace_id, hat_id, team_id, audience FROM hat_team ORDER BY workspace_id")
        assert [tuple(row) for row in links] == [
            (each, "of-team", "team", "teams") for each in ("acme", "globex", "off")
        ]
        tools = await sql.fetch("SELECT workspace_id, id, disabled FROM tool ORDER BY workspace_id, id")
        assert [tuple(row) for row in tools] == [
            ("acme", "on", False),
            ("globex", "on", False),
            ("off", "off", True),
            ("off", "on", False),
        ]
        assert dict(await sql.fetch("SELECT id, version FROM workspace")) == {"acme": 8, "globex": 7, "off": 8}
        changed = await sql.fetch("SELECT workspace_id FROM change WHERE epoch > $1", epoch)
        assert {row["workspace_id"] for row in changed} >= {"acme", "off"}


async def test_changes_and_readers_are_kept(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Older workers go on from where they are, and a change of theirs is followed by one that says what it touches."""
    await migrate_to(empty_url, 10, monkeypatch)
    async with connected(empty_url) as sql:
        await insert(sql, "workspace", id="acme", name="Acme", version=1)
        await insert(sql, "member", workspace_id="acme", user_id="ada", role="admin")
        key = await insert_key(sql)
        await sql.execute("UPDATE key SET description = 'Another'")
        await insert(sql, "reader", id=new_key_id(), epoch=1, lease_seconds=2.0)
        older = "SELECT epoch, tag, previous_tag, key_id, workspace_id FROM change ORDER BY epoch"
        before, fence_before, readers = [
            await sql.fetch(statement) for statement in (older, "SELECT * FROM fence", "SELECT * FROM reader")
        ]
        assert [row["workspace_id"] for row in before] == ["acme", None]
        await migrate(empty_url)
        assert await sql.fetch(older) == before
        assert await sql.fetch("SELECT * FROM fence") == fence_before
        assert await sql.fetch("SELECT * FROM reader") == readers
        rows = await sql.fetch("SELECT sequence, next_tag, part, key_id FROM change ORDER BY epoch")
        assert [tuple(row) for row in rows] == [(1, row["tag"], None, row["key_id"]) for row in before]
        assert rows[-1]["key_id"] == key
        await sql.execute("DELETE FROM member")
        added = await sql.fetchrow("SELECT * FROM change ORDER BY epoch DESC LIMIT 1")
        assert added is not None
        assert (added["epoch"], added["previous_tag"]) == (before[-1]["epoch"] + 1, before[-1]["tag"])
        assert (added["part"], added["part_id"]) == ("member", "ada")


async def test_a_change_by_hand_does_not_stop_a_migration(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has locked a part, waits for its workspace, which the migration has locked, and is made all the same."""
    await migrate_to(empty_url, 14, monkeypatch)
    async with connected(empty_url) as sql, connected(empty_url) as other:
        await insert(sql, "workspace", id="acme", name="Acme", version=1)
        await insert(sql, "member", workspace_id="acme", user_id="ada", role="admin")
        async with sql.transaction():
            await sql.execute("LOCK TABLE tool, member IN ROW EXCLUSIVE MODE")
            migration = asyncio.create_task(migrate(empty_url))
            await until_true(other, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
            await sql.execute("DELETE FROM member")
        assert [each.number for each in await migration] == [each.number for each in migrations.migrations()[14:]]


async def test_an_older_version_reads_no_catalog(sql: asyncpg.Connection[Any]) -> None:
    """It would take a hat without a team for one of everybody. Its query for tools fails, and so do its changes."""
    older = {
        "SELECT tool.id, tool.active FROM tool": asyncpg.UndefinedColumnError,
        "INSERT INTO tool (workspace_id, id, name, mcp_server, active) VALUES ('a', 't', 't', 's', true)": (
            asyncpg.UndefinedColumnError
        ),
        "INSERT INTO hat (workspace_id, id, name, description, instructions) VALUES ('a', 'h', 'H', '', '')": (
            asyncpg.NotNullViolationError
        ),
    }
    for statement, error in older.items():
        with pytest.raises(error):
            await sql.execute(statement)


async def test_who_issued_and_revoked_keys_is_carried_over(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """`caller:NAME` was a caller, everything else a user; nothing else about the keys changes, and their rules hold."""
    await migrate_to(empty_url, 9, monkeypatch)
    people = {
        "caller:console": ("caller", "console"),
        "caller:a:b": ("caller", "a:b"),
        "ada": ("user", "ada"),
        "Caller:ada": ("user", "Caller:ada"),
        "x caller:y": ("user", "x caller:y"),
        "": ("user", ""),
    }
    async with connected(empty_url) as sql:
        await insert(sql, "workspace", id="acme", name="Acme", version=1)
        for created_by in people:
            for revoked_by in (None, *people):
                await insert(
                    sql,
                    "key",
                    id=new_key_id(),
                    type="workspace",
                    workspace_id="acme",
                    description=f"{created_by} / {revoked_by}",
                    secret_hash=NO_HASH,
                    limited_to_hats=False,
                    created_by=created_by,
                    revoked_at=None if revoked_by is None else datetime(2026, 1, 1, tzinfo=UTC),
                    revoked_by=revoked_by,
                    revoke_reason=None if revoked_by is None else "rotated",
                )
        same = "SELECT to_jsonb(key) - '{created_by,revoked_by}'::text[] - '{%s}'::text[] FROM key ORDER BY id"
        new = "created_by_kind,created_by_id,revoked_by_kind,revoked_by_id"
        before = await sql.fetch(same % new)
        await migrate_to(empty_url, 10, monkeypatch)
        assert await sql.fetch(same % new) == before
        await migrate(empty_url)
        rows = await sql.fetch(f"SELECT description, {new} FROM key")  # noqa: S608 - constants
        assert len(rows) == len(people) * (len(people) + 1)
        for description, *found in rows:
            created_by, _, revoked_by = description.partition(" / ")
            revoker = (None, None) if revoked_by == "None" else people[revoked_by]
            assert tuple(found) == (*people[created_by], *revoker), description
        with pytest.raises(asyncpg.RaiseError, match="is revoked, which cannot be undone"):
            await sql.execute("UPDATE key SET revoked_by_kind = 'user' WHERE revoked_by_kind = 'caller'")


async def test_no_key_is_written_anew(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their rows stay where they are, so the time of the migration hardly depends on them, and mean the same."""
    await migrate_to(empty_url, 15, monkeypatch)
    async with connected(empty_url) as sql:
        await insert(sql, "workspace", id="acme", name="Acme", version=1)
        revocation = {"revoked_by_kind": "user", "revoked_by_id": "ada", "revoke_reason": "rotated"}
        await insert_key(sql, revoked_at=datetime(2026, 1, 1, tzinfo=UTC), **revocation)
        await insert_key(sql)
        where = "SELECT ctid, xmin, pg_relation_filenode('key') FROM key ORDER BY id"
        before, epoch = await sql.fetch(where), await sql.fetchval("SELECT epoch FROM fence")
        await migrate(empty_url)
        assert await sql.fetch(where) == before
        assert await sql.fetchval("SELECT epoch FROM fence") == epoch
        new = "secret_hash, guarded_hash, expires_at, suspended_at, family_id, predecessor_id, version, updated_at"
        rows = await sql.fetch(f"SELECT {new} FROM key")  # noqa: S608 - constants
        assert [tuple(row) for row in rows] == [(NO_HASH, None, None, None, None, None, 1, None)] * 2
        assert await sql.fetchval("SELECT count(*) FROM pg_constraint WHERE NOT convalidated") == 0


async def test_whoever_holds_keys_for_a_moment_does_not_stop_a_migration(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it waits for them, others that read keys go on: it gives its place back again and again."""
    await migrate_to(empty_url, 15, monkeypatch)
    async with connected(empty_url) as sql, connected(empty_url) as other:
        await insert(sql, "workspace", id="acme", name="Acme", version=1)
        await insert_key(sql)
        async with sql.transaction():
            await sql.execute("SELECT FROM key")
            migration = asyncio.create_task(migrate(empty_url))
            await until_true(other, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
            await other.execute("SELECT FROM key")
            assert not migration.done()
        assert [each.number for each in await migration] == [each.number for each in migrations.migrations()[15:]]


async def test_events_from_before_the_chain_stay_and_are_anchored(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None is written anew. An event of the chain has their count and a hash, so a change of one of them is found."""
    await migrate_to(empty_url, 30, monkeypatch)
    async with connected(empty_url) as sql:
        for workspace_id in ("acme", "empty", "globex"):
            await insert(sql, "workspace", id=workspace_id, name="W", version=1)
        for number in range(4):
            for workspace_id in ("acme", "globex"):
                details = f'{{"version": {number}, "changes": {{"hat": {{"added": ["h\\u00fct\\n"]}}}}}}'
                await add_event(sql, workspace_id, details=details, actor="ada" if number % 2 else None)
        revocation = {"revoked_by_kind": "user", "revoked_by_id": "ada", "revoke_reason": "rotated"}
        key = await insert_key(sql, revoked_at=datetime(2026, 1, 1, tzinfo=UTC), **revocation)
        await add_event(sql, action="key.issued", key_id=key, actor="ada", details='{"user_id": null}')
        where = "SELECT ctid, xmin, pg_relation_filenode('audit_event') FROM audit_event WHERE id <= 9 ORDER BY id"
        before = await sql.fetch(where)
        await migrate(empty_url)
        assert await sql.fetch(where) == before
        rows = await sql.fetch(
            "SELECT workspace_id, number, details->'events' FROM audit_event WHERE id > 9 ORDER BY 1"
        )
        assert [tuple(row) for row in rows] == [("acme", 1, "5"), ("globex", 1, "4")]
        await add_event(sql, "empty")
        assert await findings(sql) == []
        assert await sql.fetch("SELECT purged_id FROM purge_keys('1 day', 9)") == [(key,)]
        assert await sql.fetchval("SELECT details FROM audit_event WHERE key_id = $1 AND number IS NULL", key) == "{}"
        assert await findings(sql) == []
        for change in ("UPDATE audit_event SET actor = 'bob' WHERE id = 3", "DELETE FROM audit_event WHERE id = 7"):
            await as_owner(sql, change)
            assert await findings(sql) == [("acme", 0, "older events differ")]


async def test_an_older_version_writes_no_key(sql: asyncpg.Connection[Any]) -> None:
    """It would not say whether a user or a caller did it, so its statements about keys fail."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    await insert_key(sql)
    for statement in (
        "SELECT created_by FROM key",
        """
        INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats, created_by)
        VALUES (gen_random_uuid(), 'workspace', 'acme', 'Bot', '$argon2id$x', false, 'ada')
        """,
        "UPDATE key SET revoked_at = now(), revoked_by = 'ada', revoke_reason = ''",
    ):
        with pytest.raises(asyncpg.UndefinedColumnError):
            await sql.execute(statement)


async def test_processes_that_start_at_once_run_each_migration_once(empty_url: str) -> None:
    """Of eight, whichever gets the lock runs the next one while the others wait."""
    done = await asyncio.gather(*(migrate(empty_url) for _ in range(8)))
    run = sorted((each for run in done for each in run), key=lambda migration: migration.number)
    assert tuple(run) == migrations.migrations()


async def test_a_migration_that_fails_leaves_nothing_behind(empty_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is rolled back, earlier ones stay, and it runs again the next time."""
    good = migrations.migrations()
    number = len(good) + 1
    bad = Migration(number, "bad", "CREATE TABLE half (id int); SELECT 1 / 0")
    monkeypatch.setattr(migrations, "migrations", lambda: (*good, bad))
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(empty_url)
    async with connected(empty_url) as sql:
        assert await schema_version(sql) == len(good)
        assert await sql.fetchval("SELECT to_regclass('half')") is None
    mended = Migration(number, "bad", "CREATE TABLE half (id int)")
    monkeypatch.setattr(migrations, "migrations", lambda: (*good, mended))
    assert await migrate(empty_url) == (mended,)


async def test_migrating_without_a_database_is_unavailable(postgres_url: str) -> None:
    """As every other use of a database that is not there."""
    with pytest.raises(UnavailableError):
        await migrate(database_url(postgres_url, "no_such_database"))


@GRPCIO_IF_SHORT
async def test_the_server_does_not_start_on_an_empty_database(transport: str, empty_url: str, tmp_path: Path) -> None:
    """The error says what to do; after that it starts."""
    with pytest.raises(SchemaOutdatedError, match="run `skilder-keys migrate`"):
        async with serving(empty_url, tmp_path, transport=transport):
            pass
    await migrate(empty_url)
    async with serving(empty_url, tmp_path, transport=transport) as service:
        await service.operator.apply(small_workspace())


@GRPCIO_IF_SHORT
async def test_a_newer_schema_is_fine(
    transport: str, database_url: str, sql: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    """During an upgrade old servers keep running, and an old `migrate` has nothing to do."""
    await sql.execute("INSERT INTO schema_migration (number, name) VALUES (9999, 'from_the_future')")
    await require_schema(sql, "public")
    assert await migrate(database_url) == ()
    async with serving(database_url, tmp_path, transport=transport) as service:
        await service.operator.apply(small_workspace())


async def test_an_older_schema_is_refused(sql: asyncpg.Connection[Any]) -> None:
    """Even if only one migration is missing."""
    await sql.execute("DELETE FROM schema_migration WHERE number = (SELECT max(number) FROM schema_migration)")
    with pytest.raises(SchemaOutdatedError):
        await require_schema(sql, "public")


async def test_the_schema_is_what_the_file_says(sql: asyncpg.Connection[Any]) -> None:
    """All migrations together make exactly the tables, constraints, indexes, triggers and functions of schema.txt."""
    text = await schema_text(sql)
    if os.environ.get(UPDATE_VARIABLE) == "1":
        SCHEMA_FILE.write_text(text, "utf-8")
    assert text == SCHEMA_FILE.read_text("utf-8"), (
        f"the migrations do not make the schema in {SCHEMA_FILE.name}: if that is intended, update the file with "
        f"`{UPDATE_VARIABLE}=1 pytest {Path(__file__).name}` and review its difference"
    )


async def test_each_database_has_a_signing_key_of_its_own(empty_url: str, sql: asyncpg.Connection[Any]) -> None:
    """32 random bytes, made by the migration."""
    await migrate(empty_url)
    async with connected(empty_url) as other:
        rows = [await each.fetchrow("SELECT name, value FROM signing_key") for each in (sql, other)]
    assert [row["name"] for row in rows if row is not None] == ["page_token"] * 2
    values = {bytes(row["value"]) for row in rows if row is not None}
    assert [len(value) for value in values] == [32, 32]
