"""What the key policy of a workspace refuses, and the lifetimes that it gives, in the plain model of keys."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.workspace_pb2 import KeyPolicy

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from tests.support.life.model import KeyModel, ModelKey

RUNTIME_LIFETIME = timedelta(days=30)
"""How long a runtime key lives if nothing else is said."""


def policy_of(model: KeyModel, workspace_id: str) -> KeyPolicy:
    """Return the key policy of a workspace; that of a deleted one has no rules."""
    workspace = model.workspaces.get(workspace_id)
    return KeyPolicy() if workspace is None else workspace.key_policy


def longest(policy: KeyPolicy) -> timedelta | None:
    """Return the longest lifetime that a policy allows, or None."""
    return policy.max_lifetime.ToTimedelta() if policy.HasField("max_lifetime") else None


def lifetime_at_issue(policy: KeyPolicy, type_: int, stated: timedelta | None) -> timedelta | None:
    """Return how long a new key lives; None for ever."""
    usual = RUNTIME_LIFETIME if type_ == key_pb2.KEY_TYPE_RUNTIME else None
    return stated or _shorter(usual, longest(policy))


def lifetime_of_successor(policy: KeyPolicy, key: ModelKey, stated: timedelta | None) -> timedelta | None:
    """Return how long the successor of a key lives; None for ever."""
    return stated or _shorter(planned_lifetime(key), longest(policy))


def planned_lifetime(key: ModelKey) -> timedelta | None:
    """Return how long a key was to live before it was rotated; None for ever."""
    if key.planned_end is not None:
        return key.planned_end - key.created_at
    return RUNTIME_LIFETIME if key.type == key_pb2.KEY_TYPE_RUNTIME else None


def refuse_new(model: KeyModel, wanted: Mapping[str, Any], now: datetime) -> str:
    """Return why a policy refuses a new key with these values, as ErrorReason says it, or an empty text."""
    policy = policy_of(model, wanted["workspace_id"])
    keys = [key for key in model.keys.values() if key.workspace_id == wanted["workspace_id"] and key.is_live(now)]
    if _lacks_hats(policy, wanted["type"], wanted.get("hats")) or _is_too_long(policy, wanted["lifetime"]):
        return "POLICY_VIOLATION"
    if policy.HasField("max_active_keys_per_user") and wanted.get("user_id"):
        families = {key.family_id for key in keys if key.user_id == wanted["user_id"]}
        if len(families) >= policy.max_active_keys_per_user:
            return "POLICY_VIOLATION"
    if policy.unique_descriptions and any(key.description == wanted["description"] for key in keys):
        return "DESCRIPTION_TAKEN"
    return ""


def refuse_change(model: KeyModel, key: ModelKey, new: Mapping[str, Any], now: datetime) -> str:
    """Return why a policy refuses new values of a key, or an empty text. What stays as it is is never refused."""
    policy, most = policy_of(model, key.workspace_id), longest(policy_of(model, key.workspace_id))
    changed = {name: value for name, value in new.items() if value != getattr(key, name)}
    if "expires_at" in changed and most is not None:
        ends = changed["expires_at"]
        if ends is None or ends - key.created_at > most:
            return "POLICY_VIOLATION"
    if "hats" in changed and _lacks_hats(policy, key.type, changed["hats"]):
        return "POLICY_VIOLATION"
    if "description" in changed and policy.unique_descriptions:
        others = [each for each in model.keys.values() if each.family_id != key.family_id and each.is_live(now)]
        if any((each.workspace_id, each.description) == (key.workspace_id, new["description"]) for each in others):
            return "DESCRIPTION_TAKEN"
    return ""


def refuse_successor(model: KeyModel, key: ModelKey, stated: timedelta | None) -> str:
    """Return why a policy refuses a successor of a key, or an empty text."""
    policy = policy_of(model, key.workspace_id)
    is_refused = _lacks_hats(policy, key.type, key.hats) or _is_too_long(policy, stated)
    return "POLICY_VIOLATION" if is_refused else ""


def _lacks_hats(policy: KeyPolicy, type_: int, hats: object) -> bool:
    return policy.require_hat_limit and type_ == key_pb2.KEY_TYPE_WORKSPACE and hats is None


def _is_too_long(policy: KeyPolicy, stated: timedelta | None) -> bool:
    most = longest(policy)
    return most is not None and stated is not None and stated > most


def _shorter(one: timedelta | None, other: timedelta | None) -> timedelta | None:
    return min((each for each in (one, other) if each is not None), default=None)
