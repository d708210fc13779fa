"""The rows of keys: their columns in SQL, of tables `key`, `key_hat` and others, and the keys that are made of them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from skilder_keys.domain.ids import HatId, KeyId, RuntimeId, UserId, WorkspaceId
from skilder_keys.domain.key_policy import PolicyRule
from skilder_keys.domain.keys import MAX_NAMED_HATS, Key, Revocation, Suspension
from skilder_keys.domain.labels import labels_of
from skilder_keys.domain.networks import sorted_networks
from skilder_keys.domain.token import KeyType
from skilder_keys.storage import principals

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

# A scalar subquery, unlike EXISTS, prevents a hash table of all members.
IS_MEMBER = """
    ((SELECT true FROM member
      WHERE member.workspace_id = key.workspace_id AND member.user_id = key.user_id) IS NOT NULL)
"""

# The columns that `key_of` needs, without `workspace_deleted` and `successor_id`. Only constants are put into SQL in
# this way, never a value. A key never names more hats than the LIMIT; without the LIMIT and without statistics,
# Postgres would expect thousands of them.
# Whether a key has expired is the same for all keys of a statement, so a list shows what its filter has found.
OWN_COLUMNS = f"""
    key.id, key.type, key.workspace_id, key.user_id, key.runtime_id, key.description, key.limited_to_hats,
    key.created_at, key.created_by_kind, key.created_by_id, key.last_used_at,
    key.revoked_at, key.revoked_by_kind, key.revoked_by_id, key.revoke_reason, key.labels,
    key.networks, key.expires_at, coalesce(key.expires_at <= statement_timestamp(), false) AS expired,
    key.suspended_at, key.suspended_by_kind, key.suspended_by_id, key.suspend_reason,
    coalesce(key.family_id, key.id) AS family_id, key.predecessor_id,
    key.version, coalesce(key.updated_at, key.revoked_at, key.created_at) AS updated_at,
    array(SELECT hat_id FROM key_hat WHERE key_hat.key_id = key.id LIMIT {MAX_NAMED_HATS}) AS hat_ids,
    {IS_MEMBER} AS user_is_member
"""  # noqa: S608
KEY_COLUMNS = f"""
    {OWN_COLUMNS},
    (SELECT deleted_at FROM workspace WHERE workspace.id = key.workspace_id) IS NOT NULL AS workspace_deleted,
    (SELECT successor.id FROM key AS successor WHERE successor.predecessor_id = key.id
     ORDER BY successor.id DESC LIMIT 1) AS successor_id,
    (SELECT true FROM key AS successor
     WHERE successor.predecessor_id = key.id AND num_nulls(successor.revoked_at) = 1
       AND (successor.expires_at > statement_timestamp()) IS NOT false LIMIT 1) IS NOT NULL AS has_live_successor,
    CASE WHEN (
        SELECT num_nonnulls(max_lifetime, revoke_unused_after, max_active_keys_per_user) > 0
               OR require_hat_limit OR unique_descriptions
        FROM workspace WHERE workspace.id = key.workspace_id
    ) THEN key_violations(key) END AS violations,
    (SELECT host(key_use.source_ip) FROM key_use WHERE key_use.key_id = key.id) AS last_source_ip
"""  # noqa: S608


def key_of(row: asyncpg.Record) -> Key:
    """Return the key in a row with `KEY_COLUMNS`."""
    revocation = None
    if row["revoked_at"] is not None:
        revocation = Revocation(row["revoked_at"], principals.principal_in(row, "revoked_by"), row["revoke_reason"])
    suspension = None
    if row["suspended_at"] is not None:
        by = principals.principal_in(row, "suspended_by")
        suspension = Suspension(row["suspended_at"], by, row["suspend_reason"])
    return Key(
        id=KeyId(row["id"]),
        type=KeyType(row["type"]),
        workspace_id=WorkspaceId(row["workspace_id"]),
        user_id=None if row["user_id"] is None else UserId(row["user_id"]),
        runtime_id=None if row["runtime_id"] is None else RuntimeId(row["runtime_id"]),
        description=row["description"],
        hat_ids=tuple(map(HatId, sorted(row["hat_ids"]))) if row["limited_to_hats"] else None,
        created_at=row["created_at"],
        created_by=principals.principal_in(row, "created_by"),
        last_used_at=row["last_used_at"],
        revocation=revocation,
        workspace_deleted=row["workspace_deleted"],
        user_is_member=row["user_is_member"],
        networks=None if row["networks"] is None else sorted_networks(row["networks"]),
        expires_at=row["expires_at"],
        expired=row["expired"],
        suspension=suspension,
        version=row["version"],
        updated_at=row["updated_at"],
        labels=() if row["labels"] == "{}" else labels_of(json.loads(row["labels"])),
        family_id=KeyId(row["family_id"]),
        predecessor_id=_key_id(row["predecessor_id"]),
        successor_id=_key_id(row["successor_id"]),
        has_live_successor=bool(row.get("has_live_successor")),
        violations=tuple(map(PolicyRule, row.get("violations") or ())),
        last_source_ip=row.get("last_source_ip") or "",
    )


def _key_id(value: UUID | None) -> KeyId | None:
    return None if value is None else KeyId(value)


def present(row: asyncpg.Record | None) -> asyncpg.Record:
    """Return a row that must be there."""
    if row is None:
        raise LookupError("a row that this transaction has just seen is gone")
    return row
