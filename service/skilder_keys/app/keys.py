"""Issue, revoke, find and count keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app import key_policies
from skilder_keys.app.key_families import end_previous_keys
from skilder_keys.app.key_steps import (
    IssuedKey,
    actor_in,
    check_revocation,
    find_key,
    for_actor,
    lock_workspace,
    parsed_key_id,
    proven_key_id,
    record_revocation,
    renew,
    subject,
    visible_keys,
)
from skilder_keys.app.page import Page
from skilder_keys.domain.durations import check_expiry
from skilder_keys.domain.field_changes import key_fields
from skilder_keys.domain.fields import Violations, quoted
from skilder_keys.domain.key_actions import with_actions
from skilder_keys.domain.key_filter import KeyListing
from skilder_keys.domain.keys import PreviousKeys
from skilder_keys.domain.paging import listing
from skilder_keys.domain.token import Token, new_secret
from skilder_keys.storage import audit, catalog, key_lists, keys

if TYPE_CHECKING:
    from datetime import datetime

    from skilder_keys.app.authorization.verifier import Verifier
    from skilder_keys.app.fence.writer import Writer
    from skilder_keys.domain.access import CallerLimits, Origin
    from skilder_keys.domain.ids import KeyId, UserId
    from skilder_keys.domain.key_filter import KeyCounts, KeyFilter
    from skilder_keys.domain.key_spec import KeySpec
    from skilder_keys.domain.keys import Key
    from skilder_keys.domain.paging import PageTokens
    from skilder_keys.storage.database import Connection, Database


class Keys:
    """Issues, revokes, finds and counts keys.

    Every method raises UnavailableError if the database does not respond. A call on behalf of a person raises
    ActorNotMemberError or ActorNotAllowedError if that person may not do this.
    """

    def __init__(self, database: Database, writer: Writer, verifier: Verifier, page_tokens: PageTokens) -> None:
        self._database = database
        self._writer = writer
        self._verifier = verifier
        self._page_tokens = page_tokens

    async def issue(self, spec: KeySpec, request_id: str, origin: Origin) -> IssuedKey:
        """Issue a key. A retry with the same request_id of the same caller returns the same key with a new secret.

        Args:
            spec: The key to issue.
            request_id: Identifies the request among those of the caller; empty if it is never retried.
            origin: Who issues it.

        Raises:
            InvalidRequestError: Names every invalid field: also a user who is not a member, a hat that does not exist,
                and a request_id that was used with other arguments.
            WorkspaceNotFoundError: There is no such workspace.
            WorkspaceDeletedError: The workspace was deleted.
            RuntimeHasKeysError: The runtime instance has keys, and the spec does not say what becomes of them.
            RequestUsedError: The key that this request_id issued was used since.
            RequestRevokedError: The key that this request_id issued was revoked since.
            PolicyViolationError, DescriptionTakenError: The key policy of the workspace does not allow the key.
        """
        violations = Violations()
        violations.identifier("request_id", request_id, required=False)
        spec.check(violations)
        violations.actor(origin.actor)
        violations.raise_if_any()
        secret = new_secret()
        secret_hash = await self._verifier.hash(secret)
        request = None
        if request_id:
            request = keys.IssueRequest(origin.caller.name, request_id, spec.digest(origin.actor))
        async with self._database.change(origin.audit_heads) as transaction:
            workspace = await lock_workspace(transaction, spec.workspace_id)
            if origin.actor is not None:
                (await actor_in(transaction, spec.workspace_id, origin.actor)).require_issue(spec)
            await _check_references(transaction, spec)
            await _check_expiry(transaction, spec.expires_at)
            await end_previous_keys(transaction, spec, request, origin)
            spec = await key_policies.hold(transaction, workspace.key_policy, spec, request)
            key_id = await keys.insert(
                transaction, spec, secret_hash=secret_hash, created_by=origin.principal, request=request
            )
            if key_id is not None:
                key = await find_key(transaction, key_id, origin.caller.limits)
                details = {"type": key.type.value} | key_fields(key)
                await audit.record(
                    transaction, "key.issued", origin, key.workspace_id, key_id=key.id, details=subject(key) | details
                )
                issued = IssuedKey(key, Token(key.type, key.id, secret))
            elif request is not None:
                issued = await renew(transaction, request, secret, secret_hash, origin)
            else:
                raise LookupError("an insert without a request_id has no conflict, but wrote nothing")
            issued = IssuedKey(await for_actor(transaction, issued.key, origin.actor), issued.token)
        if key_id is None or spec.previous_keys is PreviousKeys.REVOKE:  # else nothing was changed that was there
            await self._writer.settle()
        return issued

    async def revoke(self, key_id: str, reason: str, origin: Origin) -> Key:
        """Revoke a key by its id, permanently. If it was revoked before, change nothing.

        Raises:
            InvalidRequestError: Names every invalid field.
            KeyNotFoundError: There is no such key.
            ForeignWorkspaceError: The caller is not allowed the workspace of the key.
        """
        violations = Violations()
        parsed = parsed_key_id(violations, key_id)
        check_revocation(violations, reason, origin)
        violations.raise_if_any()
        async with self._database.change(origin.audit_heads) as transaction:
            key = await find_key(transaction, parsed, origin.caller.limits)
            if origin.actor is not None:
                (await actor_in(transaction, key.workspace_id, origin.actor)).require_key(key)
            revoked = await _revoke(transaction, parsed, reason, origin)
        await self._writer.settle()
        return revoked

    async def revoke_by_token(self, text: str, reason: str, origin: Origin) -> Key:
        """Revoke a key by its token, permanently. Whoever has the token may do so, whatever the actor's role.

        Raises:
            InvalidRequestError: Names every invalid field, including a malformed token.
            KeyNotFoundError: No key has this token.
            ForeignWorkspaceError: The caller is not allowed the workspace of the key.
        """
        violations = Violations()
        check_revocation(violations, reason, origin)
        key_id = await proven_key_id(self._database, self._verifier, text, violations, origin)
        async with self._database.change(origin.audit_heads) as transaction:
            revoked = await _revoke(transaction, key_id, reason, origin)
        await self._writer.settle()
        return revoked

    async def get(self, key_id: str, actor: UserId | None, limits: CallerLimits) -> Key:
        """Return a key.

        Args:
            key_id: The key.
            actor: For whom; None for the caller itself.
            limits: What the caller is limited to.

        Raises:
            InvalidRequestError: `key_id` or `actor` is invalid.
            KeyNotFoundError: There is no such key.
            ForeignWorkspaceError: The caller is not allowed the workspace of the key.
        """
        violations = Violations()
        parsed = parsed_key_id(violations, key_id)
        violations.actor(actor)
        violations.raise_if_any()
        async with self._database.connection() as connection:
            key = await find_key(connection, parsed, limits)
            if actor is not None:
                (await actor_in(connection, key.workspace_id, actor)).require_key(key)
            return await for_actor(connection, key, actor)

    async def list(self, listed: KeyListing, *, page_size: int, page_token: str, actor: UserId | None) -> Page[Key]:
        """Return a page of keys. Of the keys that match, an actor sees only those that they may see.

        Raises:
            InvalidRequestError: Names every invalid field.
            WorkspaceNotFoundError: There is no such workspace.
        """
        violations = Violations()
        listed.filter.check(violations)
        limit = violations.page_size(page_size)
        violations.actor(actor)
        violations.raise_if_any()
        same = listing("ListKeys", actor, listed)
        position = self._page_tokens.open(same, page_token)
        async with self._database.snapshot() as snapshot:
            workspace, visible, person = await visible_keys(snapshot, listed.filter, actor)
            found = await key_lists.list_page(
                snapshot,
                KeyListing(visible, listed.order),
                workspace_deleted=workspace.deleted_at is not None,
                after=position,
                limit=limit,
            )
        positions = [each.position for each in found.keys]
        keys_of_page = [with_actions(each.key, person) for each in found.keys]
        return Page(keys_of_page, found.end, same, self._page_tokens, positions)

    async def count(self, key_filter: KeyFilter, actor: UserId | None) -> KeyCounts:
        """Return how many keys there are of each type and state, of those that `list` would list.

        Raises:
            InvalidRequestError: Names every invalid field.
            WorkspaceNotFoundError: There is no such workspace.
        """
        violations = Violations()
        key_filter.check(violations)
        violations.actor(actor)
        violations.raise_if_any()
        async with self._database.snapshot() as snapshot:
            workspace, visible, _ = await visible_keys(snapshot, key_filter, actor)
            return await key_lists.count(snapshot, visible, workspace_deleted=workspace.deleted_at is not None)


async def _revoke(transaction: Connection, key_id: KeyId, reason: str, origin: Origin) -> Key:
    key = await keys.revoke(transaction, key_id, by=origin.principal, reason=reason)
    if key is None:  # it was revoked before, or does not exist
        return await find_key(transaction, key_id, origin.caller.limits)
    await record_revocation(transaction, key, reason, origin)
    return key


async def _check_references(connection: Connection, spec: KeySpec) -> None:
    violations = Violations()
    if spec.user_id and await catalog.member_role(connection, spec.workspace_id, spec.user_id) is None:
        violations.add("user_id", f"names {quoted(spec.user_id)}, who is not a member of the workspace")
    hat_ids = spec.hat_ids or ()
    missing = await catalog.missing_hats(connection, spec.workspace_id, hat_ids) if hat_ids else ()
    for index, hat_id in enumerate(hat_ids):
        if hat_id in missing:
            violations.add(f"hat_limit.hat_ids[{index}]", f"names {quoted(hat_id)}, which the workspace does not have")
    violations.raise_if_any()


async def _check_expiry(connection: Connection, expires_at: datetime | None) -> None:
    if expires_at is not None:
        violations = Violations()
        check_expiry(violations, "expires_at", expires_at, await keys.transaction_time(connection))
        violations.raise_if_any()
