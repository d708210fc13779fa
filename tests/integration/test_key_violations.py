"""Keys that do not keep the present key policy are marked; they work all the same."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

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
from skilder.keys.v1.workspace_pb2 import KeyPolicy
from tests.support.calls import delete_workspace, get_key, list_keys
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
RULES = [value.number for value in PolicyRule.DESCRIPTOR.values if value.number]
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


async def marked(service: Service, rule: int) -> set[str]:
    """Return the ids of the keys that are marked with a rule, of all keys."""
    page = await list_keys(service.operator, page_size=1000)
    for key in page.keys:
        assert await get_key(service.operator, key.id) == key
    return {key.id for key in page.keys if rule in key.violations}


def test_there_is_a_policy_for_each_rule() -> None:
    """So a new rule is tested here too."""
    assert list(POLICIES) == RULES


async def test_each_rule_marks_the_keys_that_break_it(service: Service, sql: Sql) -> None:
    """And no others."""
    issue = service.operator.issue
    plain = [(await issue(description=each)).key.id for each in ("One", "ONE", "Two")]
    limited = (
        await issue(description="Limited", hat_limit={"hat_ids": []}, lifetime=Duration(seconds=30 * DAY))
    ).key.id
    longer = (await issue(description="Longer", lifetime=Duration(seconds=30 * DAY, nanos=2_000_000))).key.id
    bobs = [(await issue(description=f"Bob {number}", **USER)).key.id for number in range(2)]
    cyds = (await issue(description="Cyd", **USER | {"user_id": "cyd"})).key.id
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
    assert not limited.startswith("none")
    for rule, policy in POLICIES.items():
        await set_policy(service, policy)
        assert await marked(service, rule) == expected[rule], PolicyRule.Name(rule)
    await set_policy(service, KeyPolicy())
    assert [await marked(service, rule) for rule in RULES] == [set()] * len(RULES)


async def test_keys_that_break_several_rules(service: Service) -> None:
    """All of them are named, in order."""
    await service.operator.issue()
    await service.operator.issue()
    user = await service.operator.issue(**USER)
    policy = KeyPolicy(
        max_lifetime=Duration(seconds=DAY), require_hat_limit=True, unique_descriptions=True, max_active_keys_per_user=0
    )
    await set_policy(service, policy)
    page = await list_keys(service.operator)
    assert [list(key.violations) for key in page.keys] == [
        [POLICY_RULE_MAX_LIFETIME, POLICY_RULE_MAX_ACTIVE_KEYS_PER_USER, POLICY_RULE_UNIQUE_DESCRIPTIONS],
        *[[POLICY_RULE_MAX_LIFETIME, POLICY_RULE_REQUIRE_HAT_LIMIT, POLICY_RULE_UNIQUE_DESCRIPTIONS]] * 2,
    ]
    assert (await service.service.authorize(user.token)).HasField("granted")
    await delete_workspace(service.operator)
    assert not any(key.violations for key in (await list_keys(service.operator)).keys)


async def test_a_key_of_another_workspace_is_no_other_key(service: Service) -> None:
    """The rules compare keys of one workspace."""
    await service.operator.apply(small_workspace("other"))
    for workspace_id in ("acme", "other"):
        await service.operator.issue(workspace_id=workspace_id, **USER)
    await set_policy(service, KeyPolicy(unique_descriptions=True, max_active_keys_per_user=1))
    assert [await marked(service, rule) for rule in RULES] == [set()] * len(RULES)
