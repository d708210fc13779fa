"""Rotate keys, and revoke all keys of a family."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.app.key_policies import hold_rotation
from skilder_keys.app.key_steps import (
    actor_in,
    check_revocation,
    find_key,
    for_actor,
    parsed_key_id,
    proven_key_id,
    record_revocation,
    renew,
    subject,
)
from skilder_keys.domain.durations import MAX_LIFETIME, MIN_LIFETIME, check_expiry, check_length
from skilder_keys.domain.errors import KeyAlreadyRotatedError, KeyNotActiveError, RuntimeHasKeysError
from skilder_keys.domain.field_changes import key_changes
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.key_policy import NO_POLICY
from skilder_keys.domain.key_spec import RUNTIME_LIFETIME
from skilder_keys.domain.keys import KeyState, PreviousKeys
from skilder_keys.domain.rotation import DEFAULT_GRACE
from skilder_keys.domain.token import KeyType, Token, new_secret
from skilder_keys.storage import audit, key_families, keys, policy_keys, workspaces

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from skilder_keys.app.authorization.verifier import Verifier
    from skilder_keys.app.fence.writer import Writer
    from skilder_keys.domain.access import Origin
    from skilder_keys.domain.ids import KeyId
    from skilder_keys.domain.key_policy import KeyPolicy
    from skilder_keys.domain.key_spec import KeySpec
    from skilder_keys.domain.keys import Key
    from skilder_keys.domain.rotation import RotationSpec
    from skilder_keys.storage.database import Connection, Database
    from skilder_keys.storage.keys import IssueRequest


@dataclass(frozen=True, slots=True)
class RotatedKey:
    """The successor of a key with its token, which is never shown again, and the key itself."""

    key: Key
    token: Token
    predecessor: Key


class RevokedFamily(NamedTuple):
    """A revoked key, and the ids of the other keys of its family, in order."""

    key: Key
    other_ids: tuple[KeyId, ...]


class KeyFamilies:
    """Rotates keys, and revokes families. The errors that `Keys` names for every method are those of each here too."""

    def __init__(self, database: Database, writer: Writer, verifier: Verifier) -> None:
        self._database = database
        self._writer = writer
        self._verifier = verifier

    async def rotate(self, key_id: str, spec: RotationSpec, request_id: str, origin: Origin) -> RotatedKey:
        """Issue a successor of a key, and let the key expire after a grace.

        A retry with the same request_id of the same caller returns the same successor with a new secret.

        Raises:
            InvalidRequestError: Names every invalid field, also a request_id that was used with other arguments.
            KeyNotFoundError: There is no such key.
            KeyNotActiveError: The key is not active.
            PolicyViolationError: The key policy of the workspace does not allow the successor.
            KeyAlreadyRotatedError: The key has a successor that is neither revoked nor expired.
            RequestUsedError: The successor that this request_id issued was used since.
            RequestRevokedError: The successor that this request_id issued was revoked since.
        """
        violations = Violations()
        parsed = parsed_key_id(violations, key_id)
        violations.actor(origin.actor)
        return await self._rotate(parsed, spec, request_id, origin, violations)

    async def rotate_own(self, spec: RotationSpec, request_id: str, origin: Origin) -> RotatedKey:
        """Rotate the key that is the bearer token of a runtime instance. The errors are those of `rotate`."""
        if origin.caller.key_id is None:
            raise LookupError("only a runtime instance may rotate its own key, and it has one")
        return await self._rotate(origin.caller.key_id, spec, request_id, origin, Violations())

    async def revoke(self, key_id: str, reason: str, origin: Origin) -> RevokedFamily:
        """Revoke every key of a key's family, permanently.

        Raises:
            InvalidRequestError: Names every invalid field.
            KeyNotFoundError: There is no such key.
        """
        violations = Violations()
        parsed = parsed_key_id(violations, key_id)
        check_revocation(violations, reason, origin)
        violations.raise_if_any()
        return await self._revoke(parsed, reason, origin)

    async def revoke_by_token(self, text: str, reason: str, origin: Origin) -> RevokedFamily:
        """Revoke every key of the family of a token's key. An actor needs to be allowed to revoke the key by its id.

        Raises:
            InvalidRequestError: Names every invalid field, including a malformed token.
            KeyNotFoundError: No key has this token.
        """
        violations = Violations()
        check_revocation(violations, reason, origin)
        key_id = await proven_key_id(self._database, self._verifier, text, violations, origin)
        return await self._revoke(key_id, reason, origin)

    async def _rotate(
        self, key_id: KeyId, spec: RotationSpec, request_id: str, origin: Origin, violations: Violations
    ) -> RotatedKey:
        violations.identifier("request_id", request_id, required=False)
        spec.check(violations)
        violations.raise_if_any()
        request = None
        if request_id:
            # The ids of a runtime instance belong to its key, since another workspace may have such an instance too.
            caller = origin.caller
            name = caller.name if caller.key_id is None else f"key:{caller.key_id}"
            request = keys.IssueRequest(name, request_id, spec.digest(key_id, origin.actor))
        secret = new_secret()
        secret_hash = await self._verifier.hash(secret)
        async with self._database.change(origin.audit_heads) as transaction:
            key, policy = await _locked(transaction, key_id, origin)
            successor_id = None
            if request is None or not await policy_keys.is_issued(transaction, request):
                await _require_rotatable(transaction, key)
                successor_id = await key_families.insert_successor(
                    transaction,
                    key,
                    secret_hash=secret_hash,
                    expires_at=await _expiry(transaction, key, spec, policy, origin),
                    created_by=origin.principal,
                    request=request,
                )
            if successor_id is not None:
                before = key
                key = await key_families.end_after(
                    transaction, key_id, DEFAULT_GRACE if spec.grace is None else spec.grace
                )
                successor = await find_key(transaction, successor_id, origin.caller.limits)
                await _record(transaction, before, key, successor, origin)
                rotated = RotatedKey(successor, Token(successor.type, successor.id, secret), key)
            elif request is not None:
                renewed = await renew(transaction, request, secret, secret_hash, origin)
                rotated = RotatedKey(renewed.key, renewed.token, key)
            else:
                raise LookupError("an insert without a request_id has no conflict, but wrote nothing")
            # Read again, as it has a successor now.
            key = await find_key(transaction, key_id, origin.caller.limits)
            rotated = RotatedKey(
                await for_actor(transaction, rotated.key, origin.actor),
                rotated.token,
                await for_actor(transaction, key, origin.actor),
            )
        await self._writer.settle()
        return rotated

    async def _revoke(self, key_id: KeyId, reason: str, origin: Origin) -> RevokedFamily:
        async with self._database.change(origin.audit_heads) as transaction:
            key = await find_key(transaction, key_id, origin.caller.limits)
            if origin.actor is not None:
                (await actor_in(transaction, key.workspace_id, origin.actor)).require_key(key)
            members = await revoke_families(transaction, [key.family_id], reason, origin)
            key = await find_key(transaction, key_id, origin.caller.limits)
        await self._writer.settle()
        return RevokedFamily(key, tuple(each for each in members if each != key_id))


async def revoke_families(
    transaction: Connection, family_ids: Iterable[KeyId], reason: str, origin: Origin
) -> list[KeyId]:
    """Revoke every key of some families, and return the ids of all of them, in order."""
    families = sorted(set(family_ids))
    # With the first keys locked, nobody makes a successor that the next statement does not see.
    await key_families.lock(transaction, families)
    members = await key_families.members(transaction, families)
    for key in await key_families.revoke(transaction, members, by=origin.principal, reason=reason):
        await record_revocation(transaction, key, reason, origin)
    return members


async def end_previous_keys(
    transaction: Connection, spec: KeySpec, request: IssueRequest | None, origin: Origin
) -> None:
    """Before a key is issued for a runtime instance, do as the request says with those that the instance has.

    A request that has issued its key already ends none: that key is one of them. Until the transaction ends, nobody
    else issues a key for the instance.

    Raises:
        RuntimeHasKeysError: It has some, and the request does not say what becomes of them.
    """
    if spec.runtime_id is None:
        return
    await key_families.lock_runtime(transaction, spec.workspace_id, spec.runtime_id)
    if spec.previous_keys is PreviousKeys.KEEP:
        return
    if request is not None and await policy_keys.is_issued(transaction, request):
        return
    families = await key_families.live_families(transaction, spec.workspace_id, spec.runtime_id)
    if families and spec.previous_keys is None:
        raise RuntimeHasKeysError(
            "The runtime instance has a key that is neither revoked nor expired: set previous_keys to keep or to "
            "revoke what it has.",
            family_id=str(families[-1]),
        )
    await revoke_families(transaction, families, "another key was issued for the runtime instance", origin)


async def _locked(transaction: Connection, key_id: KeyId, origin: Origin) -> tuple[Key, KeyPolicy]:
    """Return a key that the actor may rotate, with its family locked, and the key policy of its workspace."""
    key = await find_key(transaction, key_id, origin.caller.limits)
    workspace = await workspaces.lock(transaction, key.workspace_id, "read")
    if origin.actor is not None:
        (await actor_in(transaction, key.workspace_id, origin.actor)).require_rotation(key)
    await key_families.lock(transaction, (key.family_id, key.id))
    policy = NO_POLICY if workspace is None else workspace.key_policy
    return await find_key(transaction, key_id, origin.caller.limits), policy


async def _require_rotatable(transaction: Connection, key: Key) -> None:
    if key.state is not KeyState.ACTIVE:
        raise KeyNotActiveError(
            f"Key {key.id} is {key.state.value}, and only an active key is rotated: issue another.",
            key_id=str(key.id),
            state=key.state.name,
        )
    successor_id = await key_families.live_successor(transaction, key.id)
    if successor_id is not None:
        raise KeyAlreadyRotatedError(
            f"Key {key.id} was rotated, and key {successor_id} is its successor: rotate that one, or revoke it.",
            successor_id=str(successor_id),
        )


async def _expiry(
    transaction: Connection, key: Key, spec: RotationSpec, policy: KeyPolicy, origin: Origin
) -> datetime | None:
    """Return when the successor of a key expires, as the key policy allows it; None for never."""
    violations = Violations()
    now = await keys.transaction_time(transaction)
    if spec.expires_at is not None:
        check_expiry(violations, "expires_at", spec.expires_at, now)
        violations.raise_if_any()
        hold_rotation(policy, key, spec.expires_at - now, is_stated=True)
        return spec.expires_at
    planned = await key_families.planned_lifetime(transaction, key.id)
    if planned is None and key.type is KeyType.RUNTIME:
        planned = RUNTIME_LIFETIME  # a runtime that vanishes leaves a key that dies by itself
    if spec.lifetime is not None:
        if origin.caller.key_id is not None and planned is not None:
            check_length(violations, "lifetime", spec.lifetime, MIN_LIFETIME, planned)
            violations.raise_if_any()
        planned = spec.lifetime
    planned = hold_rotation(policy, key, planned, is_stated=spec.lifetime is not None)
    return None if planned is None else now + min(planned, MAX_LIFETIME)


async def _record(transaction: Connection, before: Key, key: Key, successor: Key, origin: Origin) -> None:
    details = subject(key) | {
        "successor_id": str(successor.id),
        "successor_expires_at": _iso(successor.expires_at),
        "changes": key_changes(before, key),
    }
    await audit.record(transaction, "key.rotated", origin, key.workspace_id, key_id=key.id, details=details)


def _iso(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()
