"""What the changes of a workspace have in common: their checks, and how they are written."""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING

from skilder_keys.domain.access import Actor
from skilder_keys.domain.difference import Part
from skilder_keys.domain.errors import VersionMismatchError, WorkspaceNotFoundError
from skilder_keys.domain.field_changes import field_changes
from skilder_keys.domain.workspace import Workspace
from skilder_keys.storage import audit, catalog, catalog_changes, workspace_contents, workspaces

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skilder_keys.domain.access import Origin
    from skilder_keys.domain.difference import Change
    from skilder_keys.domain.fields import Violations
    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.domain.key_policy import KeyPolicy
    from skilder_keys.domain.totals import Noted
    from skilder_keys.domain.workspace import Member, WorkspaceStatus
    from skilder_keys.offload import Offload
    from skilder_keys.storage.audit import AuditAction
    from skilder_keys.storage.database import Connection


def check_arguments(violations: Violations, expected_version: int | None, origin: Origin) -> None:
    """Check what every change has."""
    if expected_version is not None and expected_version < 0:
        violations.add("expected_version", f"is {expected_version}; 0 or more is allowed")
    violations.actor(origin.actor)


async def locked(transaction: Connection, workspace_id: WorkspaceId) -> WorkspaceStatus:
    """Return a workspace, even a deleted one, and lock it until the transaction ends.

    Raises:
        WorkspaceNotFoundError: There was never such a workspace.
    """
    status = await workspaces.lock(transaction, workspace_id, "write")
    if status is None:
        raise WorkspaceNotFoundError(f"There is no workspace {workspace_id!r}.")
    return status


async def load(connection: Connection, status: WorkspaceStatus, offload: Offload) -> Workspace:
    """Return a whole workspace. So that its parts are consistent, it must be locked, or the connection a snapshot."""
    members = await catalog.load_members(connection, status.id, offload)
    contents = await catalog.load_catalog(connection, status.id, offload=offload)
    return Workspace(status.id, status.name, members, contents, status.key_policy)


def check_version(current: int, expected: int | None) -> None:
    """Raise VersionMismatchError if a version is expected and it is not the current one."""
    if expected not in (None, current):
        raise VersionMismatchError(
            f"The workspace is at version {current}, not {expected}: read it again, then repeat the change.",
            current_version=str(current),
        )


def require_admin(origin: Origin, members: Iterable[Member]) -> None:
    """Require that the actor, if there is one, is an admin among the members."""
    if origin.actor is not None:
        role = next((member.role for member in members if member.id == origin.actor), None)
        Actor(origin.actor, role).require_admin()


async def write(
    transaction: Connection,
    action: AuditAction,
    desired: Workspace,
    changes: Sequence[Change],
    noted: Noted,
    version: int,
    origin: Origin,
    offload: Offload,
) -> None:
    """Write the changed parts of a workspace, its totals and the event. Its own row must be written before.

    Args:
        transaction: The transaction, which has locked the workspace.
        action: What is done, for the audit trail.
        desired: The workspace as it is to be, or at least its changed parts.
        changes: What changes.
        noted: What is known of the whole workspace afterwards.
        version: The version of the workspace afterwards.
        origin: Who does it.
        offload: Where long work runs.
    """
    details = await offload.run(_details, version, changes, desired.key_policy)
    # Before the parts, so that the triggers on them do not look for changes by hand.
    await audit.record(transaction, action, origin, desired.id, details=details)
    await catalog_changes.replace(transaction, desired, changes, offload)
    await workspace_contents.save(transaction, desired.id, version, noted)


def _details(version: int, changes: Sequence[Change], key_policy: KeyPolicy | None) -> str:
    """Return JSON such as {"version": 2, "changes": {"hat": {"added": ["support-agent"]}}, "diff": …}.

    `diff` has what the fields were and what they became: see `field_changes`. If the key policy changes, the new one is
    there too.
    """
    ids: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for change in changes:
        ids[change.part.value][change.action.value].append(change.id)
    diff, left_out = field_changes(changes)
    details: dict[str, object] = {"version": version, "changes": ids, "diff": diff}
    if left_out:
        details["diff_left_out"] = left_out
    if key_policy is not None and Part.KEY_POLICY.value in ids:
        details["key_policy"] = key_policy.plain()
    return _json(details)


def _json(value: object) -> str:
    """Return a value as JSON, written in pieces, because `json` blocks all threads while it writes a long list."""
    match value:
        case dict():
            return f"{{{', '.join(f'{json.dumps(name)}: {_json(each)}' for name, each in value.items())}}}"
        case list():
            return f"[{', '.join(map(_json, value))}]"
        case _:
            return json.dumps(value)
