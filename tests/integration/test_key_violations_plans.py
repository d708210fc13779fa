"""Searches for keys that break the key policy read those of one workspace, each rule once, and few to find few."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.access import Caller, CallerRole, Origin
from skilder_keys.domain.ids import RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.key_filter import KeyCounts, KeyFilter, KeyListing, KeyOrder
from skilder_keys.domain.key_policy import PolicyRule
from skilder_keys.domain.token import KeyType, hint
from skilder_keys.storage import key_lists, key_revocations
from tests.support.many_keys import LIMIT, key_id
from tests.support.plans import plans, undone
from tests.support.together import TOGETHER_IF_SHORT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from tests.support.plans import Plan

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too(in_turn=True)

ALL_KEYS = 20_000
"""The keys of `acme`. The other workspaces have 4,000."""
STRICT = """
max_lifetime = '1 day', revoke_unused_after = '1 day', require_hat_limit = true, max_active_keys_per_user = 0,
unique_descriptions = true
"""
LOOSE = """
max_lifetime = '3000 days', revoke_unused_after = '3000 days', require_hat_limit = true,
max_active_keys_per_user = 10000, unique_descriptions = true
"""
RULES = tuple(PolicyRule)
COMPARING = (PolicyRule.MAX_ACTIVE_KEYS_PER_USER, PolicyRule.UNIQUE_DESCRIPTIONS)


def breaking(*rules: PolicyRule, **fields: Any) -> KeyFilter:
    """Return a filter of the keys of `acme` that break one of some rules."""
    return KeyFilter(WorkspaceId("acme"), violating=rules, **fields)


@asynccontextmanager
async def policy(sql: Sql, rules: str) -> AsyncIterator[None]:
    """Have a key policy in the block."""
    async with undone(sql):
        await sql.execute(f"UPDATE workspace SET {rules} WHERE id = 'acme'")  # noqa: S608 - constants
        yield


async def page(sql: Sql, filters: KeyFilter, order: KeyOrder = KeyOrder.NEWEST) -> Plan:
    """Return the plan of a page after running it."""
    *_, plan = await plans(
        sql,
        lambda connection: key_lists.list_page(
            connection, KeyListing(filters, order), workspace_deleted=False, after=None, limit=LIMIT - 1
        ),
        "generic",
        analyze=True,
    )
    assert "Seq Scan" not in plan.kinds() or plan.scans("key") == [], plan
    return plan


async def counted(sql: Sql, filters: KeyFilter) -> Plan:
    """Return the plan of a count after running it."""
    *_, plan = await plans(
        sql, lambda connection: key_lists.count(connection, filters, workspace_deleted=False), "generic", analyze=True
    )
    return plan


@pytest.mark.parametrize("rule", [PolicyRule.MAX_LIFETIME, PolicyRule.REQUIRE_HAT_LIMIT])
async def test_a_page_of_a_rule_that_most_keys_break_reads_few(full: Sql, rule: PolicyRule) -> None:
    """As it ends when it is full."""
    async with policy(full, STRICT):
        plan = await page(full, breaking(rule))
    assert plan.rows_read("key") <= 4 * LIMIT, plan.scans("key")


@pytest.mark.parametrize("order", KeyOrder)
@pytest.mark.parametrize("rules", [STRICT, LOOSE], ids=["strict", "loose"])
@pytest.mark.parametrize("rule", PolicyRule)
@TOGETHER_IF_SHORT
async def test_a_page_reads_the_keys_of_the_workspace_twice(
    full: Sql, rule: PolicyRule, rules: str, order: KeyOrder
) -> None:
    """At most, for what it shows and for where it ends; and once more, all together, where a rule compares them."""
    async with policy(full, rules):
        plan = await page(full, breaking(rule), order)
    most = ALL_KEYS * (3 if rule in COMPARING else 2)
    assert plan.rows_read("key") <= most + LIMIT, plan.scans("key")


async def test_all_rules_together_read_the_keys_three_times(full: Sql) -> None:
    """To look at each, and for each of the two rules that compare them: into hash tables, with any setting."""
    async with policy(full, STRICT):
        await full.execute("SET LOCAL work_mem = '64kB'")
        # A page looks the description of each key up by itself.
        for plan, hashed in ((await page(full, breaking(*RULES)), 1), (await counted(full, breaking(*RULES)), 2)):
            assert plan.rows_read("key") <= 3 * ALL_KEYS + LIMIT, plan.scans("key")
            filters = " ".join(node.get("Filter", "") for node in plan.nodes())
            assert filters.count("hashed SubPlan") >= hashed, plan


NARROW: dict[str, tuple[dict[str, Any], int]] = {
    "of a user": ({"user_ids": (UserId("u77"),)}, 25),
    "of some users": ({"user_ids": (UserId("u77"), UserId("u78")), "types": (KeyType.USER,)}, 50),
    "of a runtime": ({"runtime_ids": (RuntimeId("r51"),)}, 1),
    "with a hint": ({"hint": hint(KeyType.WORKSPACE, key_id(10_002))}, 1),
}


@pytest.mark.parametrize("name", NARROW)
async def test_of_few_keys_only_those_are_compared(full: Sql, name: str) -> None:
    """By description each by itself: with one other key, which an index finds. By user only the keys of these users."""
    fields, keys = NARROW[name]
    async with policy(full, STRICT):
        for rule in RULES:
            if name == "with a hint" and rule is PolicyRule.MAX_ACTIVE_KEYS_PER_USER:
                continue
            plan = await page(full, breaking(rule, **fields))
            assert plan.rows_read("key") <= 4 * keys, (rule, plan.scans("key"))


@pytest.mark.parametrize("rules", [(), COMPARING, (PolicyRule.REQUIRE_HAT_LIMIT,)])
async def test_rules_that_the_policy_does_not_have_read_no_key(full: Sql, rules: tuple[PolicyRule, ...]) -> None:
    """Only the workspace is read."""
    asked: list[Any] = []
    async with policy(full, "max_lifetime = '1 day'"):
        with full.query_logger(asked.append):
            found = await key_lists.list_page(
                full,
                KeyListing(breaking(*rules), KeyOrder.NEWEST),
                workspace_deleted=False,
                after=None,
                limit=LIMIT,
            )
            assert (found, await key_lists.count(full, breaking(*rules), workspace_deleted=False)) == (
                ([], None),
                KeyCounts((), partial=False),
            )
    assert all("FROM workspace" in each.query for each in asked)


@pytest.mark.parametrize("rule", PolicyRule)
async def test_keys_to_revoke_are_read_by_their_ids(full: Sql, rule: PolicyRule) -> None:
    """Each is looked at by itself in the transaction that revokes it."""
    origin = Origin(Caller("console", CallerRole.CONSOLE), None, "")
    ids = [key_id(number) for number in range(1, LIMIT)]
    async with policy(full, STRICT):
        found = await plans(
            full,
            lambda sql: key_revocations.revoke(
                sql, ids, breaking(rule), workspace_deleted=False, reason="", origin=origin
            ),
            "generic",
            analyze=True,
        )
    (update,) = [each for each in found if "UPDATE key" in each.query]
    assert "Seq Scan" not in update.kinds(), update
    assert update.rows_read("key") <= 3 * LIMIT, update.scans("key")
