"""Keys as the domain has them, for tests that need no database."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.keys import Key
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.domain.token import KeyType
from tests.support.ids import new_key_id


def plain_key(**fields: Any) -> Key:
    """Return a key with these fields; by default a workspace key of `acme` without any limit, never used or changed."""
    created_at = fields.get("created_at", datetime(2026, 1, 1, tzinfo=UTC))
    key_id = fields.get("id", new_key_id())
    defaults: dict[str, Any] = {
        "id": key_id,
        "type": KeyType.WORKSPACE,
        "workspace_id": WorkspaceId("acme"),
        "user_id": None,
        "runtime_id": None,
        "description": "a key",
        "hat_ids": None,
        "created_at": created_at,
        "created_by": Principal(PrincipalKind.USER, "ada"),
        "last_used_at": None,
        "revocation": None,
        "workspace_deleted": False,
        "user_is_member": False,
        "networks": None,
        "expires_at": None,
        "expired": False,
        "suspension": None,
        "version": 1,
        "updated_at": created_at,
        "labels": (),
        "family_id": key_id,
        "predecessor_id": None,
        "successor_id": None,
        "violations": (),
    }
    return Key(**defaults | fields)
