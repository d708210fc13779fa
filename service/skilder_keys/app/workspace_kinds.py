"""Apply a workspace of which some kinds of parts are as they were. Those are neither converted, checked nor read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.app.workspace_changes import check_version, write
from skilder_keys.app.workspace_updates import surroundings, totals_after
from skilder_keys.domain.access import Actor
from skilder_keys.domain.difference import KINDS, Action, Change, Part, check_removals, difference
from skilder_keys.domain.errors import KeysError, UnavailableError
from skilder_keys.domain.fields import MAX_NAME, Violations
from skilder_keys.domain.totals import Noted, Totals
from skilder_keys.domain.workspace import Catalog, Workspace
from skilder_keys.domain.workspace_checks import canonical, check_bounds, check_unique
from skilder_keys.domain.workspace_update import PartRef, Update, check_named_ids, check_result, check_totals
from skilder_keys.storage import catalog, workspace_contents, workspaces

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from skilder_keys.domain.access import Origin
    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.domain.workspace import Member, WorkspaceStatus
    from skilder_keys.offload import Offload
    from skilder_keys.storage.database import Connection, Database

_NOTHING = Totals(0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class AskedWorkspace:
    """The workspace that a request asks for.

    Attributes:
        digests: A digest of the parts of each kind, as they were sent. It depends on all rules for them too.
        convert: Returns the workspace with the parts of some kinds only. It raises InvalidRequestError where one cannot
            be expressed. It runs where long work runs.
    """

    id: WorkspaceId
    name: str
    digests: Mapping[Part, bytes]
    convert: Callable[[Collection[Part]], Workspace]


class ApplyByKinds:
    """Applies the kinds of parts that are not known to be as they were.

    A kind is known if its digest was noted for the present version: then the same parts were applied, by the same
    rules, and nothing has changed them since. Whatever changes a part makes another version.
    """

    def __init__(self, database: Database, measure: Callable[[Workspace], int], offload: Offload) -> None:
        """Make the use case. The arguments are those of `Workspaces`."""
        self._database = database
        self._measure = measure
        self._offload = offload

    async def apply(
        self,
        asked: AskedWorkspace,
        expected_version: int | None,
        origin: Origin,
        *,
        max_removals: int | None,
        dry_run: bool,
    ) -> tuple[int, tuple[Change, ...]] | None:
        """Return what `Workspaces.apply` returns, without waiting for the fence.

        Return None where that use case has to do it: if no kind is known, and for every error, as it names all faults.
        """
        violations = Violations()
        violations.identifier("workspace.id", asked.id)
        try:
            violations.raise_if_any()
            if dry_run:
                async with self._database.snapshot() as snapshot:
                    status = await workspaces.find(snapshot, asked.id)
                    plan = await self._plan(snapshot, status, asked, expected_version, max_removals, origin)
                    return None if plan is None else (plan[0], plan[2])
            async with self._database.transaction() as transaction:
                status = await workspaces.lock(transaction, asked.id, "write")
                plan = await self._plan(transaction, status, asked, expected_version, max_removals, origin)
                if plan is None:
                    return None
                version, after, changes, noted, fresh = plan
                if changes:
                    # As in `Workspaces.apply`, this comes before the parts.
                    await workspaces.advance(transaction, after.id, after.name)
                    await write(transaction, "workspace.applied", after, changes, noted, version, origin, self._offload)
                elif fresh:
                    await workspace_contents.save(transaction, asked.id, version, noted)
                return version, changes
        except UnavailableError:
            raise
        except KeysError:
            return None

    async def _plan(
        self,
        connection: Connection,
        status: WorkspaceStatus | None,
        asked: AskedWorkspace,
        expected_version: int | None,
        max_removals: int | None,
        origin: Origin,
    ) -> tuple[int, Workspace, tuple[Change, ...], Noted, bool] | None:
        """Return the version afterwards, the parts of the kinds that are not known, the changes, and what to note.

        The last value is whether that is new.
        """
        if status is None or status.deleted_at is not None:
            return None
        noted = await workspace_contents.find(connection, status.id, status.version)
        if noted is None:
            return None
        kinds = [part for part in KINDS if noted.digests.get(part) != asked.digests[part]]
        if len(kinds) == len(KINDS):
            return None
        if origin.actor is not None:
            Actor(origin.actor, await catalog.member_role(connection, status.id, origin.actor)).require_admin()
        check_version(status.version, expected_version)
        desired = await self._offload.run(self._checked, asked, kinds)
        before = await self._load(connection, status, kinds)
        after = await self._offload.run(canonical, desired)
        changes = await self._offload.run(difference, before, after)
        check_removals(noted.totals.parts, changes, max_removals)
        removed = tuple(PartRef(each.part, each.id) for each in changes if each.action is Action.REMOVED)
        update = Update(status.id, asked.name, desired, removed)
        around = await surroundings(connection, update, before, changes, self._offload)
        await self._offload.run(check_result, update, around)
        totals = await totals_after(connection, noted.totals, before, after, self._measure, self._offload)
        check_totals(_NOTHING, totals)
        return status.version + bool(changes), after, changes, Noted(totals, asked.digests), bool(kinds)

    async def _load(self, connection: Connection, status: WorkspaceStatus, kinds: Collection[Part]) -> Workspace:
        """Return a workspace with the parts of some kinds only."""
        members: tuple[Member, ...] = ()
        if Part.MEMBER in kinds:
            members = await catalog.load_members(connection, status.id, self._offload)
        names = [f"{part.value}s" for part in kinds if part is not Part.MEMBER]
        if not names:
            return Workspace(status.id, status.name, members, Catalog((), (), (), ()))
        contents = await catalog.load_catalog(connection, status.id, offload=self._offload, parts=names)
        return Workspace(status.id, status.name, members, contents)

    @staticmethod
    def _checked(asked: AskedWorkspace, kinds: Collection[Part]) -> Workspace:
        desired = asked.convert(kinds)
        violations = Violations()
        violations.text("workspace.name", asked.name, maximum=MAX_NAME)
        check_bounds(violations, "workspace", desired)
        check_unique(violations, "workspace", desired)
        check_named_ids(violations, desired)
        violations.raise_if_any()
        return desired
