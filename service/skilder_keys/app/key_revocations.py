"""Revoke the keys that match a filter."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from skilder_keys.app.key_steps import check_revocation, visible_keys
from skilder_keys.domain.errors import TooManyChangedError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.keys import KeyState
from skilder_keys.storage import key_lists, key_revocations

if TYPE_CHECKING:
    from skilder_keys.app.fence.writer import Writer
    from skilder_keys.domain.access import Origin
    from skilder_keys.domain.ids import KeyId
    from skilder_keys.domain.key_filter import KeyFilter
    from skilder_keys.storage.database import Database

MAX_REVOKED = 10_000
"""The most keys that one call revokes."""
TOGETHER = 1_000
"""How many keys are revoked in one transaction. A change of more keys would touch the whole workspace."""


@dataclass(frozen=True, slots=True)
class RevokedKeys:
    """What a call has revoked, or would revoke.

    Attributes:
        count: How many keys; in a dry run, how many match.
        key_ids: At most MAX_REVOKED of them.
        more: Whether more keys match.
    """

    count: int
    key_ids: list[KeyId]
    more: bool


class KeyRevocations:
    """Revokes many keys."""

    def __init__(self, database: Database, writer: Writer) -> None:
        self._database = database
        self._writer = writer

    async def revoke(
        self, key_filter: KeyFilter, reason: str, origin: Origin, *, dry_run: bool, max_keys: int | None
    ) -> RevokedKeys:
        """Revoke the keys that match, of those that the actor may revoke: at most MAX_REVOKED.

        Args:
            key_filter: The keys. It must have a condition.
            reason: Why.
            origin: Who revokes them.
            dry_run: Whether to change nothing.
            max_keys: The most keys that may match; None in a dry run only.

        Raises:
            InvalidRequestError: Names every invalid field.
            WorkspaceNotFoundError: There is no such workspace.
            ActorNotMemberError: The actor is not a member of the workspace.
            TooManyChangedError: More than `max_keys` match.
            UnavailableError: The database does not respond. Some of the keys may be revoked.
        """
        _check(key_filter, reason, origin, dry_run=dry_run, max_keys=max_keys)
        # Those that are revoked already match no more, so a call can be repeated.
        states = set(KeyState if key_filter.states is None else key_filter.states) - {KeyState.REVOKED}
        wanted = replace(key_filter, states=tuple(states))
        found, count = await self._find(wanted, origin)
        if max_keys is not None and count > max_keys:
            raise TooManyChangedError(
                f"{count} keys match, and max_keys allows {max_keys}: none was revoked.",
                count=str(count),
                allowed=str(max_keys),
            )
        chosen = found[:MAX_REVOKED]
        if dry_run:
            return RevokedKeys(count, chosen, more=count > MAX_REVOKED)
        revoked: list[KeyId] = []
        for start in range(0, len(chosen), TOGETHER):
            async with self._database.change(origin.audit_heads) as transaction:
                workspace, visible, _ = await visible_keys(transaction, wanted, origin.actor)
                revoked += await key_revocations.revoke(
                    transaction,
                    chosen[start : start + TOGETHER],
                    visible,
                    workspace_deleted=workspace.deleted_at is not None,
                    reason=reason,
                    origin=origin,
                )
        # Looked up again, so that a key that another call has made meanwhile is not overlooked.
        left, _ = await self._find(wanted, origin, limit=1)
        await self._writer.settle()
        return RevokedKeys(len(revoked), revoked, more=bool(left))

    async def _find(
        self, key_filter: KeyFilter, origin: Origin, limit: int = MAX_REVOKED + 1
    ) -> tuple[list[KeyId], int]:
        """Return at most `limit` keys that match, and how many match if they are not more than can be counted."""
        async with self._database.snapshot() as snapshot:
            workspace, visible, _ = await visible_keys(snapshot, key_filter, origin.actor)
            deleted = workspace.deleted_at is not None
            found = await key_revocations.find(snapshot, visible, workspace_deleted=deleted, limit=limit)
            if len(found) <= MAX_REVOKED:
                return found, len(found)
            counted = await key_lists.count(snapshot, visible, workspace_deleted=deleted, exactly=True)
            return found, sum(each.count for each in counted.counts)


def _check(key_filter: KeyFilter, reason: str, origin: Origin, *, dry_run: bool, max_keys: int | None) -> None:
    violations = Violations()
    key_filter.check(violations)
    if key_filter.is_everything:
        violations.add("filter", "is required: set at least one of its fields, to say which keys to revoke")
    if max_keys is None and not dry_run:
        violations.add("max_keys", "is required: set it to the number of keys, which a call with dry_run gives")
    if max_keys is not None and max_keys < 0:
        violations.add("max_keys", f"is {max_keys}; it has to be 0 or more")
    check_revocation(violations, reason, origin)
    violations.raise_if_any()
