"""Suspend and resume keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app.key_steps import actor_in, check_revocation, find_key, parsed_key_id, subject
from skilder_keys.domain.errors import KeyNotActiveError
from skilder_keys.domain.fields import Violations
from skilder_keys.storage import audit, keys

if TYPE_CHECKING:
    from skilder_keys.app.fence.writer import Writer
    from skilder_keys.domain.access import Origin
    from skilder_keys.domain.ids import KeyId
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

    async def suspend(self, key_id: str, reason: str, origin: Origin) -> Key:
        """Suspend a key until it is resumed. If it is suspended already, change nothing.

        Raises:
            InvalidRequestError: Names every invalid field.
            KeyNotFoundError: There is no such key.
            ForeignWorkspaceError: The caller is not allowed the workspace of the key.
            KeyNotActiveError: The key is revoked.
        """
        parsed = _checked(key_id, reason, origin)
        async with self._database.transaction() as transaction:
            key = await _locked(transaction, parsed, origin)
            if origin.actor is not None:
                (await actor_in(transaction, key.workspace_id, origin.actor)).require_key(key)
            _require_unrevoked(key)
            if key.suspension is None:
                key = await keys.suspend(transaction, parsed, by=origin.principal, reason=reason)
                details = subject(key) | {"reason": reason}
                await audit.record(
                    transaction, "key.suspended", origin, key.workspace_id, key_id=key.id, details=details
                )
        await self._writer.settle()
        return key

    async def resume(self, key_id: str, reason: str, origin: Origin) -> Key:
        """End the suspension of a key. If it is not suspended, change nothing.

        Raises:
            InvalidRequestError: Names every invalid field.
            KeyNotFoundError: There is no such key.
            ForeignWorkspaceError: The caller is not allowed the workspace of the key.
            KeyNotActiveError: The key is revoked.
        """
        parsed = _checked(key_id, reason, origin)
        async with self._database.transaction() as transaction:
            key = await _locked(transaction, parsed, origin)
            if origin.actor is not None:
                (await actor_in(transaction, key.workspace_id, origin.actor)).require_resume(key)
            _require_unrevoked(key)
            if key.suspension is not None:
                key = await keys.resume(transaction, parsed)
                details = subject(key) | {"reason": reason}
                await audit.record(transaction, "key.resumed", origin, key.workspace_id, key_id=key.id, details=details)
        await self._writer.settle()
        return key


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
