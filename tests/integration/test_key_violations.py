"""Keys that do not keep the present key policy are marked, and can be listed; they work all the same."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder.keys.v1.key_pb2 import (
    POLICY_RULE_MAX_ACTIVE_KEYS_PER_USER,
    POLICY_RULE_MAX_LIFETIME,
    POLICY_RULE_REQUIRE_HAT_LIMIT,
    POLICY_RULE_REVOKE_UNUSED_AFTER,
    POLICY_RULE_UNIQUE_DESCRIPTIONS,
    PolicyRule,
)
from skilder.keys.v1.key_service_pb2 import (
    KEY_ORDER_EXPIRES_NEXT,
    KEY_ORDER_LEAST_RECENTLY_USED,
    KeyFilter,
    RevokeKeysRequest,
)
from skilder.keys.v1.workspace_pb2 import KeyPolicy
from skilder_keys.domain.access import Caller, CallerRole, Origin
from skilder_keys.domain.ids import KeyId
from skilder_keys.rpc.convert_key_filters import key_filter
from skilder_keys.storage import key_revocations
from tests.support.calls import count_keys, delete_workspace, get_key, list_keys
from tests.support.lengths import by_form
from tests.support.plans import undone
from tests.support.rows import insert_key
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.updates import update
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from tests.support.service import Service

    Sql = asyncpg.Connection[Any]

pytestmark = GRPCIO_IF_SHORT

DAY = 86_400
RULES: list[Any] = [value.number for value in PolicyRule.DESCRIPTOR.values if value.number]
USER: dict[str, Any] = {"type": key_pb2.KEY_TYPE_USER, "user_id": "bob", "unlimited": [key_pb2.KEY_LIMIT_HATS]}
POLICIES = {
    POLICY_RULE_MAX_LIFETIME: KeyPolicy(max_lifetime=Duration(seconds=30 * DAY)),
    POLICY_RULE_REVOKE_UNUSED_AFTER: KeyPolicy(revoke_unused_after=Duration(seconds=30 * DAY)),
    POLICY_RULE_MAX_ACTIVE_KEYS_PER_USER: KeyPolicy(max_active_keys_per_user=1),
    POLICY_RULE_REQUIRE_HAT_LIMIT: KeyPolicy(require_hat_limit=True),
    POLICY_RULE_UNIQUE_DESCRIPTIONS: KeyPolicy(unique_descriptions=True),
}
"""For each rule, a policy with that one only."""


async def set_policy(service: Service, policy: KeyPolicy) -> None:
    """Set the policy of `acme`."""
    await update(service.operator, put=pb.WorkspaceParts(key_policy=policy))


async def violating(service: Service, *rules: Any, **more: Any) -> set[str]:
    """Return the ids of the keys that break one of some rules, as the list has them."""
    page = await list_keys(service.operator, filter=KeyFilter(violating=rules, **more), page_size=1000)
    return {key.id for key in page.keys}


async def revocable(sql: Sql, rule: Any) -> list[str]:
    """Return the ids of the keys of `acme` that a search by a rule revokes, if it is told to look at all of them."""
    ids = [KeyId(each["id"]) for each in await sql.fetch("SELECT id FROM key")]
    wanted = KeyFilter(violating=[rule])
    origin = Origin(Caller("console", CallerRole.CONSOLE), None, "")
    found = await key_revocations.revoke(
        sql, ids, key_filter("acme", wanted), workspace_deleted=False, reason="", origin=origin
    )
    return list(map(str, found))


async def marked(service: Service, rule: Any) -> set[str]:
    """Return the ids of the keys that are marked with a rule, of all keys."""
    page = await list_keys(service.operator, page_size=1000)
    for key in page.keys:
        assert await get_key(service.operator, key.id) == key
    return {key.id for key in page.keys if rule in key.violations}


def test_there_is_a_policy_for_each_rule() -> None:
    """So a new rule is tested here too."""
    assert list(POLICIES) == RULES


async def test_each_rule_marks_the_keys_that_break_it(service: Service, sql: Sql) -> None:
    """And no others; the list by that rule has the same ones, and no other rule has any."""
    issue = service.operator.issue
    plain = [(await issue(description=each)).key.id for each in ("One", "ONE", "Two")]
    limited = (
        await issue(description="Limited", hat_limit={"hat_ids": []}, lifetime=Duration(seconds=30 * DAY))
    ).key.id
    nearly = {"hat_limit": {"hat_ids": []}, "lifetime": Duration(seconds=30 * DAY, nanos=500_000)}
    await issue(description="Nearly", **nearly)
    await service.operator.rotate(limited)
    longer = (await issue(description="Longer", lifetime=Duration(seconds=30 * DAY, nanos=2_000_000))).key.id
    bobs = [(await issue(description=f"Bob {number}", **USER)).key.id for number in range(2)]
    former = (await issue(description="Cyd", **USER | {"user_id": "cyd"})).key.id
    cyds = (await service.operator.rotate(former)).key.id
    runtime = (await issue(description="R", type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="r-1")).key.id
    old = str(await insert_key(sql, description="Old", created_at=datetime.now(UTC) - timedelta(days=31)))
    revoked = (await issue(description="One")).key.id
    await service.operator.revoke(key_id=revoked)
    expected = {
        POLICY_RULE_MAX_LIFETIME: {*plain, longer, *bobs, cyds, old},
        POLICY_RULE_REVOKE_UNUSED_AFTER: {old},
        POLICY_RULE_MAX_ACTIVE_KEYS_PER_USER: set(bobs),
        POLICY_RULE_REQUIRE_HAT_LIMIT: {*plain, longer, old},
        POLICY_RULE_UNIQUE_DESCRIPTIONS: set(plain[:2]),
    }
    if (await get_key(service.operator, runtime)).HasField("expires_at"):
        expected[POLICY_RULE_MAX_LIFETIME] -= {runtime}
    else:
        expected[POLICY_RULE_MAX_LIFETIME] |= {runtime}
    for rule, policy in POLICIES.items():
        await set_policy(service, policy)
        assert await marked(service, rule) == expected[rule], PolicyRule.Name(rule)
        assert await violating(service, rule) == expected[rule], PolicyRule.Name(rule)
        assert await violating(service, *(set(RULES) - {rule})) == set()
    await set_policy(service, KeyPolicy())
    assert await violating(service, *RULES) == set()
    assert [await marked(service, rule) for rule in RULES] == [set()] * len(RULES)


async def test_keys_that_break_several_rules(service: Service) -> None:
    """All of them are named, in order; a filter takes any of its rules, with its other fields, and counts the same."""
    await service.operator.issue()
    await service.operator.issue()
    user = await service.operator.issue(**USER)
    policy = KeyPolicy(
        max_lifetime=Duration(seconds=DAY), require_hat_limit=True, unique_descriptions=True, max_active_keys_per_user=0
    )
    await set_policy(service, policy)
    page = await list_keys(service.operator, filter=KeyFilter(violating=RULES))
    assert [list(key.violations) for key in page.keys] == [
        [POLICY_RULE_MAX_LIFETIME, POLICY_RULE_MAX_ACTIVE_KEYS_PER_USER, POLICY_RULE_UNIQUE_DESCRIPTIONS],
        *[[POLICY_RULE_MAX_LIFETIME, POLICY_RULE_REQUIRE_HAT_LIMIT, POLICY_RULE_UNIQUE_DESCRIPTIONS]] * 2,
    ]
    assert await violating(service, POLICY_RULE_REQUIRE_HAT_LIMIT, POLICY_RULE_MAX_ACTIVE_KEYS_PER_USER) == {
        key.id for key in page.keys
    }
    of_bob = await list_keys(service.operator, filter=KeyFilter(violating=RULES, user_ids=["bob"]))
    assert [key.id for key in of_bob.keys] == [user.key.id]
    counted = await count_keys(service.operator, filter=KeyFilter(violating=RULES))
    assert {(each.type, each.count) for each in counted.counts} == {
        (key_pb2.KEY_TYPE_USER, 1),
        (key_pb2.KEY_TYPE_WORKSPACE, 2),
    }
    assert (await service.service.authorize(user.token)).HasField("granted")
    await delete_workspace(service.operator)
    assert not (await list_keys(service.operator, filter=KeyFilter(violating=RULES))).keys


async def assert_found_in_every_way(service: Service, sql: Sql, rule: Any, keys: set[str]) -> None:
    """Fail if a search by a rule does not find some keys in each way in which it looks for them."""
    bobs = await violating(service, user_ids=["bob"])
    assert await violating(service, rule, user_ids=["bob"]) == keys & bobs
    assert await violating(service, rule, text="key") == keys
    wanted = KeyFilter(violating=[rule])
    for order in (KEY_ORDER_LEAST_RECENTLY_USED, KEY_ORDER_EXPIRES_NEXT):
        page = await list_keys(service.operator, filter=wanted, order_by=order, page_size=1000)
        assert {key.id for key in page.keys} == keys
    counted = await count_keys(service.operator, filter=wanted)
    assert sum(each.count for each in counted.counts) == len(keys)
    async with undone(sql):
        assert set(await revocable(sql, rule)) == keys


@pytest.mark.parametrize("seed", range(by_form(1, 3, 10)))
async def test_the_list_and_the_marks_agree(service: Service, sql: Sql, seed: int) -> None:
    """For random keys and random policies: a key is in the list by a rule if, and only if, it is marked with it."""
    chance = random.Random(seed)  # noqa: S311 - chance, not a secret
    now = datetime.now(UTC)
    for _ in range(40):
        kind: dict[str, Any] = chance.choice([{}, {"type": "user", "user_id": chance.choice(["bob", "cyd"])}])
        created = now - timedelta(days=chance.randint(0, 60))
        more: dict[str, Any] = {"description": f"Key {chance.randint(0, 30)}", "created_at": created}
        if chance.random() < 0.3:
            more["expires_at"] = now + timedelta(days=chance.randint(-1, 60))
            more["expires_at"] = max(more["expires_at"], created + timedelta(seconds=1))
        if chance.random() < 0.3:
            more["last_used_at"] = now - timedelta(days=chance.randint(0, 60))
        if chance.random() < 0.2:
            more |= {"revoked_at": now, "revoked_by_kind": "user", "revoked_by_id": "ada", "revoke_reason": ""}
        await insert_key(sql, limited_to_hats=chance.random() < 0.5, **kind | more)
    for _ in range(by_form(2, 6)):
        policy = KeyPolicy(require_hat_limit=chance.random() < 0.5, unique_descriptions=chance.random() < 0.5)
        if chance.random() < 0.5:
            policy.max_lifetime.seconds = chance.randint(1, 100) * DAY
        if chance.random() < 0.5:
            policy.revoke_unused_after.seconds = chance.randint(1, 70) * DAY
        if chance.random() < 0.5:
            policy.max_active_keys_per_user = chance.randint(0, 15)
        await set_policy(service, policy)
        marks = {rule: await marked(service, rule) for rule in RULES}
        assert {rule: await violating(service, rule) for rule in RULES} == marks
        assert await violating(service, *RULES) == set().union(*marks.values())
        for rule, keys in marks.items():
            await assert_found_in_every_way(service, sql, rule, keys)


async def test_keys_that_break_a_rule_are_revoked(service: Service) -> None:
    """All of them: each of several with one description. A rule that the policy does not have revokes nothing."""
    ids = [(await service.operator.issue(description=each)).key.id for each in ("One", "one", "Two")]

    async def revoke(*rules: Any) -> int:
        request = RevokeKeysRequest(workspace_id="acme", filter=KeyFilter(violating=rules), max_keys=10)
        return int((await service.operator.keys.RevokeKeys(request)).key_count)

    assert await revoke(*RULES) == 0
    await set_policy(service, POLICIES[POLICY_RULE_UNIQUE_DESCRIPTIONS])
    assert await revoke(POLICY_RULE_REQUIRE_HAT_LIMIT) == 0
    assert await revoke(POLICY_RULE_UNIQUE_DESCRIPTIONS) == len(ids) - 1
    states = [(await get_key(service.operator, each)).state for each in ids]
    assert states == [key_pb2.KEY_STATE_REVOKED, key_pb2.KEY_STATE_REVOKED, key_pb2.KEY_STATE_ACTIVE]
    assert await revoke(POLICY_RULE_UNIQUE_DESCRIPTIONS) == 0


async def test_a_key_of_another_workspace_is_no_other_key(service: Service) -> None:
    """The rules compare keys of one workspace."""
    await service.operator.apply(small_workspace("other"))
    for workspace_id in ("acme", "other"):
        await service.operator.issue(workspace_id=workspace_id, **USER)
    await set_policy(service, KeyPolicy(unique_descriptions=True, max_active_keys_per_user=1))
    assert await violating(service, *RULES) == set()
