"""Unused keys are found by an index, in any plan, however many keys there are."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.ids import KeyId, WorkspaceId
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.storage import unused_keys
from tests.support.many_keys import JIT_COST, assert_by_index, key_id
from tests.support.plans import Mode, plans, undone

if TYPE_CHECKING:
    import asyncpg

pytestmark = pytest.mark.stock_too(in_turn=True)

ACME = WorkspaceId("acme")
BY = Principal(PrincipalKind.POLICY, "revoke_unused_after")


@pytest.mark.parametrize("after", [None, key_id(15_000)])
async def test_a_search_reads_as_many_keys_as_it_looks_through(
    full: asyncpg.Connection[Any], after: KeyId | None
) -> None:
    """Those that are not revoked, in the order of an index; nothing of other workspaces. It asks for a generic plan."""
    (search,) = await plans(
        full, lambda sql: unused_keys.search(sql, ACME, timedelta(days=30), after, 100), "generic", analyze=True
    )
    assert_by_index([search])
    assert search.rows_read("key") == 100, search


async def test_a_search_goes_on_where_it_ended(full: asyncpg.Connection[Any]) -> None:
    """Each key that is not revoked is looked at once; the unused ones are named."""
    found, after, searches = [], None, 0
    while searches == 0 or after is not None:
        unused, after = await unused_keys.search(full, ACME, timedelta(seconds=-3600), after, 1900)
        found += unused
        searches += 1
    ids = await full.fetch("SELECT id FROM key WHERE workspace_id = 'acme' AND revoked_at IS NULL ORDER BY id")
    assert found == [row["id"] for row in ids]
    assert searches == len(ids) // 1900 + 1


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_keys_are_revoked_by_their_ids(full: asyncpg.Connection[Any], mode: Mode) -> None:
    """The events have no look-up."""
    ids = [key_id(number) for number in range(1, 500)]
    async with undone(full):
        await full.execute("UPDATE key SET last_used_at = now() - interval '100 days' WHERE id = ANY($1)", ids)
        change, *_ = await plans(
            full,
            lambda sql: unused_keys.revoke(sql, ACME, ids, timedelta(days=30), by=BY, reason=""),
            mode,
            analyze=True,
        )
        assert "Seq Scan" not in change.kinds(), change
        assert change.cost < JIT_COST, change
        assert change.rows_read("key") <= 3 * len(ids), change


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_workspaces_with_the_rule_are_found_by_index(full: asyncpg.Connection[Any], mode: Mode) -> None:
    """The others are not read."""
    async with undone(full):
        await full.execute("UPDATE workspace SET revoke_unused_after = '1 day' WHERE id IN ('w1', 'w2')")
        (search,) = await plans(
            full, lambda sql: unused_keys.workspaces_with_rule(sql, timedelta()), mode, analyze=True
        )
        assert "Seq Scan" not in search.kinds(), search
        assert search.rows_read("workspace") == 2, search
