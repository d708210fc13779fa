"""Each management call of keys leaves what the key was and what it became, field by field."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import key_pb2, key_service_pb2
from skilder_keys.app.enums import AUDIT_ACTIONS
from skilder_keys.domain.audit_events import AuditAction
from tests.support.calls import list_events
from tests.support.transport import ONLY_GRPCIO

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.support.service import Service

EXPIRY = Timestamp(seconds=1_893_456_000)
AT = "a time"
ID = "an id"
ISSUED = {
    "type": (None, "user"),
    "description": (None, "Slack Support Bot"),
    "user_id": (None, "bob"),
    "hat_ids": (None, ["everyone"]),
    "labels": (None, {"team": "blue"}),
    "networks": (None, ["10.0.0.0/8"]),
    "expires_at": (None, "2030-01-01T00:00:00+00:00"),
}
REVOKED = {"revoked_at": (None, AT), "revoke_reason": (None, "Leaked")}


async def issue(service: Service) -> str:
    """Issue a key with everything that a key can have, and return its id."""
    issued = await service.operator.issue(
        type=key_pb2.KEY_TYPE_USER,
        user_id="bob",
        request_id="r",
        hat_limit={"hat_ids": ["everyone"]},
        labels={"team": "blue"},
        network_limit={"networks": ["10.0.0.0/8"]},
        expires_at=EXPIRY,
    )
    return str(issued.key.id)


async def update(service: Service, key_id: str) -> None:
    """Change each field that can be changed."""
    key = key_pb2.Key(id=key_id, description="New", labels={}, expires_at=Timestamp(seconds=1_893_542_400))
    key.hat_limit.hat_ids.append("engineer")
    key.network_limit.networks.append("192.0.2.0/24")
    request = key_service_pb2.UpdateKeyRequest(key=key)
    request.update_mask.paths.extend(["description", "labels", "expires_at", "hat_limit", "network_limit"])
    await service.operator.keys.UpdateKey(request)


async def suspend(service: Service, key_id: str) -> None:
    """Suspend the key."""
    await service.operator.keys.SuspendKey(key_service_pb2.SuspendKeyRequest(key_id=key_id, reason="Odd"))


async def resume(service: Service, key_id: str) -> None:
    """Suspend and resume the key."""
    await suspend(service, key_id)
    await service.operator.keys.ResumeKey(key_service_pb2.ResumeKeyRequest(key_id=key_id, reason="Fine"))


async def revoke(service: Service, key_id: str) -> None:
    """Revoke the key."""
    await service.operator.revoke(key_id=key_id, reason="Leaked")


async def revoke_family(service: Service, key_id: str) -> None:
    """Revoke the family of the key."""
    await service.operator.revoke(key_id=key_id, reason="Leaked", scope=key_service_pb2.REVOKE_SCOPE_FAMILY)


async def revoke_many(service: Service, key_id: str) -> None:
    """Revoke the keys with its label."""
    del key_id
    wanted: dict[str, Any] = {"workspace_id": "acme", "filter": {"labels": {"team": "blue"}}}
    request = key_service_pb2.RevokeKeysRequest(**wanted, max_keys=9, reason="Leaked")
    await service.operator.keys.RevokeKeys(request)


async def rotate(service: Service, key_id: str) -> None:
    """Rotate the key."""
    await service.operator.rotate(key_id, grace=Duration(seconds=60), lifetime=Duration(seconds=90))


async def renew(service: Service, key_id: str) -> None:
    """Issue the key once more."""
    assert await issue(service) == key_id


async def nothing(service: Service, key_id: str) -> None:
    """Leave the key as it was issued."""


CALLS: list[tuple[Callable[[Service, str], Awaitable[None]], AuditAction, dict[str, tuple[Any, Any]]]] = [
    (nothing, AuditAction.KEY_ISSUED, ISSUED),
    (renew, AuditAction.KEY_RENEWED, {"secret": (None, "replaced")}),
    (
        update,
        AuditAction.KEY_UPDATED,
        {
            "description": ("Slack Support Bot", "New"),
            "labels": ({"team": "blue"}, {}),
            "expires_at": ("2030-01-01T00:00:00+00:00", "2030-01-02T00:00:00+00:00"),
            "hat_limit": (["everyone"], ["engineer"]),
            "network_limit": (["10.0.0.0/8"], ["192.0.2.0/24"]),
        },
    ),
    (suspend, AuditAction.KEY_SUSPENDED, {"suspended_at": (None, AT), "suspend_reason": (None, "Odd")}),
    (resume, AuditAction.KEY_RESUMED, {"suspended_at": (AT, None), "suspend_reason": ("Odd", None)}),
    (revoke, AuditAction.KEY_REVOKED, REVOKED),
    (revoke_family, AuditAction.KEY_REVOKED, REVOKED),
    (revoke_many, AuditAction.KEY_REVOKED, REVOKED),
    (
        rotate,
        AuditAction.KEY_ROTATED,
        {
            "expires_at": ("2030-01-01T00:00:00+00:00", AT),
            "successor_id": (None, ID),
            "successor_expires_at": (None, AT),
        },
    ),
]


@ONLY_GRPCIO
@pytest.mark.parametrize(("call", "action", "expected"), CALLS, ids=[call.__name__ for call, *_ in CALLS])
async def test_what_the_key_was_and_became(
    service: Service,
    call: Callable[[Service, str], Awaitable[None]],
    action: AuditAction,
    expected: dict[str, tuple[Any, Any]],
) -> None:
    """Of every call that changes a key; a time is about now."""
    key_id = await issue(service)
    await call(service, key_id)
    events = (await list_events(service.auditor, filter={"key_id": key_id})).events
    newest = events[0]
    assert newest.action == AUDIT_ACTIONS[action]
    found: dict[str, tuple[Any, Any]] = {}
    for change in newest.changes:
        assert change.path not in found
        found[change.path] = (value(change.before), value(change.after))
    assert found == expected


def value(text: str) -> Any:
    """Return a value; in the place of a time about now or of an id, its name."""
    found = json.loads(text) if text else None
    if isinstance(found, str) and len(found) == len("00000000-0000-0000-0000-000000000000") and found.count("-") == 4:
        return ID
    try:
        moment = datetime.fromisoformat(str(found))
    except ValueError:
        return found
    return AT if abs((moment - datetime.now(UTC)).total_seconds()) < 120 else found


def test_every_action_of_a_key_is_here() -> None:
    """But for the purge, which erases what a key was, and changes by hand, which test_audit_by_hand.py has."""
    others = {AuditAction.KEY_PURGED, AuditAction.KEY_CHANGED}
    of_keys = {each for each in AuditAction if each.value.startswith("key.")}
    assert {action for _, action, _ in CALLS} == of_keys - others
