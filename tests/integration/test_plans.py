"""The hot queries stay fast: no plan reads a workspace's 20,000 keys to find a few of them."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.domain.difference import Part
from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.domain.revision import Revision
from skilder_keys.offload import Offload
from skilder_keys.storage import catalog, credentials, fence, key_uses, keys, snapshots
from skilder_keys.storage.credentials import RenewedHash
from skilder_keys.storage.database import Database, DatabaseOptions
from tests.support.many_keys import JIT_COST, assert_by_index, key_id, page_of_workspaces
from tests.support.plans import Mode, plans
from tests.support.postgres import new_database
from tests.support.rows import NO_HASH, insert, insert_key
from tests.support.sql import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from skilder_keys.storage.database import Connection

pytestmark = pytest.mark.stock_too(in_turn=True)


@pytest.fixture(scope="module")
async def blank(postgres_url: str, template: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database right after the migrations. A plan made now is kept while the tables grow."""
    async with new_database(postgres_url, template) as url:
        connection = await asyncpg.connect(url)
        yield connection
        await connection.close()


_REQUEST = keys.IssueRequest("console", "r1234", b"x" * 32)
_BY_ID: dict[str, Callable[[Connection], Awaitable[object]]] = {
    "find_credentials of a user key": lambda sql: credentials.find_credentials(sql, [key_id(1204)]),
    "find_credentials of a limited key": lambda sql: credentials.find_credentials(sql, [key_id(1302)]),
    "find_credentials of no key": lambda sql: credentials.find_credentials(sql, [key_id(99_999)]),
    "find": lambda sql: keys.find(sql, key_id(1302)),
    "lock_issued": lambda sql: keys.lock_issued(sql, _REQUEST),
    "claim_first_uses": lambda sql: key_uses.claim_first_uses(sql, [(key_id(1301), NO_HASH)]),
    "renew_hashes": lambda sql: credentials.renew_hashes(sql, [RenewedHash(key_id(1301), NO_HASH, NO_HASH + "2")]),
    "replace_secret": lambda sql: keys.replace_secret(sql, key_id(1301), NO_HASH + "2"),
    "revoke": lambda sql: keys.revoke(sql, key_id(1301), by=Principal(PrincipalKind.USER, "ada"), reason=""),
    "workspaces of a member": lambda sql: page_of_workspaces(sql, "u77"),
    "workspaces of two members": lambda sql: page_of_workspaces(sql, "u77", actor="u78"),
    "member_role": lambda sql: catalog.member_role(sql, WorkspaceId("acme"), UserId("u77")),
}


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("name", _BY_ID)
async def test_one_key_is_found_by_an_index(full: asyncpg.Connection[Any], name: str, mode: Mode) -> None:
    """And so is everything read with it: neither a table that can grow is read from end to end, nor an index of it."""
    found = await plans(full, _BY_ID[name], mode)
    assert_by_index(found)
    assert [plan.whole_indexes() for plan in found] == [[]] * len(found)


_BATCH = [key_id(number) for number in range(100, 20_000, 400)]
_OF_MANY: dict[str, Callable[[Connection], Awaitable[object]]] = {
    "find_credentials": lambda sql: credentials.find_credentials(sql, _BATCH),
    "claim_first_uses": lambda sql: key_uses.claim_first_uses(sql, [(each, NO_HASH) for each in _BATCH]),
    "note_uses": lambda sql: key_uses.note_uses(sql, dict.fromkeys(_BATCH, 1.0), 60.0),
}
_OF_NOTHING = {name: run for name, run in (_BY_ID | _OF_MANY).items() if name != "lock_issued"}


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("name", _OF_NOTHING)
async def test_plans_made_for_empty_tables_are_good_for_full_ones(
    blank: asyncpg.Connection[Any], name: str, mode: Mode
) -> None:
    """A connection keeps such a plan, and only new statistics would replace it."""
    found = await plans(blank, _OF_NOTHING[name], mode)
    assert_by_index(found)
    if name != "note_uses":  # of hundreds of keys, every few seconds
        assert [plan.whole_indexes() for plan in found] == [[]] * len(found)


_WRITING = {"renew_hashes": _BY_ID["renew_hashes"]} | {
    name: run for name, run in _OF_MANY.items() if name != "find_credentials"
}


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("name", _WRITING)
async def test_plans_made_for_few_keys_are_good_for_many(
    postgres_url: str, template: str, name: str, mode: Mode
) -> None:
    """Where statistics say that it is cheapest to read all of them."""
    async with new_database(postgres_url, template) as url, connected(url) as sql:
        await insert(sql, "workspace", id="acme", name="Acme", version=1)
        for _ in range(5):
            await insert_key(sql)
        await sql.execute("VACUUM ANALYZE")
        for plan in await plans(sql, _WRITING[name], mode):
            assert "Seq Scan" not in plan.scans("key"), plan


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_the_cost_of_many_keys_does_not_depend_on_other_rows(full: asyncpg.Connection[Any], mode: Mode) -> None:
    """The epoch is read once, whatever the statistics of `fence`, and members and teams for the wanted keys only."""
    (plan,) = await plans(full, _OF_MANY["find_credentials"], mode, analyze=True)
    assert_by_index([plan])
    assert {node["Actual Loops"] for node in plan.nodes() if node.get("Relation Name") == "fence"} == {1}
    assert plan.rows_read("workspace") == len(_BATCH)
    assert plan.rows_read("member") <= len(_BATCH)


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("name", [name for name in _BY_ID if name.startswith(("find", "lock"))])
async def test_one_key_is_found_without_reading_others(full: asyncpg.Connection[Any], name: str, mode: Mode) -> None:
    """One row of each table that has one for it, as many hats as its limit names, and twice the workspace."""
    for plan in await plans(full, _BY_ID[name], mode, analyze=True):
        assert plan.rows_read("key") <= 1
        assert plan.rows_read("key_hat") <= 3
        assert plan.rows_read("workspace") <= 2
        assert plan.rows_read("team_member") <= 1


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("name", _OF_MANY)
async def test_a_batch_of_keys_is_found_by_the_index(full: asyncpg.Connection[Any], name: str, mode: Mode) -> None:
    """Of 20,000 keys only the wanted ones are read, all by one statement."""
    plan, *_ = await plans(full, _OF_MANY[name], mode)
    assert_by_index([plan])


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize(
    "run",
    [
        lambda sql, offload: catalog.load_members(sql, WorkspaceId("acme"), offload),
        lambda sql, offload: catalog.load_catalog(sql, WorkspaceId("acme"), offload=offload),
        lambda sql, _: snapshots.read(sql, WorkspaceId("acme"), snapshots.EVERYTHING),
    ],
    ids=["members", "catalog", "snapshot"],
)
async def test_a_workspace_is_read_in_one_pass_of_each_table(
    full: asyncpg.Connection[Any], run: Callable[[Connection, Offload], Awaitable[object]], mode: Mode
) -> None:
    """Not once for each part, which would take minutes with a kept plan that reads all links each time."""
    offload = Offload()
    (plan,) = await plans(full, lambda sql: run(sql, offload), mode, analyze=True)
    offload.close()
    scans = [node for node in plan.nodes() if "Relation Name" in node]
    assert scans
    assert {node["Actual Loops"] for node in scans} == {1}, plan


_TABLES = {"teams": {"team"}, "hats": {"hat", "hat_team", "hat_skill"}, "skills": {"skill", "skill_tool"}}
_TABLES |= {"tools": {"tool"}}


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("parts", [*((name,) for name in _TABLES), ("teams", "tools"), tuple(_TABLES)], ids="+".join)
async def test_only_the_tables_of_the_wanted_parts_are_read(
    full: asyncpg.Connection[Any], parts: tuple[str, ...], mode: Mode
) -> None:
    """By a plan that is made for any parts, too: the scans of the other tables never begin."""

    async def load(sql: Connection) -> None:
        with closing(Offload()) as offload:
            await catalog.load_catalog(sql, WorkspaceId("acme"), offload=offload, parts=parts)

    (plan,) = await plans(full, load, mode, analyze=True)
    begun = {node["Relation Name"] for node in plan.nodes() if node.get("Relation Name") and node["Actual Loops"]}
    assert begun == set().union(*(_TABLES[name] for name in parts)), plan


_PARTS = {Part.MEMBER: "u77", Part.HAT: "h1", Part.SKILL: "s1", Part.TOOL: "t1"}


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("part", _PARTS)
async def test_a_touched_part_is_read_by_an_index(full: asyncpg.Connection[Any], part: Part, mode: Mode) -> None:
    """And no row of another part, however many the workspace has."""

    async def read(sql: Connection) -> None:
        await snapshots.read(sql, WorkspaceId("acme"), {part: {_PARTS[part]}})

    (plan,) = await plans(full, read, mode, analyze=True)
    assert plan.cost < JIT_COST, plan
    assert plan.rows_read("member") <= 1
    assert plan.rows_read("team_member") <= 1
    assert plan.rows_read("skill") + plan.rows_read("tool") <= 1
    assert plan.rows_read("hat") <= 100, "all that there are, in one page of the table"


@pytest.fixture(scope="module")
async def changed(postgres_url: str, template: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database with many changes, and with many readers, as a fleet leaves them that was killed again and again."""
    async with new_database(postgres_url, template) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(
                """
                INSERT INTO change (epoch, sequence, workspace_id, part, part_id)
                SELECT n, m, 'acme', 'tool', m FROM generate_series(1, 20000) AS n, generate_series(1, 3) AS m;
                UPDATE fence SET epoch = 20000;
                INSERT INTO reader (id, epoch, lease_seconds)
                SELECT ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 19990, 2
                FROM generate_series(1, 2000) AS n;
                """
            )
            await connection.execute("VACUUM ANALYZE")
            yield connection
        finally:
            await connection.close()


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_changes_after_an_epoch_are_found_by_the_index(changed: asyncpg.Connection[Any], mode: Mode) -> None:
    """However many changes are kept, only those after the epoch are read, in order."""
    (plan,) = await plans(changed, lambda sql: fence.changes_since(sql, 19_990), mode, analyze=True)
    assert_by_index([plan])
    assert plan.rows_read("change") <= 2 * 30, "once for the last epoch that fits, once for the rows"


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_a_heartbeat_reads_its_own_row(changed: asyncpg.Connection[Any], mode: Mode) -> None:
    """However many readers there are."""
    (plan,) = await plans(changed, lambda sql: fence.heartbeat(sql, key_id(7), Revision(19_990, 0)), mode)
    assert plan.scans("reader") == ["Index Scan reader_pkey"]
    assert plan.scans("change") == ["Index Scan change_pkey"]


async def test_readers_are_evicted_by_the_index(changed: asyncpg.Connection[Any]) -> None:
    """With one statement for all of them."""
    readers = [key_id(number) for number in range(1, 11)]
    (plan,) = await plans(changed, lambda sql: fence.evict(sql, readers, 19_991), "custom")
    assert all(scan.startswith(("Index", "Bitmap")) for scan in plan.scans("reader")), plan


async def test_the_request_of_a_retry_is_found_by_its_constraint(full: asyncpg.Connection[Any]) -> None:
    """By caller and request together; its successors by the index of those."""
    (plan,) = await plans(full, _BY_ID["lock_issued"], "custom")
    assert_by_index([plan])
    assert "Index Scan key_request" in plan.scans("key")


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_old_changes_are_removed_without_reading_the_others(changed: asyncpg.Connection[Any], mode: Mode) -> None:
    """However many there are to keep, and to remove later."""
    found = await plans(changed, fence.prune, mode, analyze=True)
    assert_by_index([plan for plan in found if "change" in plan.query])
    for plan in found:
        assert plan.rows_read("change") <= 1002, plan


async def test_a_connection_that_stays_open_finds_changes_by_the_index(postgres_url: str, template: str) -> None:
    """The fence's own one: whatever it planned when there were no changes yet, and whoever has analysed that."""
    async with new_database(postgres_url, template) as url, connected(url) as sql:
        await sql.execute("VACUUM ANALYZE")
        database = await Database.open(DatabaseOptions(url))
        async with database.dedicated("skilder-keys fence", 60) as connection:
            for _ in range(8):
                assert await fence.changes_since(connection, 0) == []
            await sql.execute(
                """
                INSERT INTO change (epoch, workspace_id, part)
                SELECT n, 'acme', 'tool' FROM generate_series(1, 5000) AS n
                """
            )
            async with connection.transaction():
                assert len(await fence.changes_since(connection, 4_990)) == 10
                read = await connection.fetchval(
                    """
                    SELECT seq_tup_read + coalesce(idx_tup_fetch, 0) FROM pg_stat_xact_user_tables
                    WHERE relname = 'change'
                    """
                )
            assert read <= 30
        await database.close()
