"""Update, suspend and resume keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app.key_policies import hold_change
from skilder_keys.app.key_steps import (
    actor_in,
    check_revocation,
    find_key,
    for_actor,
    lock_workspace,
    parsed_key_id,
    subject,
)
from skilder_keys.domain.durations import check_expiry
from skilder_keys.domain.errors import KeyNotActiveError, VersionMismatchError
from skilder_keys.domain.field_changes import key_changes
from skilder_keys.domain.fields import Violations, quoted
from skilder_keys.storage import audit, catalog, keys

if TYPE_CHECKING:
    from collections.abc import Mapping

    from skilder_keys.app.fence.writer import Writer
    from skilder_keys.domain.access import Origin
    from skilder_keys.domain.ids import KeyId
    from skilder_keys.domain.key_update import KeyUpdate
    from skilder_keys.domain.keys import Key
    from skilder_keys.storage.database import Connection, Database


class KeyChanges:
    """Changes keys, but for their end.

    Every method raises UnavailableError if the database does not respond. A call on behalf of a person raises
    ActorNotMemberError or ActorNotAllowedError if that person may not do this.
    """

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    async def update(self, key_id: str, update: KeyUpdate, origin: Origin) -> Key:
        """Change what a key is limited to, or what it says about itself. If nothing is different, change nothing.

        Raises:
            InvalidRequestError: Names every invalid field: also a hat that does not exist.
            KeyNotFoundError: There is no such key.
            ForeignWorkspaceError: The caller is not allowed the workspace of the key.
            WorkspaceDeletedError: The workspace was deleted.
            KeyNotActiveError: The key is revoked.
            VersionMismatchError: The key is at another version.
            PolicyViolationError, DescriptionTakenError: The key policy of the workspace does not allow a change.
        """
        violations = Violations()
        parsed = parsed_key_id(violations, key_id, "key.id")
        update.check(violations)
        violations.actor(origin.actor)
        violations.raise_if_any()
        async with self._database.change(origin.audit_heads) as transaction:
            found = await find_key(transaction, parsed, origin.caller.limits)
            workspace = await lock_workspace(transaction, found.workspace_id)
            key = await _locked(transaction, parsed, origin)
            if origin.actor is not None:
                (await actor_in(transaction, key.workspace_id, origin.actor)).require_update(key)
            _require_unrevoked(key)
            if update.expected_version not in (None, key.version):
                raise VersionMismatchError(
                    f"Key {key.id} is at version {key.version}, not {update.expected_version}: read it again, then"
                    " repeat the change.",
                    current_version=str(key.version),
                )
            changes = update.changes(key)
            await _check_changes(transaction, key, update, changes)
            if changes:
                await hold_change(transaction, workspace.key_policy, key, update, changes)
                key = await _write(transaction, key, update, origin)
                details = subject(key) | {"changes": {name: list(values) for name, values in changes.items()}}
                await audit.record(transaction, "key.updated", origin, key.workspace_id, key_id=key.id, details=details)
            key = await for_actor(transaction, key, origin.actor)
        await self._writer.settle()
        return key

    async def suspend(self, key_id: str, reason: str, origin: Origin) -> Key:
        """Suspend a key until it is resumed. If it is suspended already, change nothing.

        Raises:
            InvalidRequestError: Names every invalid field.
            KeyNotFoundError: There is no such key.
            ForeignWorkspaceError: The caller is not allowed the workspace of the key.
            KeyNotActiveError: The key is revoked.
        """
        return await self._set_suspended(key_id, reason, origin, suspended=True)

    async def resume(self, key_id: str, reason: str, origin: Origin) -> Key:
        """End the suspension of a key. If it is not suspended, change nothing.

        Raises:
            InvalidRequestError: Names every invalid field.
            KeyNotFoundError: There is no such key.
            ForeignWorkspaceError: The caller is not allowed the workspace of the key.
            KeyNotActiveError: The key is revoked.
        """
        return await self._set_suspended(key_id, reason, origin, suspended=False)

    async def _set_suspended(self, key_id: str, reason: str, origin: Origin, *, suspended: bool) -> Key:
        parsed = _checked(key_id, reason, origin)
        async with self._database.change(origin.audit_heads) as transaction:
            key = await _locked(transaction, parsed, origin)
            if origin.actor is not None:
                actor = await actor_in(transaction, key.workspace_id, origin.actor)
                (actor.require_key if suspended else actor.require_resume)(key)
            _require_unrevoked(key)
            if suspended != (key.suspension is not None):
                before = key
                if suspended:
                    key = await keys.suspend(transaction, parsed, by=origin.principal, reason=reason)
                else:
                    key = await keys.resume(transaction, parsed)
                action: audit.AuditAction = "key.suspended" if suspended else "key.resumed"
                details = subject(key) | {"reason": reason, "changes": key_changes(before, key)}
                await audit.record(transaction, action, origin, key.workspace_id, key_id=key.id, details=details)
            key = await for_actor(transaction, key, origin.actor)
        await self._writer.settle()
        return key


async def _check_changes(transaction: Connection, key: Key, update: KeyUpdate, changes: Mapping[str, object]) -> None:
    violations = Violations()
    update.check_type(violations, key.type)
    if "expires_at" in changes and update.expires_at is not None:
        check_expiry(violations, "key.expires_at", update.expires_at, await keys.transaction_time(transaction))
    hat_ids = update.hat_ids or ()
    # A hat that is gone may stay in the list, as it does where nothing is changed.
    added = set(hat_ids) - set(key.hat_ids or ())
    missing = await catalog.missing_hats(transaction, key.workspace_id, tuple(added)) if added else ()
    for index, hat_id in enumerate(hat_ids):
        if hat_id in missing:
            violations.add(
                f"key.hat_limit.hat_ids[{index}]", f"names {quoted(hat_id)}, which the workspace does not have"
            )
    violations.raise_if_any()


async def _write(transaction: Connection, key: Key, update: KeyUpdate, origin: Origin) -> Key:
    await keys.update(
        transaction,
        key,
        description=update.description if "description" in update.mask else key.description,
        expires_at=update.expires_at if "expires_at" in update.mask else key.expires_at,
        hat_ids=update.hat_ids if "hat_limit" in update.mask else key.hat_ids,
        labels=update.labels if "labels" in update.mask else key.labels,
        networks=update.networks if "network_limit" in update.mask else key.networks,
    )
    return await find_key(transaction, key.id, origin.caller.limits)


def _checked(key_id: str, reason: str, origin: Origin) -> KeyId:
    violations = Violations()
    parsed = parsed_key_id(violations, key_id)
    check_revocation(violations, reason, origin)
    violations.raise_if_any()
    return parsed


async def _locked(transaction: Connection, key_id: KeyId, origin: Origin) -> Key:
    """Return a key as it is now, and keep it so until the transaction ends."""
    await keys.lock(transaction, key_id)
    return await find_key(transaction, key_id, origin.caller.limits)


def _require_unrevoked(key: Key) -> None:
    if key.revocation is not None:
        raise KeyNotActiveError(
            f"Key {key.id} is revoked, which cannot be undone.", key_id=str(key.id), state=key.state.name
        )
