"""Lists and counts of keys stay fast: a page reads about as many keys as it shows, and none of other workspaces."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.domain.access import Caller, CallerRole, Origin
from skilder_keys.domain.ids import RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.key_filter import KeyCounts, KeyFilter, KeyListing, KeyOrder
from skilder_keys.domain.key_policy import PolicyRule
from skilder_keys.domain.keys import KeyLimit, KeyState
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.domain.token import KeyType, hint
from skilder_keys.storage import key_lists, key_revocations
from skilder_keys.storage.key_lists import MOST_READ
from tests.support.many_keys import JIT_COST, LIMIT, key_id
from tests.support.plans import Plan, plans, undone
from tests.support.postgres import new_database
from tests.support.rows import NO_HASH
from tests.support.together import TOGETHER_IF_SHORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.stock_too(in_turn=True)


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
    "of a creator": wanted(created_by=Principal(PrincipalKind.USER, "ada")),
    "of the commonest creator": wanted(created_by=Principal(PrincipalKind.CALLER, "console")),
    "of a runtime": wanted(runtime_ids=(RuntimeId("r51"),)),
    "active or revoked, by type": wanted(types=(KeyType.RUNTIME,), states=(KeyState.ACTIVE, KeyState.REVOKED)),
}
SEVERAL: dict[str, tuple[KeyFilter, int]] = {
    "limits": (wanted(unlimited=(KeyLimit.HATS,)), 2),
    "types": (wanted(types=(KeyType.WORKSPACE, KeyType.RUNTIME)), 2),
    "runtimes": (wanted(runtime_ids=tuple(RuntimeId(f"r{number * 50 + 1}") for number in range(100))), 100),
    "users": (wanted(user_ids=tuple(UserId(f"u{number}") for number in range(100))), 100),
}


DISABLED_COST = 1e10
"""What Postgres adds to the cost of sorting, if `enable_sort` is off; since version 18 nothing."""
NEWEST, LEAST_USED = KeyOrder.NEWEST, KeyOrder.LEAST_RECENTLY_USED


def position(number: int) -> str:
    """Return the position of a key in the order of the newest."""
    return f'["{key_id(number)}"]'


async def page(
    sql: asyncpg.Connection[Any],
    filters: KeyFilter,
    after: str | None = None,
    *,
    order: KeyOrder = NEWEST,
    deleted: bool = False,
) -> Plan:
    """Return the plan of a page after running it; `list_page` asks for a generic plan."""
    *_, plan = await plans(
        sql,
        lambda connection: key_lists.list_page(
            connection, KeyListing(filters, order), workspace_deleted=deleted, after=after, limit=LIMIT - 1
        ),
        "generic",
        analyze=True,
    )
    # With a cost of sorting that high, the search has turned JIT off.
    assert plan.cost < JIT_COST or plan.cost >= DISABLED_COST, plan
    assert "Seq Scan" not in plan.kinds(), plan
    return plan


async def counted(sql: asyncpg.Connection[Any], filters: KeyFilter) -> Plan:
    """Return the plan of a count after running it."""
    *_, plan = await plans(
        sql, lambda connection: key_lists.count(connection, filters, workspace_deleted=False), "generic", analyze=True
    )
    assert "Seq Scan" not in plan.kinds(), plan
    return plan


LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("after", [None, position(10_000), position(5)], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", LISTINGS)
@TOGETHER_IF_SHORT
async def test_a_page_reads_about_as_many_keys_as_it_shows(
    full: asyncpg.Connection[Any], name: str, after: str | None
) -> None:
    """Their ids backwards through an index in the filter's order, then the keys by their ids; only these are sorted."""
    plan = await page(full, LISTINGS[name], after)
    assert plan.rows_sorted() <= LIMIT, plan
    assert plan.rows_read("key") <= 2 * LIMIT, plan.scans("key")


@pytest.mark.parametrize("after", [None, position(10_000), position(5)], ids=["first", "middle", "last"])
@pytest.mark.parametrize("name", SEVERAL)
@TOGETHER_IF_SHORT
async def test_a_page_of_several_values_reads_one_page_of_each(
    full: asyncpg.Connection[Any], name: str, after: str | None
) -> None:
    """And then the keys that it shows, by their ids. Only the ids are sorted."""
    filters, values = SEVERAL[name]
    plan = await page(full, filters, after)
    assert "Seq Scan" not in plan.kinds(), plan
    assert plan.rows_read("key") <= (values + 1) * (LIMIT + 1), plan.scans("key")


async def test_a_hint_is_looked_up(full: asyncpg.Connection[Any]) -> None:
    """The key is found by a number that is made of its id, and then read by its id."""
    plan = await page(full, wanted(hint=hint(KeyType.WORKSPACE, key_id(10_002))))
    assert "key_by_hint" in {node.get("Index Name") for node in plan.nodes()}, plan
    assert plan.rows_read("key") == 2
    assert (await counted(full, wanted(hint=hint(KeyType.WORKSPACE, key_id(10_002))))).rows_read("key") == 1


SEARCHES: dict[str, tuple[KeyFilter, int]] = {
    "rare words": (wanted(text="release github"), 40),
    "common and rare words": (wanted(text="Slack release"), 0),
    "no words": (wanted(text="unheard"), 0),
    "a label": (wanted(labels=("team=t7",)), 100),
    "a label with any value": (wanted(labels=("team",)), 10_000),
    "words and a label": (wanted(text="support", labels=("team=t7",)), 100),
    "a label of a user": (wanted(labels=("team=t7",), user_ids=(UserId("u7"),)), 100),
}


@pytest.mark.parametrize("order", KeyOrder)
@pytest.mark.parametrize("name", SEARCHES)
@TOGETHER_IF_SHORT
async def test_a_search_reads_the_keys_that_have_all_words_and_labels(
    full: asyncpg.Connection[Any], name: str, order: KeyOrder
) -> None:
    """Each once, to sort them, and no key of another workspace, although all have the same words."""
    filters, most = SEARCHES[name]
    plan = await page(full, filters, order=order)
    assert "Bitmap Heap Scan" in plan.scans("key")
    assert plan.rows_read("key") <= most + LIMIT, plan.scans("key")
    assert (await counted(full, filters)).rows_read("key") <= most


LOOKED_AT = 1_000
COMMON: dict[str, tuple[KeyFilter, int]] = {
    "words": (wanted(text="Slack"), 2 * LIMIT),
    "words and a label": (wanted(text="Slack", labels=("team",)), 3 * LIMIT),
    "words, of a user": (wanted(text="Slack", user_ids=(UserId("u77"),)), 25),
    "words, of a runtime": (wanted(text="Slack", runtime_ids=(RuntimeId("r51"),)), 1),
    "words, of a rare type": (wanted(text="Slack", types=(KeyType.RUNTIME,)), 400),
    "words, revoked": (wanted(text="Slack", states=(KeyState.REVOKED,)), 2 * LIMIT),
    "words, of nobody": (wanted(text="Slack", states=(KeyState.SUSPENDED,)), 2 * LOOKED_AT),
}


@pytest.mark.parametrize("order", KeyOrder)
@pytest.mark.parametrize("name", COMMON)
@TOGETHER_IF_SHORT
async def test_a_search_by_common_words_reads_keys_in_order(
    full: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch, name: str, order: KeyOrder
) -> None:
    """As many as a page may read, of each type. Before that it counts the keys with the words, and stops early."""
    monkeypatch.setattr(key_lists, "MOST_SORTED", 5_000)
    monkeypatch.setattr(key_lists, "MOST_READ", 4 * LOOKED_AT)
    filters, most = COMMON[name]
    listing = KeyListing(filters, order)
    found = await plans(
        full,
        lambda sql: key_lists.list_page(sql, listing, workspace_deleted=False, after=None, limit=LIMIT - 1),
        "generic",
        analyze=True,
    )
    *_, looked, plan = found
    assert "Seq Scan" not in looked.kinds() | plan.kinds(), plan
    assert looked.rows_read("key") <= 5_000 + 1, looked.scans("key")
    assert "key_by_terms" not in {node.get("Index Name") for node in plan.nodes()}, plan
    if order is not NEWEST:
        # Few keys of some type may have the words. All of a day are read, to sort them.
        most = len(KeyType) * (2 * LOOKED_AT + (1_000 if order is LEAST_USED else 0))
    assert plan.rows_read("key") <= most + LIMIT, plan.scans("key")


async def test_a_page_of_users_with_too_many_keys_reads_the_keys_of_few_users(
    full: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of those whose keys the page has read, each once."""
    monkeypatch.setattr(key_lists, "MOST_READ", 1_000)
    async with undone(full):
        await full.execute("UPDATE workspace SET max_active_keys_per_user = 30 WHERE id = 'acme'")
        plan = await page(full, wanted(violating=(PolicyRule.MAX_ACTIVE_KEYS_PER_USER,)))
    # A quarter of the keys is of users, and each has 25.
    assert plan.rows_read("key") <= 4 * 100 + 25 * 25 + LIMIT, plan.scans("key")


PLACES = {"first": None, "middle": f'["2026-07-01", "2026-07-01T12:00:00+00:00", "{key_id(10_000)}"]'}
BY_USE: dict[str, tuple[KeyFilter, int]] = {
    "all": (wanted(), 1_000),
    "of a rare type": (wanted(types=(KeyType.RUNTIME,)), 1_000),
    "active": (wanted(states=(KeyState.ACTIVE,)), 1_000),
    "unused": (wanted(unused_since=LONG_AGO), 0),
    "of a user": (wanted(user_ids=(UserId("u77"),)), 25),
    "of a creator": (wanted(created_by=Principal(PrincipalKind.USER, "ada")), 100),
    "of a runtime": (wanted(runtime_ids=(RuntimeId("r51"),)), 1),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("name", BY_USE)
@TOGETHER_IF_SHORT
async def test_a_page_by_last_use_reads_the_keys_of_few_days(
    full: asyncpg.Connection[Any], name: str, place: str
) -> None:
    """Those of a day are sorted, and no other day is read until they are shown. Of each type, as an index has them."""
    filters, most = BY_USE[name]
    plan = await page(full, filters, PLACES[place], order=LEAST_USED)
    assert plan.rows_read("key") <= most + LIMIT, plan.scans("key")


SOON = datetime(2200, 1, 1, tzinfo=UTC)
BY_EXPIRY: dict[str, tuple[KeyFilter, int]] = {
    "all": (wanted(), 3 * LIMIT),
    "of a rare type": (wanted(types=(KeyType.RUNTIME,)), LIMIT),
    "that expire soon": (wanted(expires_before=SOON), 200),
    "that expire soon, by type": (wanted(expires_before=SOON, types=(KeyType.RUNTIME,)), 200),
    "that expire soon, of another type": (wanted(expires_before=SOON, types=(KeyType.USER,)), 0),
    "that expire later": (wanted(expires_after=SOON), 0),
    "that can be used": (wanted(states=(KeyState.ACTIVE, KeyState.SUSPENDED)), 3 * LIMIT + 1_000),
    "of a user": (wanted(user_ids=(UserId("u77"),)), 25),
}


@pytest.mark.parametrize("place", [None, f'["2100-01-01T00:00:00+00:00", "{key_id(9_901)}"]'], ids=["first", "middle"])
@pytest.mark.parametrize("name", BY_EXPIRY)
@TOGETHER_IF_SHORT
async def test_a_page_by_expiry_reads_about_as_many_keys_as_it_shows(
    full: asyncpg.Connection[Any], name: str, place: str | None
) -> None:
    """Of each type, from an index that has them in this order."""
    filters, most = BY_EXPIRY[name]
    plan = await page(full, filters, place, order=KeyOrder.EXPIRES_NEXT)
    assert plan.rows_read("key") <= most + LIMIT, plan.scans("key")


@pytest.mark.parametrize("order", [NEWEST, LEAST_USED])
async def test_the_keys_of_a_range_of_expiry_are_read_in_any_order(
    full: asyncpg.Connection[Any], order: KeyOrder
) -> None:
    """All of them, to sort them, and no others: few keys expire within a week."""
    plan = await page(full, wanted(expires_before=SOON), order=order)
    assert plan.rows_read("key") <= 200 + 2 * LIMIT, plan.scans("key")
    # The rows of each type are an average of three loops, which may be rounded up.
    assert (await counted(full, wanted(expires_before=SOON))).rows_read("key") <= 200 + 3


@pytest.mark.parametrize(
    "filters",
    [
        wanted(user_ids=()),
        wanted(types=(KeyType.RUNTIME,), user_ids=(UserId("u77"),)),
        wanted(types=(KeyType.RUNTIME,), states=(KeyState.MEMBER_REMOVED,)),
        wanted(states=(KeyState.WORKSPACE_GONE,)),
        wanted(runtime_ids=()),
        wanted(runtime_ids=(RuntimeId("r51"),), user_ids=(UserId("u77"),)),
        wanted(types=(KeyType.RUNTIME,), unlimited=(KeyLimit.HATS,)),
        wanted(types=(KeyType.USER,), hint="WSK_0123456789"),
    ],
)
async def test_what_can_match_no_key_reads_none(full: asyncpg.Connection[Any], filters: KeyFilter) -> None:
    """The database is not asked."""
    asked: list[object] = []
    with full.query_logger(asked.append):
        found = await key_lists.list_page(
            full, KeyListing(filters, NEWEST), workspace_deleted=False, after=None, limit=LIMIT
        )
        assert (found, await key_lists.count(full, filters, workspace_deleted=False)) == (
            ([], None),
            KeyCounts((), partial=False),
        )
    assert asked == []


async def test_a_page_of_a_deleted_workspace_reads_as_many_keys_as_it_shows(full: asyncpg.Connection[Any]) -> None:
    """All its keys that are not revoked have one state; the table of members is not asked which."""
    filters = wanted(states=(KeyState.WORKSPACE_GONE,))
    plan = await page(full, filters, deleted=True)
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
                SET session_replication_role = replica; -- no events
                INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats,
                                 created_by_kind, created_by_id)
                SELECT ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 'workspace',
                       'w' || CASE WHEN n % 1000 < 2 THEN n % 1000 + 1 ELSE 0 END, 'D', '{NO_HASH}', false,
                       'caller', 'c'
                FROM generate_series(1, 30000) AS n;
                RESET session_replication_role
                """  # noqa: S608 - a constant
            )
            await connection.execute("VACUUM ANALYZE")
            yield connection
        finally:
            await connection.close()


@pytest.mark.parametrize("after", [None, position(10_000)], ids=["first", "middle"])
@pytest.mark.parametrize("workspace_id", ["w0", "w1"])
async def test_a_page_of_one_of_few_workspaces_reads_no_other(
    few: asyncpg.Connection[Any], workspace_id: str, after: str | None
) -> None:
    """Although the planner does not know the workspace and expects a third of all keys in it."""
    plan = await page(few, KeyFilter(WorkspaceId(workspace_id)), after)
    assert plan.rows_read("key") <= 2 * LIMIT, plan.scans("key")


@pytest.mark.parametrize(
    ("filters", "most"),
    [
        pytest.param(wanted(user_ids=(UserId("u77"),), states=(KeyState.REVOKED,)), 1_000, id="revoked of a user"),
        pytest.param(wanted(user_ids=(UserId("u77"),), unused_since=LONG_AGO), 25, id="unused of a user"),
        pytest.param(wanted(types=(KeyType.RUNTIME,), states=(KeyState.REVOKED,)), 1_000, id="revoked of a type"),
        pytest.param(wanted(types=(KeyType.RUNTIME,), unused_since=LONG_AGO), 2 * 400, id="unused of a type"),
        pytest.param(wanted(unused_since=LONG_AGO), 2 * MOST_READ, id="unused"),
        pytest.param(wanted(states=(KeyState.MEMBER_REMOVED,)), 2 * 5_000, id="of users that left"),
        pytest.param(wanted(states=(KeyState.MEMBER_REMOVED, KeyState.REVOKED)), 2 * MOST_READ, id="not usable"),
    ],
)
async def test_a_filter_without_an_index_reads_what_the_others_leave(
    full: asyncpg.Connection[Any], filters: KeyFilter, most: int
) -> None:
    """At worst MOST_READ keys of one workspace, once to look at them and once to find the last one."""
    plan = await page(full, filters)
    assert plan.rows_sorted() <= LIMIT, plan
    assert plan.rows_read("key") <= most + LIMIT, plan.scans("key")


COUNTS: dict[str, tuple[KeyFilter, int]] = {
    "all": (wanted(), 20_000),
    "of types": (wanted(types=(KeyType.RUNTIME,)), 400),
    "of users": (wanted(user_ids=(UserId("u77"), UserId("u78"))), 50),
    "revoked": (wanted(states=(KeyState.REVOKED,)), 1_000),
    "active": (wanted(states=(KeyState.ACTIVE,)), 19_000),
    "of users that left": (wanted(states=(KeyState.MEMBER_REMOVED,)), 5_000),
    "unused": (wanted(unused_since=LONG_AGO), 0),
    "of a creator": (wanted(created_by=Principal(PrincipalKind.USER, "ada")), 100),
    "of runtimes": (wanted(runtime_ids=(RuntimeId("r51"), RuntimeId("r101"))), 2),
    "without a limit": (wanted(unlimited=(KeyLimit.HATS,)), 19_600),
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
        plan = await page(full, wanted(states=states))
    assert plan.rows_read("member") <= 9_998 + LIMIT, plan.scans("member")
    assert any("hashed SubPlan" in node.get("Filter", "") for node in plan.nodes()), plan


async def test_a_count_in_one_of_few_workspaces_reads_no_other(few: asyncpg.Connection[Any]) -> None:
    """Although the planner expects a third of all keys in it."""
    for workspace_id, most in (("w0", 29_940), ("w1", 30)):
        plan = await counted(few, KeyFilter(WorkspaceId(workspace_id)))
        assert plan.rows_read("key") <= most, plan.scans("key")


REVOKED: dict[str, tuple[KeyFilter, int]] = {
    "unused": (wanted(unused_since=LONG_AGO), 0),
    "of a user": (wanted(user_ids=(UserId("u77"),)), 25),
    "with a label": (wanted(labels=("team=t7",)), 100),
    "of a rare type": (wanted(types=(KeyType.RUNTIME,)), 1_000),
}


@pytest.mark.parametrize("name", REVOKED)
async def test_keys_to_revoke_are_found_and_then_read_by_their_ids(full: asyncpg.Connection[Any], name: str) -> None:
    """Those that were not used for longest, a day at a time; and each again in the transaction that revokes it."""
    filters, most = REVOKED[name]
    unrevoked = replace(filters, states=(KeyState.ACTIVE, KeyState.MEMBER_REMOVED))
    *_, plan = await plans(
        full,
        lambda sql: key_revocations.find(sql, unrevoked, workspace_deleted=False, limit=LIMIT),
        "generic",
        analyze=True,
    )
    assert plan.rows_read("key") <= most + 3, plan.scans("key")
    ids = [key_id(number) for number in range(1, LIMIT)]
    origin = Origin(Caller("console", CallerRole.CONSOLE), None, "")
    found = await plans(
        full,
        lambda sql: key_revocations.revoke(sql, ids, unrevoked, workspace_deleted=False, reason="", origin=origin),
        "generic",
        analyze=True,
    )
    (update,) = [each for each in found if "UPDATE key" in each.query]
    assert "Seq Scan" not in update.kinds(), update
    assert update.rows_read("key") <= 3 * LIMIT, update.scans("key")
