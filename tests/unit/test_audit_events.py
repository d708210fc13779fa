"""What an event of the audit trail says, also if the database has replaced what was too long by its SHA-256."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from skilder_keys.domain.audit_events import AuditEvent
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.rpc.convert_events import event_message

_LONG = {"bytes": 300_000, "sha256": "ab" * 32}


def message(action: str, details: dict[str, Any]) -> tuple[str, list[tuple[str, str, str]]]:
    """Return the reason and the changes of an event as the API has them."""
    at = datetime(2026, 1, 1, tzinfo=UTC)
    event = AuditEvent(
        1, WorkspaceId("acme"), None, at, action, None, "gateway", None, "", json.dumps(details), None, None, None
    )
    found = event_message(event)
    return found.reason, [(each.path, each.before, each.after) for each in found.changes]


@pytest.mark.parametrize(
    ("details", "expected"),
    [
        ({"diff": [["hat.a.name", "A", None]], "changes": {"hat": {"updated": ["a"]}}}, [("hat.a.name", '"A"', "")]),
        ({"changes": {"description": ["old", "new"]}}, [("description", '"old"', '"new"')]),
        ({"changes": {"hat": {"added": ["a"], "removed": []}}}, [("hat.added", "", '["a"]')]),
        ({"diff": _LONG | {"count": 9}}, [("diff", "", json.dumps(_LONG | {"count": 9}))]),
        ({"changes": _LONG}, [("changes", "", json.dumps(_LONG))]),
        ({"changes": {"hat": _LONG}}, [("hat", "", json.dumps(_LONG))]),
        ({"changes": {"hat": {"added": _LONG}}}, [("hat.added", "", json.dumps(_LONG))]),
        (_LONG, [("bytes", "", "300000"), ("sha256", "", f'"{"ab" * 32}"')]),
    ],
)
def test_the_changes_of_an_event(details: dict[str, Any], expected: list[tuple[str, str, str]]) -> None:
    """Each with its field, and the values before and after as JSON."""
    assert message("workspace.updated", details) == ("", expected)


def test_a_reason_is_a_text() -> None:
    """Whatever the database has there."""
    assert message("key.revoked", {"reason": "lost"}) == ("lost", [])
    assert message("key.revoked", {"reason": _LONG}) == (json.dumps(_LONG), [])
