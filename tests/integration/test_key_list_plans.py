"""Lists and counts of keys stay fast: a page reads about as many keys as it shows, and none of other workspaces."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.domain.ids import KeyId, UserId, WorkspaceId
from skilder_keys.domain.keys import KeyCounts, KeyFilter, KeyState
from skilder_keys.domain.token import KeyType
from skilder_keys.storage import key_lists
from tests.support.many_keys import JIT_COST, LIMIT, key_id
from tests.support.plans import Plan, plans, undone
from tests.support.postgres import new_database
from tests.support.rows import NO_HASH

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.stock_too


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
