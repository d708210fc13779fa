"""The hot queries stay fast: no plan reads a workspace's 20,000 keys to find a few of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import UUID

import asyncpg
import pytest

from skilder_keys.domain.ids import KeyId, UserId, WorkspaceId
from skilder_keys.domain.keys import KeyCounts, KeyFilter, KeyState
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.domain.revision import Revision
from skilder_keys.domain.token import KeyType
from skilder_keys.offload import Offload
from skilder_keys.storage import catalog, credentials, fence, key_lists, key_uses, keys, workspaces
from tests.support.plans import Mode, Plan, plans, undone
from tests.support.postgres import new_database
from tests.support.rows import NO_HASH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from skilder_keys.storage.database import Connection

pytestmark = pytest.mark.stock_too


LIMIT = 101
JIT_COST = 100_000
"""The default of `jit_above_cost`."""

# Of 20,000 keys of `acme`, newest last: 200 users have 25 keys each, 400 are of runtime instances, 1,000 are revoked.
# Two of the users are no members any more.
# 2,000 other workspaces have 2 keys each.
_ROWS = """
INSERT INTO workspace (id, name, version) SELECT 'w' || n, 'W', 1 FROM generate_series(1, 2000) AS n;
INSERT INTO workspace (id, name, version) VALUES ('acme', 'Acme', 1);
INSERT INTO member (workspace_id, user_id, role) SELECT 'acme', 'u' || n, 'viewer' FROM generate_series(0, 9999) AS n;
INSERT INTO team (workspace_id, id, name) SELECT 'acme', 't' || n, 'T' FROM generate_series(0, 99) AS n;
INSERT INTO team_member (workspace_id, user_id, team_id)
SELECT 'acme', 'u' || n, 't' || n % 100 FROM generate_series(0, 9999) AS n;
INSERT INTO hat (workspace_id, id, name, description, instructions, audience)
SELECT 'acme', 'h' || n, 'H', '', '', 'teams' FROM generate_series(0, 99) AS n;
INSERT INTO key (id, type, workspace_id, user_id, runtime_id, description, secret_hash, limited_to_hats,
                 created_by_kind, created_by_id, request_caller, request_id, request_digest, last_used_at,
                 revoked_at, revoked_by_kind, revoked_by_id, revoke_reason)
SELECT ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid,
       CASE WHEN n % 4 = 0 THEN 'user' WHEN n % 50 = 1 THEN 'runtime' ELSE 'workspace' END,
       CASE WHEN n <= 20000 THEN 'acme' ELSE 'w' || (n % 2000 + 1) END,
       CASE WHEN n % 4 = 0 THEN 'u' || n / 4 % 200 END,
       CASE WHEN n % 4 <> 0 AND n % 50 = 1 THEN 'r' || n END,
       'Slack Support Bot', '{hash}', n % 100 = 2, 'caller', 'console', 'console', 'r' || n, sha256(n::text::bytea),
       CASE WHEN n % 3 = 0 THEN now() END,
       CASE WHEN n % 20 = 0 THEN now() END, CASE WHEN n % 20 = 0 THEN 'user' END,
       CASE WHEN n % 20 = 0 THEN 'ada' END, CASE WHEN n % 20 = 0 THEN '' END
FROM generate_series(1, 24000) AS n;
INSERT INTO key_hat (workspace_id, key_id, hat_id)
SELECT workspace_id, id, 'h' || h FROM key, generate_series(1, 3) AS h WHERE limited_to_hats AND workspace_id = 'acme';
DELETE FROM member WHERE user_id IN ('u7', 'u8')
""".replace("{hash}", NO_HASH)


def key_id(number: int) -> KeyId:
    """Return the id of a key by its number."""
    return KeyId(UUID(f"0198c2f4-7c3e-7000-8000-{number:012x}"))


@pytest.fixture(scope="module", params=["analysed", "never analysed"])
async def full(
    postgres_url: str, template: str, request: pytest.FixtureRequest
) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database with many keys, which the tests here do not change."""
    async with new_database(postgres_url, template) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(_ROWS)
            if request.param == "analysed":
                await connection.execute("VACUUM ANALYZE")
            yield connection
        finally:
            await connection.close()


@pytest.fixture(scope="module")
async def blank(postgres_url: str, template: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database right after the migrations. A plan made now is kept while the tables grow."""
    async with new_database(postgres_url, template) as url:
        connection = await asyncpg.connect(url)
        yield connection
        await connection.close()


ALL_TABLES = ("key", "key_hat", "workspace", "member", "team_member", "hat", "audit_event")
_REQUEST = keys.IssueRequest("console", "r1234", b"x" * 32)
_BY_ID: dict[str, Callable[[Connection], Awaitable[object]]] = {
    "find_credentials of a user key": lambda sql: credentials.find_credentials(sql, [key_id(1204)]),
    "find_credentials of a limited key": lambda sql: credentials.find_credentials(sql, [key_id(1302)]),
    "find_credentials of no key": lambda sql: credentials.find_credentials(sql, [key_id(99_999)]),
    "find": lambda sql: keys.find(sql, key_id(1302)),
    "lock_issued": lambda sql: keys.lock_issued(sql, _REQUEST),
    "claim_first_uses": lambda sql: key_uses.claim_first_uses(sql, [(key_id(1301), NO_HASH)]),
    "renew_hash": lambda sql: credentials.renew_hash(sql, key_id(1301), old_hash=NO_HASH, new_hash=NO_HASH + "2"),
    "replace_secret": lambda sql: keys.replace_secret(sql, key_id(1301), NO_HASH + "2"),
    "revoke": lambda sql: keys.revoke(sql, key_id(1301), by=Principal(PrincipalKind.USER, "ada"), reason=""),
    "workspaces of a member": lambda sql: workspaces.list_page(sql, member=UserId("u77"), after="", limit=LIMIT),
    "member_role": lambda sql: catalog.member_role(sql, WorkspaceId("acme"), UserId("u77")),
}


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("name", _BY_ID)
async def test_one_key_is_found_by_an_index(full: asyncpg.Connection[Any], name: str, mode: Mode) -> None:
    """And so is everything read with it: no table that can grow is read from end to end."""
    assert_by_index(await plans(full, _BY_ID[name], mode))


def assert_by_index(found: list[Plan]) -> None:
    """Fail if a table that can grow is read from end to end, or if each run would compile the plan."""
    for plan in found:
        assert plan.cost < JIT_COST, plan
        for table in ALL_TABLES:
            assert all(scan.startswith(("Index", "Bitmap Heap Scan")) for scan in plan.scans(table)), plan


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
    assert_by_index(await plans(blank, _OF_NOTHING[name], mode))


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
    """One row of each table that has one for it, and as many hats as its limit names."""
    for plan in await plans(full, _BY_ID[name], mode, analyze=True):
        assert plan.rows_read("key") <= 1
        assert plan.rows_read("key_hat") <= 3
        assert plan.rows_read("workspace") <= 1
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
        lambda sql, offload: catalog.load_catalog(sql, WorkspaceId("acme"), texts=True, offload=offload),
    ],
    ids=["members", "catalog"],
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


# The user u77 becomes a member of all 2,001 workspaces.
_MEMBERSHIPS = """
INSERT INTO member (workspace_id, user_id, role)
SELECT id, 'u77', 'viewer' FROM workspace WHERE id <> 'acme'
"""


@pytest.mark.parametrize("analyzed", [True, False])
@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize(
    ("user", "after", "most"),
    [("u77", None, 2001), ("u77", "w1500", 2001), ("u78", None, 1)],
    ids=["many", "later page", "one"],
)
async def test_a_page_of_a_members_workspaces_reads_theirs_only(
    full: asyncpg.Connection[Any], mode: Mode, user: str, after: str | None, most: int, *, analyzed: bool
) -> None:
    """By an index; with statistics in its order, and no more of them than the page shows."""

    async def page(sql: Connection) -> None:
        await workspaces.list_page(sql, member=UserId(user), after=after, limit=LIMIT)

    async with undone(full):
        await full.execute(_MEMBERSHIPS)
        if analyzed:
            await full.execute("ANALYZE member")
        (plan,) = await plans(full, page, mode, analyze=True)
    assert_by_index([plan])
    read = max(plan.rows_read("member"), plan.rows_read("workspace"))
    assert read <= (min(most, LIMIT) if analyzed else most), plan
    if analyzed:
        assert {"Sort", "Incremental Sort"}.isdisjoint(plan.kinds()), plan


@pytest.fixture(scope="module")
async def changed(postgres_url: str, template: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database with many changes, and with many readers, as a fleet leaves them that was killed again and again."""
    async with new_database(postgres_url, template) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(
                """
                INSERT INTO change (epoch, workspace_id) SELECT n, 'acme' FROM generate_series(1, 20000) AS n;
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
    assert plan.scans("change") == ["Index Scan change_pkey"]
    assert plan.rows_read("change") == 10


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
    """By caller and request together."""
    (plan,) = await plans(full, _BY_ID["lock_issued"], "custom")
    assert plan.scans("key") == ["Index Scan key_request"]


def wanted(**fields: Any) -> KeyFilter:
    """Return a filter of the keys of `acme`."""
    return KeyFilter(WorkspaceId("acme"), **fields)


LISTINGS: dict[str, KeyFilter] = {
    "all": wanted(),
    "of a rare type": wanted(types=(KeyType.RUNTIME,)),
    "of the commonest type": wanted(types=(KeyType.WORKSPACE,)),
    "of a user": wanted(user_ids=(UserId("u77"),)),
    "of a user, by type": wanted(user_ids=(UserId("u77"),), types=(KeyType.USER, KeyType.RUNTIME)),
    "revoked": wanted(states=(KeyState.REVOKED,)),
    "not revoked": wanted(states=(KeyState.ACTIVE, KeyState.MEMBER_REMOVED)),
    "active": wanted(states=(KeyState.ACTIVE,)),
    "active or revoked": wanted(states=(KeyState.REVOKED, KeyState.ACTIVE)),
    "active, by type": wanted(types=(KeyType.WORKSPACE,), states=(KeyState.ACTIVE,)),
    "active or revoked, by type": wanted(types=(KeyType.RUNTIME,), states=(KeyState.ACTIVE, KeyState.REVOKED)),
}
SEVERAL: dict[str, tuple[KeyFilter, int]] = {
    "types": (wanted(types=(KeyType.WORKSPACE, KeyType.RUNTIME)), 2),
    "users": (wanted(user_ids=tuple(UserId(f"u{number}") for number in range(100))), 100),
}


async def page(
    sql: asyncpg.Connection[Any], filters: KeyFilter, before: KeyId | None, *, deleted: bool = False
) -> Plan:
    """Return the plan of a page after running it; `list_page` asks for a generic plan."""
    (plan,) = await plans(
        sql,
        lambda connection: key_lists.list_page(
            connection, filters, workspace_deleted=deleted, before=before, limit=LIMIT
        ),
        "generic",
        analyze=True,
    )
    assert plan.cost < JIT_COST, plan
    return plan


async def counted(sql: asyncpg.Connection[Any], filters: KeyFilter) -> Plan:
    """Return the plan of a count after running it."""
    (plan,) = await plans(
        sql, lambda connection: key_lists.count(connection, filters, workspace_deleted=False), "generic", analyze=True
    )
    assert "Seq Scan" not in plan.kinds(), plan
    return plan


@pytest.mark.parametrize("before", [None, key_id(10_000), key_id(5)], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", LISTINGS)
async def test_a_page_reads_about_as_many_keys_as_it_shows(
    full: asyncpg.Connection[Any], name: str, before: KeyId | None
) -> None:
    """Their ids backwards through an index in the filter's order, then the keys by their ids; nothing is sorted."""
    plan = await page(full, LISTINGS[name], before)
    assert {"Seq Scan", "Sort", "Incremental Sort"}.isdisjoint(plan.kinds()), plan
    assert plan.rows_read("key") <= 2 * LIMIT, plan.scans("key")


@pytest.mark.parametrize("before", [None, key_id(10_000), key_id(5)], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", SEVERAL)
async def test_a_page_of_several_values_reads_one_page_of_each(
    full: asyncpg.Connection[Any], name: str, before: KeyId | None
) -> None:
    """And then the keys that it shows, by their ids. Only the ids are sorted."""
    filters, values = SEVERAL[name]
    plan = await page(full, filters, before)
    assert "Seq Scan" not in plan.kinds(), plan
    assert plan.rows_read("key") <= (values + 1) * LIMIT, plan.scans("key")


@pytest.mark.parametrize(
    "filters",
    [
        wanted(user_ids=()),
        wanted(types=(KeyType.RUNTIME,), user_ids=(UserId("u77"),)),
        wanted(types=(KeyType.RUNTIME,), states=(KeyState.MEMBER_REMOVED,)),
        wanted(states=(KeyState.WORKSPACE_GONE,)),
    ],
)
async def test_what_can_match_no_key_reads_none(full: asyncpg.Connection[Any], filters: KeyFilter) -> None:
    """The database is not asked."""
    asked: list[object] = []
    with full.query_logger(asked.append):
        found = await key_lists.list_page(full, filters, workspace_deleted=False, before=None, limit=LIMIT)
        assert (found, await key_lists.count(full, filters, workspace_deleted=False)) == (
            [],
            KeyCounts((), partial=False),
        )
    assert asked == []


async def test_a_page_of_a_deleted_workspace_reads_as_many_keys_as_it_shows(full: asyncpg.Connection[Any]) -> None:
    """All its keys that are not revoked have one state; the table of members is not asked which."""
    filters = wanted(states=(KeyState.WORKSPACE_GONE,))
    plan = await page(full, filters, None, deleted=True)
    assert plan.rows_read("key") <= 2 * LIMIT, plan.scans("key")


@pytest.fixture(scope="module")
async def few(postgres_url: str, template: str) -> AsyncIterator[asyncpg.Connection[Any]]:
    """A database with few workspaces, one of which has nearly all keys."""
    async with new_database(postgres_url, template) as url:
        connection = await asyncpg.connect(url)
        try:
            await connection.execute(
                f"""
                INSERT INTO workspace (id, name, version) SELECT 'w' || n, 'W', 1 FROM generate_series(0, 2) AS n;
                INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats,
                                 created_by_kind, created_by_id)
                SELECT ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'workspace',
                       'w' || CASE WHEN n % 1000 < 2 THEN n % 1000 + 1 ELSE 0 END, 'D', '{NO_HASH}', false,
                       'caller', 'c'
                FROM generate_series(1, 30000) AS n
                """  # noqa: S608 - a constant
            )
            await connection.execute("VACUUM ANALYZE")
            yield connection
        finally:
            await connection.close()


@pytest.mark.parametrize("before", [None, key_id(10_000)], ids=["first", "middle"])
@pytest.mark.parametrize("workspace_id", ["w0", "w1"])
async def test_a_page_of_one_of_few_workspaces_reads_no_other(
    few: asyncpg.Connection[Any], workspace_id: str, before: KeyId | None
) -> None:
    """Although the planner does not know the workspace and expects a third of all keys in it."""
    plan = await page(few, KeyFilter(WorkspaceId(workspace_id)), before)
    assert plan.rows_read("key") <= 2 * LIMIT, plan.scans("key")


LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("filters", "most"),
    [
        pytest.param(wanted(user_ids=(UserId("u77"),), states=(KeyState.REVOKED,)), 1_000, id="revoked of a user"),
        pytest.param(wanted(user_ids=(UserId("u77"),), unused_since=LONG_AGO), 25, id="unused of a user"),
        pytest.param(wanted(types=(KeyType.RUNTIME,), states=(KeyState.REVOKED,)), 1_000, id="revoked of a type"),
        pytest.param(wanted(types=(KeyType.RUNTIME,), unused_since=LONG_AGO), 400, id="unused of a type"),
        pytest.param(wanted(unused_since=LONG_AGO), 20_000, id="unused"),
        pytest.param(wanted(states=(KeyState.MEMBER_REMOVED,)), 5_000, id="of users that left"),
        pytest.param(wanted(states=(KeyState.MEMBER_REMOVED, KeyState.REVOKED)), 20_000, id="not usable"),
    ],
)
async def test_a_filter_without_an_index_reads_what_the_others_leave(
    full: asyncpg.Connection[Any], filters: KeyFilter, most: int
) -> None:
    """At worst the keys of one workspace, and never all keys."""
    plan = await page(full, filters, None)
    assert {"Seq Scan", "Sort", "Incremental Sort"}.isdisjoint(plan.kinds()), plan
    assert plan.rows_read("key") <= most + LIMIT, plan.scans("key")


COUNTS: dict[str, tuple[KeyFilter, int]] = {
    "all": (wanted(), 20_000),
    "of types": (wanted(types=(KeyType.RUNTIME,)), 400),
    "of users": (wanted(user_ids=(UserId("u77"), UserId("u78"))), 50),
    "revoked": (wanted(states=(KeyState.REVOKED,)), 1_000),
    "active": (wanted(states=(KeyState.ACTIVE,)), 19_000),
    "of users that left": (wanted(states=(KeyState.MEMBER_REMOVED,)), 5_000),
    "unused": (wanted(unused_since=LONG_AGO), 20_000),
}


@pytest.mark.parametrize("name", COUNTS)
async def test_a_count_reads_the_keys_of_one_workspace_once(full: asyncpg.Connection[Any], name: str) -> None:
    """At most, and only the keys of some types, users or states where the filter names them.

    The members are read once for the condition, and once for the state that is counted.
    """
    filters, most = COUNTS[name]
    plan = await counted(full, filters)
    assert plan.rows_read("key") <= most, plan.scans("key")
    assert plan.rows_read("member") <= 2 * 9_998, plan.scans("member")


@pytest.mark.parametrize("states", [(KeyState.MEMBER_REMOVED,), (KeyState.MEMBER_REMOVED, KeyState.REVOKED)])
async def test_members_are_read_once_to_find_the_keys_of_others(
    full: asyncpg.Connection[Any], states: tuple[KeyState, ...]
) -> None:
    """Into a hash table, even if the server's own setting has no memory for it. Not once for each key."""
    async with undone(full):
        await full.execute("SET LOCAL work_mem = '64kB'")
        plan = await page(full, wanted(states=states), None)
    assert plan.rows_read("member") <= 9_998 + LIMIT, plan.scans("member")
    assert any("hashed SubPlan" in node.get("Filter", "") for node in plan.nodes()), plan


async def test_a_count_in_one_of_few_workspaces_reads_no_other(few: asyncpg.Connection[Any]) -> None:
    """Although the planner expects a third of all keys in it."""
    for workspace_id, most in (("w0", 29_940), ("w1", 30)):
        plan = await counted(few, KeyFilter(WorkspaceId(workspace_id)))
        assert plan.rows_read("key") <= most, plan.scans("key")
