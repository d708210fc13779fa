"""Lists and counts of keys look at a bounded number of keys, so pages may be short, and counts lower bounds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.domain.key_filter import KeyFilter, KeyListing, KeyOrder
from skilder_keys.domain.key_policy import PolicyRule
from skilder_keys.domain.keys import KeyLimit, KeyState
from skilder_keys.domain.token import KeyType
from skilder_keys.storage import key_lists, key_search
from tests.support.lengths import LONGEST
from tests.support.plans import undone
from tests.support.rows import NO_HASH, insert
from tests.support.together import TOGETHER_IF_SHORT

if TYPE_CHECKING:
    import asyncpg

    Sql = asyncpg.Connection[Any]

KEYS = 75
# Of two users, one of whom has left. A seventh is suspended, a fifth revoked, a third was used, a fourth expires.
ROWS = """
INSERT INTO key (id, type, workspace_id, user_id, runtime_id, description, secret_hash, limited_to_hats, networks,
                 created_at, created_by_kind, created_by_id, last_used_at, expires_at,
                 suspended_at, suspended_by_kind, suspended_by_id, suspend_reason,
                 revoked_at, revoked_by_kind, revoked_by_id, revoke_reason)
SELECT ('0198c2f4-7c3e-7000-8000-' || lpad(to_hex(n * 7919 % 1000), 12, '0'))::uuid, type, 'acme',
       CASE WHEN type = 'user' THEN 'u' || n % 2 END, CASE WHEN type = 'runtime' THEN 'r' || n END,
       CASE WHEN n IN (4, 70) THEN 'Twin' ELSE 'Bot ' || n END, $1, false,
       CASE WHEN n % 11 = 0 THEN '{10.0.0.0/8}'::cidr[] END,
       now() - interval '100 days', 'caller', 'tests', CASE WHEN n % 3 = 0 THEN now() - make_interval(days => n) END,
       CASE WHEN n % 4 = 0 THEN now() + make_interval(days => n - 30) END,
       CASE WHEN n % 7 = 0 THEN now() END, CASE WHEN n % 7 = 0 THEN 'user' END,
       CASE WHEN n % 7 = 0 THEN 'ada' END, CASE WHEN n % 7 = 0 THEN '' END,
       CASE WHEN n % 5 = 0 THEN now() END, CASE WHEN n % 5 = 0 THEN 'user' END,
       CASE WHEN n % 5 = 0 THEN 'ada' END, CASE WHEN n % 5 = 0 THEN '' END
FROM (SELECT n, (ARRAY['user', 'workspace', 'runtime'])[1 + n % 3] AS type
      FROM generate_series(1, $2::int) AS n) AS made
"""
POLICY = "UPDATE workspace SET unique_descriptions = true, max_lifetime = '110 days', max_active_keys_per_user = 9"


def wanted(**fields: Any) -> KeyFilter:
    """Return a filter of the keys of `acme`."""
    return KeyFilter(WorkspaceId("acme"), **fields)


FILTERS = {
    "all": wanted(),
    "suspended": wanted(states=(KeyState.SUSPENDED,)),
    "revoked or suspended": wanted(states=(KeyState.REVOKED, KeyState.SUSPENDED)),
    "of those who left": wanted(states=(KeyState.MEMBER_REMOVED,)),
    "unused": wanted(unused_since=datetime.now(UTC) - timedelta(days=40)),
    "with networks, of types": wanted(types=(KeyType.USER, KeyType.RUNTIME), unlimited=(KeyLimit.EXPIRY,)),
    "of users, suspended": wanted(user_ids=(UserId("u0"), UserId("u1")), states=(KeyState.SUSPENDED,)),
    "expiring, suspended": wanted(expires_after=datetime(2000, 1, 1, tzinfo=UTC), states=(KeyState.SUSPENDED,)),
    "with a word, suspended": wanted(text="bot", states=(KeyState.SUSPENDED,)),
    "with a word": wanted(text="bot"),
    "with a word of few": wanted(text="twin"),
    "with a word, of users": wanted(text="bot", user_ids=(UserId("u0"), UserId("u1"))),
    "with a word, expiring": wanted(text="bot", expires_after=datetime(2000, 1, 1, tzinfo=UTC)),
    "violating": wanted(violating=(PolicyRule.UNIQUE_DESCRIPTIONS, PolicyRule.MAX_LIFETIME)),
    "of users with too many": wanted(violating=(PolicyRule.MAX_ACTIVE_KEYS_PER_USER,)),
    "none": wanted(violating=(PolicyRule.MAX_ACTIVE_KEYS_PER_USER,), types=(KeyType.WORKSPACE,)),
}


@pytest.fixture
async def filled(sql: Sql) -> Sql:
    """A workspace with a policy, and with keys of every kind."""
    await insert(sql, "workspace", id="acme", name="Acme", version=1)
    await insert(sql, "member", workspace_id="acme", user_id="u0", role="viewer")
    await sql.execute(POLICY)
    await sql.execute(ROWS, NO_HASH, KEYS)
    return sql


async def listed(sql: Sql, key_filter: KeyFilter, order: KeyOrder, limit: int) -> tuple[list[object], int]:
    """Return the ids of all keys of a list, and on how many pages they were."""
    ids: list[object] = []
    after, pages = None, 0
    while True:
        async with undone(sql):
            page = await key_lists.list_page(
                sql, KeyListing(key_filter, order), workspace_deleted=False, after=after, limit=limit
            )
        pages += 1
        ids += [each.key.id for each in page.keys]
        after = page.end
        if after is None:
            return ids, pages


@pytest.mark.parametrize("order", KeyOrder)
@pytest.mark.parametrize("name", FILTERS)
@TOGETHER_IF_SHORT
async def test_short_pages_have_the_same_keys_in_the_same_order(
    filled: Sql, monkeypatch: pytest.MonkeyPatch, name: str, order: KeyOrder
) -> None:
    """However few keys a page looks at, and however many it shows. A page may be empty; the last one has no end.

    Only the longest form tries each size with each; else filters and orders take the sizes in turn.
    """
    expected, pages = await listed(filled, FILTERS[name], order, KEYS)
    assert pages == 1
    assert bool(expected) == (name != "none")
    sizes = ((2, KEYS), (7, 1), (50, 4))
    turn = (list(FILTERS).index(name) + list(KeyOrder).index(order)) % len(sizes)
    for most, limit in sizes if LONGEST else (sizes[turn],):
        with monkeypatch.context() as patched:
            patched.setattr(key_lists, "MOST_READ", most)
            patched.setattr(key_lists, "MOST_SORTED", most)
            found, pages = await listed(filled, FILTERS[name], order, limit)
        assert found == expected, (most, limit)
        assert pages <= KEYS + 1, (most, limit)


async def test_few_keys_are_looked_at_for_a_page(filled: Sql, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a page without a key comes with where the next one begins."""
    monkeypatch.setattr(key_lists, "MOST_READ", 5)
    _, pages = await listed(filled, FILTERS["none"], KeyOrder.NEWEST, KEYS)
    assert pages > KEYS / 3 / 5, "only a third of the keys is of the type"


@pytest.mark.parametrize("name", ["all", "suspended", "unused", "with a word, suspended", "violating"])
async def test_a_count_that_takes_too_long_is_a_lower_bound(
    filled: Sql, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """It says so, and looks at some of the keys. What bulk revocation counts is exact, or the call fails."""

    async def counted(*, exactly: bool = False) -> tuple[int, bool]:
        async with undone(filled):
            found = await key_lists.count(filled, FILTERS[name], workspace_deleted=False, exactly=exactly)
        return sum(each.count for each in found.counts), found.partial

    exact = await counted()
    assert exact == (len((await listed(filled, FILTERS[name], KeyOrder.NEWEST, KEYS))[0]), False)
    # Whatever the machine does in a millisecond: every statement waits.
    await filled.execute("CREATE FUNCTION nap(text) RETURNS text LANGUAGE sql AS 'SELECT $1 FROM pg_sleep(0.05)'")
    monkeypatch.setattr(key_lists, "_PATIENCE", "1ms")

    async def slow(*arguments: Any, **options: Any) -> Any:
        search = await key_search.search_for(*arguments, **options)
        search.state = f"nap({search.state})"
        return search

    monkeypatch.setattr(key_lists, "search_for", slow)
    monkeypatch.setattr(key_lists, "MOST_COUNTED_OF", KEYS)
    assert await counted() == (exact[0], True)
    assert await counted(exactly=True) == exact
    monkeypatch.setattr(key_lists, "MOST_COUNTED_OF", 1)
    assert (await counted())[0] <= 3
