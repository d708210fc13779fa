"""Apply and delete workspaces."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder_keys.app.workspace_changes import check_arguments, check_version, load, locked, require_admin, write
from skilder_keys.app.workspace_pieces import ApplyByPieces
from skilder_keys.domain.access import Actor
from skilder_keys.domain.difference import Change, Part, check_removals, difference, parts_of
from skilder_keys.domain.errors import WorkspaceDeletedError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.totals import Noted, Totals
from skilder_keys.domain.workspace_checks import check_bytes, checked
from skilder_keys.offload import Offload
from skilder_keys.storage import audit, catalog, catalog_changes, workspace_contents, workspaces

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from skilder_keys.app.fence.writer import Writer
    from skilder_keys.app.workspace_pieces import AskedWorkspace
    from skilder_keys.domain.access import Origin
    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.domain.workspace import Workspace, WorkspaceStatus
    from skilder_keys.storage.database import Connection, Database


class Workspaces:
    """Applies and deletes workspaces.

    Every method raises UnavailableError if the database does not respond. A change on behalf of a person raises
    ActorNotMemberError or ActorNotAllowedError if that person is not an admin of the workspace.
    """

    def __init__(
        self,
        database: Database,
        writer: Writer,
        measure: Callable[[Workspace], int],
        offload: Offload | None = None,
    ) -> None:
        """Make the use cases.

        Args:
            database: The database.
            writer: The writer of the fence.
            measure: Returns the bytes of a workspace as a message. It runs where long work runs.
            offload: Where long work runs; by default in a new thread.
        """
        self._offload = offload or Offload()
        self._database = database
        self._writer = writer
        self._measure = measure
        self._by_pieces = ApplyByPieces(database, measure, self._offload)

    async def apply_asked(
        self,
        asked: AskedWorkspace,
        expected_version: int | None,
        origin: Origin,
        *,
        max_removals: int | None = None,
        dry_run: bool = False,
    ) -> tuple[int, tuple[Change, ...]]:
        """Do what `apply` does with a workspace that was not converted yet. Most of what is as it was never is."""
        check_apply(expected_version, max_removals, origin)
        found = await self._by_pieces.apply(asked, expected_version, origin, max_removals=max_removals, dry_run=dry_run)
        if found is None:
            desired = await self._offload.run(asked.convert)
            return await self.apply(
                desired,
                expected_version,
                origin,
                max_removals=max_removals,
                dry_run=dry_run,
                digests=asked.digests,
            )
        if not dry_run:
            await self._writer.settle()
        return found

    async def apply(
        self,
        desired: Workspace,
        expected_version: int | None,
        origin: Origin,
        *,
        max_removals: int | None = None,
        dry_run: bool = False,
        digests: Mapping[Part, bytes] | None = None,
    ) -> tuple[int, tuple[Change, ...]]:
        """Replace the contents of a workspace; return its version and what changed. An error changes nothing.

        Args:
            desired: The whole workspace; every part that it leaves out is removed.
            expected_version: The version that the workspace must have; 0 if it must not exist; None for any.
            origin: Who does it.
            max_removals: How many parts may be removed; None for half of the current parts.
            dry_run: Whether to make all checks and return the same result, but to write nothing.
            digests: The digests of `AskedWorkspace`, to be noted.

        Raises:
            InvalidRequestError: Names every invalid field.
            VersionMismatchError: The workspace is at another version.
            WorkspaceDeletedError: The id belongs to a deleted workspace.
            WorkspaceTooLargeError: The desired workspace has too many bytes.
            TooManyChangedError: More parts would be removed than `max_removals` allows.
        """
        check_apply(expected_version, max_removals, origin)
        desired = await self._offload.run(checked, desired)
        totals = Totals.of(desired, await self._offload.run(self._measure, desired))
        check_bytes(totals.bytes)
        if dry_run:
            async with self._database.snapshot() as snapshot:
                status = await workspaces.find(snapshot, desired.id)
                return await _plan(snapshot, status, desired, expected_version, max_removals, origin, self._offload)
        async with self._database.change(origin.audit_heads) as transaction:
            created = await workspaces.create(transaction, desired.id, desired.name, desired.key_policy)
            status = await locked(transaction, desired.id)
            version, changes = await _plan(
                transaction,
                None if created else status,
                desired,
                expected_version,
                max_removals,
                origin,
                self._offload,
            )
            if changes:
                # This comes before the parts: their triggers advance the version if this transaction has not done so.
                if not created:
                    await workspaces.advance(transaction, desired.id, desired.name, desired.key_policy)
                noted = Noted(totals, digests or {})
                await write(transaction, "workspace.applied", desired, changes, noted, version, origin, self._offload)
            elif digests:
                await workspace_contents.save(transaction, desired.id, version, Noted(totals, digests))
        await self._writer.settle()
        return version, changes

    async def delete(self, workspace_id: WorkspaceId, expected_version: int | None, origin: Origin) -> datetime:
        """Delete a workspace permanently and return the time. If it was deleted before, change nothing.

        Raises:
            InvalidRequestError: Names every invalid field.
            WorkspaceNotFoundError: There was never such a workspace.
            VersionMismatchError: The workspace is at another version.
        """
        violations = Violations()
        violations.identifier("workspace_id", workspace_id)
        check_arguments(violations, expected_version, origin)
        violations.raise_if_any()
        async with self._database.change(origin.audit_heads) as transaction:
            status = await locked(transaction, workspace_id)
            deleted_at = status.deleted_at
            if deleted_at is None:
                if origin.actor is not None:
                    role = await catalog.member_role(transaction, workspace_id, origin.actor)
                    Actor(origin.actor, role).require_admin()
                check_version(status.version, expected_version)
                deleted_at = await workspaces.mark_deleted(transaction, workspace_id)
                # Before the parts, as in `write`.
                await audit.record(
                    transaction, "workspace.deleted", origin, workspace_id, details={"version": status.version}
                )
                await catalog_changes.clear(transaction, workspace_id)
        await self._writer.settle()
        return deleted_at


async def _plan(
    connection: Connection,
    status: WorkspaceStatus | None,
    desired: Workspace,
    expected_version: int | None,
    max_removals: int | None,
    origin: Origin,
    offload: Offload,
) -> tuple[int, tuple[Change, ...]]:
    """Check a change of a workspace; return its version after the change, and the changes.

    The workspace must be locked, or the connection a snapshot. `status` is None for a new workspace.
    """
    if status is None:
        _check_new_id(desired.id)
    elif status.deleted_at is not None:
        raise WorkspaceDeletedError
    current = None if status is None else await load(connection, status, offload)
    version = 0 if status is None else status.version
    require_admin(origin, (current or desired).members)
    check_version(version, expected_version)
    changes = await offload.run(difference, current, desired)
    total = 0 if current is None else sum(map(len, parts_of(current).values()))
    check_removals(total, changes, max_removals)
    return version + bool(changes), changes


def check_apply(expected_version: int | None, max_removals: int | None, origin: Origin) -> None:
    """Check the arguments of an apply, but for the workspace."""
    violations = Violations()
    check_arguments(violations, expected_version, origin)
    if max_removals is not None and max_removals < 0:
        violations.add("max_removals", f"is {max_removals}; 0 or more is allowed")
    violations.raise_if_any()


def _check_new_id(workspace_id: WorkspaceId) -> None:
    """Require an id that fits into a URL. Workspaces of older versions may have another one, and keep it."""
    violations = Violations()
    violations.url_identifier("workspace.id", workspace_id)
    violations.raise_if_any()
