"""Events of the audit trail, and filters of them."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from skilder_keys.domain.audit_chain import ChainedEvent
from skilder_keys.domain.fields import MAX_FOREIGN_ID, Violations, quoted
from skilder_keys.domain.ids import KeyId, UserId, WorkspaceId
from skilder_keys.domain.key_filter import MAX_FILTER_VALUES
from skilder_keys.domain.principal import Principal, PrincipalKind

_KEY_ID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# Fields of an event's details that are no change: whose key it is, why, and the changes themselves.
_NO_CHANGES = {"user_id", "runtime_id", "reason", "diff", "changes"}


class AuditAction(Enum):
    """What was done. The values are those in the database."""

    KEY_ISSUED = "key.issued"
    KEY_RENEWED = "key.renewed"
    KEY_ROTATED = "key.rotated"
    KEY_UPDATED = "key.updated"
    KEY_SUSPENDED = "key.suspended"
    KEY_RESUMED = "key.resumed"
    KEY_REVOKED = "key.revoked"
    KEY_PURGED = "key.purged"
    KEY_CHANGED = "key.changed"
    WORKSPACE_APPLIED = "workspace.applied"
    WORKSPACE_UPDATED = "workspace.updated"
    WORKSPACE_DELETED = "workspace.deleted"
    WORKSPACE_CHANGED = "workspace.changed"
    AUDIT_ANCHORED = "audit.anchored"
    AUDIT_PRUNED = "audit.pruned"


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field that is different after an event.

    Attributes:
        path: The field.
        before: Its value before, in JSON; empty if there was none.
        after: Its value after, in JSON; empty if there is none.
    """

    path: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class AuditEvent:
    """Something that was done, as the database has it.

    Attributes:
        id: Its position among all events of its workspace, also those without a number.
        number: Its number in its workspace; None for an event from before events had numbers.
        action: What was done; a later version may know more actions than this one.
        actor: The person on whose behalf it was done; None without one.
        peer: The network address of the caller.
        details: What else there is to know, in the spelling of Postgres. It may be long, so `about` parses it only when
            it is needed.
        salt: None without a number, and if the actor, the peer and the details were erased.
        private_digest: What was computed of them before they were erased; else None.
        hash: None without a number.
    """

    id: int
    workspace_id: WorkspaceId
    number: int | None
    at: datetime
    action: str
    key_id: KeyId | None
    caller: str
    actor: str | None
    peer: str
    details: str
    salt: bytes | None
    private_digest: bytes | None
    hash: bytes | None

    @property
    def chained(self) -> ChainedEvent | None:
        """The event as the chain has it; None without a number."""
        if self.number is None or self.hash is None:
            return None
        return ChainedEvent(
            workspace_id=self.workspace_id,
            id=self.id,
            number=self.number,
            at=f"{self.at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%f}Z",
            action=self.action,
            key_id=None if self.key_id is None else str(self.key_id),
            caller=self.caller,
            actor=self.actor,
            peer=self.peer,
            details=self.details,
            salt=self.salt,
            private_digest=self.private_digest,
            hash=self.hash,
        )

    @property
    def by(self) -> Principal:
        """Who did it."""
        if self.actor is not None:
            return Principal(PrincipalKind.USER, self.actor)
        for kind in (PrincipalKind.RUNTIME, PrincipalKind.POLICY):
            if self.caller.startswith(f"{kind.value}:"):
                return Principal(kind, self.caller.partition(":")[2])
        return Principal(PrincipalKind.CALLER, self.caller)

    def about(self) -> tuple[str, tuple[FieldChange, ...]]:
        """Return why it was done, and what is different after it."""
        details = json.loads(self.details)
        changes = tuple(
            FieldChange(path, *("" if value is None else json.dumps(value, ensure_ascii=False) for value in values))
            for path, *values in _changes(self.action, details)
        )
        reason = details.get("reason") or ""
        return reason if isinstance(reason, str) else json.dumps(reason), changes


@dataclass(frozen=True, slots=True)
class EventFilter:
    """Some events. An event must match each field that is not None.

    Attributes:
        key_id: Only events of the key with this id, in its canonical spelling.
        user_id: Only events of keys of this user.
        by: Only what this one did.
        actions: Only these actions.
        after: Only events at or after this time.
        before: Only events before this time.
    """

    key_id: str | None = None
    user_id: UserId | None = None
    by: Principal | None = None
    actions: tuple[AuditAction, ...] | None = None
    after: datetime | None = None
    before: datetime | None = None

    def check(self, violations: Violations) -> None:
        """Add every invalid field to `violations`."""
        if self.key_id is not None and not _KEY_ID.fullmatch(self.key_id):
            violations.add("filter.key_id", f"is {quoted(self.key_id)}, which is not a key id, a UUID in lower case")
        if self.user_id is not None:
            violations.foreign_id("filter.user_id", self.user_id)
        if self.by is not None:
            violations.text("filter.by.id", self.by.id, maximum=MAX_FOREIGN_ID)
        violations.count("filter.actions", self.actions or (), maximum=MAX_FILTER_VALUES)


@dataclass(frozen=True, slots=True)
class EventSelection:
    """Some events of one workspace, or of all.

    Attributes:
        workspace_id: The workspace; None for all.
    """

    workspace_id: WorkspaceId | None
    filter: EventFilter


def caller_of(principal: Principal) -> str:
    """Return the caller of the events of a principal that is no user; the opposite of `AuditEvent.by`."""
    return principal.id if principal.kind is PrincipalKind.CALLER else f"{principal.kind.value}:{principal.id}"


def _changes(action: str, details: Mapping[str, Any]) -> Iterator[tuple[str, Any, Any]]:
    # The database replaces whatever is too long by its SHA-256, so a list may be an object.
    diff = details.get("diff")
    if diff is not None:
        yield from diff if isinstance(diff, list) else [("diff", None, diff)]
        return
    no_changes = _NO_CHANGES - {"user_id", "runtime_id"} if action == AuditAction.KEY_ISSUED.value else _NO_CHANGES
    for name, value in details.items():
        if name not in no_changes and value is not None:
            yield name, None, value
    # Events of earlier versions: pairs of values by field, or lists of ids by kind of part and what became of them.
    changes = details.get("changes", {})
    if _is_digest(changes):
        yield "changes", None, changes
        return
    for name, values in changes.items():
        if isinstance(values, list):
            yield name, values[0], values[1]
        elif _is_digest(values):
            yield name, None, values
        else:
            for verb, ids in values.items():
                if ids:
                    yield f"{name}.{verb}", None, ids


def _is_digest(value: Mapping[str, Any] | list[Any]) -> bool:
    """Return whether a value was too long, so that its SHA-256 is there instead."""
    return isinstance(value, dict) and {"sha256", "bytes"} <= value.keys()
