"""Update single parts of a workspace. What that costs depends on these parts, not on the size of the workspace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from skilder_keys.app.workspace_changes import check_arguments, check_version, load, locked, write
from skilder_keys.domain.access import Actor
from skilder_keys.domain.difference import KINDS, Action, Change, Part, difference
from skilder_keys.domain.errors import WorkspaceDeletedError, WorkspaceNotFoundError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.totals import Noted, Totals
from skilder_keys.domain.workspace_checks import NAMED
from skilder_keys.domain.workspace_update import (
    Surroundings,
    Update,
    check_result,
    check_totals,
    check_update,
    named_outside,
    updated,
)
from skilder_keys.offload import Offload
from skilder_keys.storage import catalog, workspace_contents, workspace_parts, workspaces

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from skilder_keys.app.fence.writer import Writer
    from skilder_keys.domain.access import Origin
    from skilder_keys.domain.workspace import Workspace, WorkspaceStatus
    from skilder_keys.storage.database import Connection, Database


class WorkspaceUpdates:
    """Adds, replaces and removes single parts of workspaces."""

    def __init__(
        self,
        database: Database,
        writer: Writer,
        measure: Callable[[Workspace], int],
        offload: Offload | None = None,
    ) -> None:
        """Make the use case. The arguments are those of `Workspaces`."""
        self._offload = offload or Offload()
        self._database = database
        self._writer = writer
        self._measure = measure

    async def update(
        self,
        update: Update,
        expected_version: int | None,
        origin: Origin,
        *,
        violations: Violations | None = None,
        dry_run: bool = False,
    ) -> tuple[int, tuple[Change, ...]]:
        """Update a workspace; return its version and what changed. An error changes nothing.

        Args:
            update: The parts to put in place and to remove.
            expected_version: The version that the workspace must have; None for any.
            origin: Who does it.
            violations: Invalid fields that were found before, to be reported together with those found here.
            dry_run: Whether to make all checks and return the same result, but to write nothing.

        Raises:
            InvalidRequestError: Names every invalid field.
            WorkspaceNotFoundError: There is no such workspace.
            WorkspaceDeletedError: The workspace was deleted.
            VersionMismatchError: The workspace is at another version.
            WorkspaceTooLargeError: The workspace would have too many bytes.
            ActorNotMemberError, ActorNotAllowedError: The actor is not an admin of the workspace.
            UnavailableError: The database does not respond.
        """
        violations = violations or Violations()
        check_arguments(violations, expected_version, origin)
        await self._offload.run(check_update, update, violations)
        if dry_run:
            async with self._database.snapshot() as snapshot:
                status = await workspaces.find(snapshot, update.workspace_id)
                if status is None:
                    raise WorkspaceNotFoundError(f"There is no workspace {update.workspace_id!r}.")
                _, changes, _ = await self._plan(snapshot, status, update, expected_version, origin)
                return status.version + bool(changes), changes
        async with self._database.change(origin.audit_heads) as transaction:
            status = await locked(transaction, update.workspace_id)
            after, changes, noted = await self._plan(transaction, status, update, expected_version, origin)
            version = status.version + bool(changes)
            if changes:
                # This comes before the parts: their triggers advance the version if this transaction has not done so.
                await workspaces.advance(transaction, after.id, after.name, after.key_policy)
                await write(transaction, "workspace.updated", after, changes, noted, version, origin, self._offload)
        await self._writer.settle()
        return version, changes

    async def _plan(
        self,
        connection: Connection,
        status: WorkspaceStatus,
        update: Update,
        expected_version: int | None,
        origin: Origin,
    ) -> tuple[Workspace, tuple[Change, ...], Noted]:
        """Check an update; return the touched parts as they will be, the changes, and what is noted of the workspace.

        The workspace must be locked, or the connection a snapshot.
        """
        if status.deleted_at is not None:
            raise WorkspaceDeletedError
        if origin.actor is not None:
            role = await catalog.member_role(connection, status.id, origin.actor)
            Actor(origin.actor, role).require_admin()
        check_version(status.version, expected_version)
        before, after, changes = await effect_of(connection, status, update, self._offload)
        noted = await workspace_contents.find(connection, status.id, status.version)
        if noted is None:
            # Nobody noted it since the last change: it was made by hand, or by an earlier version of the service.
            whole = await load(connection, status, self._offload)
            noted = Noted(Totals.of(whole, await self._offload.run(self._measure, whole)), {})
        totals = await totals_after(connection, noted.totals, before, after, self._measure, self._offload)
        check_totals(noted.totals, totals)
        changed = {change.part for change in changes}
        digests = {part: digest for part, digest in noted.digests.items() if part not in changed}
        return after, changes, Noted(totals, digests)


async def effect_of(
    connection: Connection, status: WorkspaceStatus, update: Update, offload: Offload
) -> tuple[Workspace, Workspace, tuple[Change, ...]]:
    """Return the parts that an update touches as they are and as they will be, and the changes.

    The workspace must be locked, or the connection a snapshot.

    Raises:
        InvalidRequestError: What the update puts in place does not fit what stays.
    """
    touched = {part: update.touched(part) for part in KINDS}
    found = await workspace_parts.load(connection, status.id, status.name, touched, offload)
    before = replace(found, key_policy=status.key_policy)
    after = await offload.run(updated, before, update)
    changes = await offload.run(difference, before, after)
    await offload.run(check_result, update, await _surroundings(connection, update, before, changes, offload))
    return before, after, changes


async def totals_after(
    connection: Connection,
    totals: Totals,
    before: Workspace,
    after: Workspace,
    measure: Callable[[Workspace], int],
    offload: Offload,
) -> Totals:
    """Return the totals of a workspace with some parts changed.

    Args:
        connection: Has locked the workspace, or is a snapshot.
        totals: The totals before.
        before: The parts that change, as they are.
        after: The same parts, as they will be.
        measure: As in `Workspaces`.
        offload: Where long work runs.
    """
    around = await workspace_parts.find_around(connection, before.id, before, after)

    def counted(parts: Workspace) -> Totals:
        return Totals.of(parts, measure(parts), around)

    return totals.changed(await offload.run(counted, before), await offload.run(counted, after))


async def _surroundings(
    connection: Connection, update: Update, before: Workspace, changes: Sequence[Change], offload: Offload
) -> Surroundings:
    """Return what the checks of an update need to know of the parts that it does not touch."""
    put = update.put
    outside = await offload.run(named_outside, update)
    removed = {
        part: [each.id for each in changes if each.part is part and each.action is Action.REMOVED] for part in NAMED
    }
    touched = {part: update.touched(part) for part in (Part.MEMBER, Part.TEAM, Part.HAT, Part.SKILL)}
    names = {(tool.mcp_server, tool.name) for tool in put.catalog.tools}
    kept = {(tool.mcp_server, tool.name) for tool in before.catalog.tools}
    return Surroundings(
        existing=await workspace_parts.find_existing(connection, update.workspace_id, outside),
        parents=(
            await workspace_parts.find_parents(connection, update.workspace_id) if update.touched(Part.TEAM) else {}
        ),
        namings=await workspace_parts.find_namings(connection, update.workspace_id, removed, touched),
        tool_names=await workspace_parts.find_tool_names(connection, update.workspace_id, names - kept),
    )
