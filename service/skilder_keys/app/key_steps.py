"""What the use cases about keys have in common: their checks, and the retry of a request that has issued a key."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from skilder_keys.app.authorization.verifier import verified_credential
from skilder_keys.domain.access import Actor
from skilder_keys.domain.errors import (
    FieldViolation,
    InvalidRequestError,
    KeyNotFoundError,
    RequestRevokedError,
    RequestUsedError,
    WorkspaceDeletedError,
    WorkspaceNotFoundError,
)
from skilder_keys.domain.field_changes import SECRET_REPLACED, key_changes
from skilder_keys.domain.fields import MAX_DESCRIPTION, quoted
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.key_actions import with_actions
from skilder_keys.domain.token import MalformedTokenError, Token
from skilder_keys.storage import audit, catalog, keys, workspaces

if TYPE_CHECKING:
    from skilder_keys.app.authorization.verifier import Verifier
    from skilder_keys.domain.access import CallerLimits, Origin
    from skilder_keys.domain.fields import Violations
    from skilder_keys.domain.ids import UserId, WorkspaceId
    from skilder_keys.domain.key_filter import KeyFilter
    from skilder_keys.domain.keys import Key
    from skilder_keys.domain.workspace import WorkspaceStatus
    from skilder_keys.storage.database import Connection, Database

_LONGEST_ID = 36


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """A new key with its token, which is never shown again."""

    key: Key
    token: Token


async def renew(
    transaction: Connection, request: keys.IssueRequest, secret: bytes, secret_hash: str, origin: Origin
) -> IssuedKey:
    """Give a new secret to the key that a request has issued before, if nobody can have used its first secret."""
    key, digest = await keys.lock_issued(transaction, request)
    if digest != request.digest:
        raise InvalidRequestError(
            FieldViolation("request_id", f"has issued key {key.id} already, with other arguments: use a new one")
        )
    if key.revocation is not None:
        raise RequestRevokedError(key_id=str(key.id))
    if key.last_used_at is not None:
        raise RequestUsedError(
            f"This request_id issued key {key.id}, which has been used since: use a new request_id.",
            key_id=str(key.id),
        )
    await keys.replace_secret(transaction, key.id, secret_hash)
    details = subject(key) | {"changes": SECRET_REPLACED}
    await audit.record(transaction, "key.renewed", origin, key.workspace_id, key_id=key.id, details=details)
    return IssuedKey(key, Token(key.type, key.id, secret))


async def find_key(connection: Connection, key_id: KeyId, limits: CallerLimits) -> Key:
    """Return a key.

    Raises:
        KeyNotFoundError: There is no such key.
        ForeignWorkspaceError: The caller is not allowed its workspace.
    """
    key = await keys.find(connection, key_id)
    if key is None:
        raise KeyNotFoundError(f"There is no key {key_id}.")
    limits.require_workspace(key.workspace_id)
    return key


async def lock_workspace(transaction: Connection, workspace_id: WorkspaceId) -> WorkspaceStatus:
    """Keep a workspace from being changed until the transaction ends, and return it.

    Raises:
        WorkspaceNotFoundError: There is no such workspace.
        WorkspaceDeletedError: It was deleted.
    """
    status = await workspaces.lock(transaction, workspace_id, "read")
    if status is None:
        raise WorkspaceNotFoundError(f"There is no workspace {workspace_id!r}.")
    if status.deleted_at is not None:
        raise WorkspaceDeletedError
    return status


async def actor_in(connection: Connection, workspace_id: WorkspaceId, user_id: UserId) -> Actor:
    """Return a person with their role in a workspace."""
    return Actor(user_id, await catalog.member_role(connection, workspace_id, user_id))


async def for_actor(connection: Connection, key: Key, actor: UserId | None) -> Key:
    """Return a key with what an actor may do with it; None is for a caller that acts for itself."""
    return with_actions(key, None if actor is None else await actor_in(connection, key.workspace_id, actor))


class VisibleKeys(NamedTuple):
    """The workspace of a filter, the filter for those of its keys that an actor may see and revoke, and the actor."""

    workspace: WorkspaceStatus
    filter: KeyFilter
    actor: Actor | None


async def visible_keys(connection: Connection, key_filter: KeyFilter, actor: UserId | None) -> VisibleKeys:
    """Return which of the keys that match a filter an actor may see and revoke.

    Raises:
        WorkspaceNotFoundError: There is no such workspace.
        ActorNotMemberError: The actor is not a member of it.
    """
    workspace = await workspaces.find(connection, key_filter.workspace_id)
    if workspace is None:
        raise WorkspaceNotFoundError
    person = None if actor is None else await actor_in(connection, key_filter.workspace_id, actor)
    return VisibleKeys(workspace, key_filter if person is None else person.visible(key_filter), person)


def check_revocation(violations: Violations, reason: str, origin: Origin) -> None:
    """Add the invalid fields of a revocation to `violations`."""
    violations.text("reason", reason, maximum=MAX_DESCRIPTION, required=False)
    violations.actor(origin.actor)


def parsed_key_id(violations: Violations, key_id: str, field: str = "key_id") -> KeyId:
    """Return a key id. Only its canonical spelling is accepted, so that a key has the same id in every log."""
    try:
        parsed = UUID(key_id)
    except ValueError:
        parsed = UUID(int=0)
    if str(parsed) != key_id:
        # A longer text may be the secret of a token, so it is not quoted.
        quote = f"is {quoted(key_id)}, which " if len(key_id) <= _LONGEST_ID else ""
        violations.add(field, f"{quote}is not a key id, a UUID in lower case" if key_id else "is required")
    return KeyId(parsed)


async def proven_key_id(
    database: Database, verifier: Verifier, text: str, violations: Violations, origin: Origin
) -> KeyId:
    """Return the key of a token.

    Raises:
        InvalidRequestError: The token is malformed, or there was a violation before.
        KeyNotFoundError: No key has this token.
        ForeignWorkspaceError: The caller is not allowed the workspace of the key.
    """
    token = None
    try:
        token = Token.parse(text)
    except MalformedTokenError:
        violations.add("token", "is not a token: its length, characters, prefix or checksum are wrong")
    violations.raise_if_any()
    credential = None if token is None else await verified_credential(database, verifier, token)
    if credential is None:
        raise KeyNotFoundError("No key has this token.")
    origin.caller.limits.require_workspace(credential.key.workspace_id)
    return KeyId(credential.key.id)


async def record_revocation(transaction: Connection, key: Key, reason: str, origin: Origin) -> None:
    """Record that a key was revoked."""
    details = subject(key) | {"reason": reason, "changes": key_changes(replace(key, revocation=None), key)}
    await audit.record(transaction, "key.revoked", origin, key.workspace_id, key_id=key.id, details=details)


def subject(key: Key) -> dict[str, object]:
    """Return whose key it is, for the audit trail."""
    return {"user_id": key.user_id, "runtime_id": key.runtime_id}
