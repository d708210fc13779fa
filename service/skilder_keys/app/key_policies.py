"""Hold keys to the key policy of their workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.domain.errors import DescriptionTakenError
from skilder_keys.domain.fields import quoted
from skilder_keys.domain.key_policy import NO_POLICY
from skilder_keys.domain.token import KeyType
from skilder_keys.storage import keys, policy_keys

if TYPE_CHECKING:
    from collections.abc import Collection
    from datetime import timedelta

    from skilder_keys.domain.ids import KeyId, WorkspaceId
    from skilder_keys.domain.key_policy import KeyPolicy
    from skilder_keys.domain.key_spec import KeySpec
    from skilder_keys.domain.key_update import KeyUpdate
    from skilder_keys.domain.keys import Key
    from skilder_keys.storage.database import Connection


async def hold(transaction: Connection, policy: KeyPolicy, spec: KeySpec, request: keys.IssueRequest | None) -> KeySpec:
    """Return a key to issue as the policy allows it: without an expiry it gets the longest lifetime.

    A retry of a request that has issued a key is let through, as it issues none.

    Args:
        transaction: Has locked the workspace, so that its policy stays.
        policy: The policy of the workspace.
        spec: The key.
        request: The request that issues it, if it may be retried.

    Raises:
        PolicyViolationError: The key would break a rule.
        DescriptionTakenError: Another key has its description.
    """
    if policy == NO_POLICY:
        return spec
    # All locks come first, and what is read after them is read when nobody else can change it. The order is that of all
    # transactions, so that no two wait for each other.
    user_id = spec.user_id if spec.type is KeyType.USER else None
    if policy.max_active_keys_per_user is not None and user_id is not None:
        await policy_keys.lock_user(transaction, spec.workspace_id, user_id)
    if policy.unique_descriptions:
        await policy_keys.lock_description(transaction, spec.workspace_id, spec.description)
    if request is not None and await policy_keys.is_issued(transaction, request):
        return spec
    policy.require_hats(spec.type, limited=spec.hat_ids is not None)
    spec = policy.limit_lifetime(spec, await keys.transaction_time(transaction))
    if policy.max_active_keys_per_user is not None and user_id is not None:
        policy.require_count(await policy_keys.count_of_user(transaction, spec.workspace_id, user_id))
    await _require_unique(transaction, policy, spec.workspace_id, spec.description, None)
    return spec


async def _require_unique(
    transaction: Connection, policy: KeyPolicy, workspace_id: WorkspaceId, description: str, family_id: KeyId | None
) -> None:
    if not policy.unique_descriptions:
        return
    other = await policy_keys.find_described(transaction, workspace_id, description, family_id)
    if other is not None:
        raise DescriptionTakenError(
            f"The key {other} has the description {quoted(description)}, and the key policy of the workspace requires"
            " each to be unique: choose another one.",
            key_id=str(other),
        )


async def hold_change(
    transaction: Connection, policy: KeyPolicy, key: Key, update: KeyUpdate, changed: Collection[str]
) -> None:
    """Check that what changes in a key keeps to the policy. What stays as it is need not.

    Args:
        transaction: Has locked the workspace, so that its policy stays.
        policy: The policy of the workspace.
        key: The key as it is.
        update: How it is to be.
        changed: The fields that will be different.

    Raises:
        PolicyViolationError: A change would break a rule.
        DescriptionTakenError: Another key has the new description.
    """
    if "expires_at" in changed:
        policy.require_lifetime(None if update.expires_at is None else update.expires_at - key.created_at)
    if "hat_limit" in changed:
        policy.require_hats(key.type, limited=update.hat_ids is not None)
    if "description" in changed and policy.unique_descriptions:
        await policy_keys.lock_description(transaction, key.workspace_id, update.description)
        await _require_unique(transaction, policy, key.workspace_id, update.description, key.family_id)


def hold_rotation(
    policy: KeyPolicy, predecessor: Key, lifetime: timedelta | None, *, is_stated: bool
) -> timedelta | None:
    """Return the lifetime of the successor of a key, as the policy allows it.

    It has the description of its predecessor, and counts as one key with it, so no other rule can be broken.

    Args:
        policy: The policy of the workspace.
        predecessor: The key that is rotated.
        lifetime: How long the successor would live; None for ever.
        is_stated: Whether the request says so. What follows from the predecessor is cut to what the policy allows.

    Raises:
        PolicyViolationError: The successor would break a rule.
    """
    policy.require_hats(predecessor.type, limited=predecessor.hat_ids is not None)
    if policy.max_lifetime is not None and not is_stated:
        return policy.max_lifetime if lifetime is None else min(lifetime, policy.max_lifetime)
    policy.require_lifetime(lifetime)
    return lifetime
