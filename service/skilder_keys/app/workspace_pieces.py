"""Apply a workspace of which most parts are as they were. Those are neither converted, checked nor read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from skilder_keys.app.workspace_changes import check_version, write
from skilder_keys.app.workspace_updates import effect_of, totals_after
from skilder_keys.domain.access import Actor
from skilder_keys.domain.difference import Change, Part, check_removals
from skilder_keys.domain.errors import KeysError, UnavailableError
from skilder_keys.domain.fields import MAX_NAME, Violations
from skilder_keys.domain.totals import Noted, Totals
from skilder_keys.domain.workspace_checks import check_bounds, check_unique, ids_of
from skilder_keys.domain.workspace_update import MAX_PARTS, PartRef, Update, check_named_ids, check_totals
from skilder_keys.storage import catalog, workspace_contents, workspace_parts, workspaces
from skilder_keys.storage.plans import prefer_indexes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from skilder_keys.domain.access import Origin
    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.domain.workspace import Workspace, WorkspaceStatus
    from skilder_keys.offload import Offload
    from skilder_keys.storage.database import Connection, Database

_NOTHING = Totals(0, 0, 0, 0, 0, 0, 0, 0)


@dataclass(frozen=True, slots=True)
class Unknown:
    """What of a workspace is not known to be as it was.

    Attributes:
        parts: The workspace with the parts of unknown pieces only.
        ids: By kind that is not as it was as a whole, the ids of all its parts, known or not.
    """

    parts: Workspace
    ids: Mapping[Part, Sequence[str]]


class AskedWorkspace(Protocol):
    """The workspace that a request asks for, its parts divided into pieces. Its methods run where long work runs."""

    @property
    def id(self) -> WorkspaceId:
        """The id."""

    @property
    def name(self) -> str:
        """The name."""

    @property
    def digests(self) -> Mapping[Part, bytes]:
        """Of each kind, the digests of its pieces as they were sent; never empty. They depend on all rules too."""

    def convert(self) -> Workspace:
        """Return the whole workspace. Raise InvalidRequestError where a part cannot be expressed."""

    def unknown(self, known: Mapping[Part, bytes], most: int) -> Unknown | None:
        """Return what is not in known pieces, or None if it is more than `most` parts. Raise as `convert`."""


class ApplyByPieces:
    """Applies the pieces of a workspace that are not known to be as they were, as an update of their parts.

    A piece is known if its digest was noted for the present version: then the same parts were applied, by the same
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

        Return None where that use case has to do it: if too little is known, and for every error, as it names all
        faults.
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
            async with self._database.change(origin.audit_heads) as transaction:
                status = await workspaces.lock(transaction, asked.id, "write")
                plan = await self._plan(transaction, status, asked, expected_version, max_removals, origin)
                if plan is None:
                    return None
                version, after, changes, noted, is_new = plan
                if changes:
                    # As in `Workspaces.apply`, this comes before the parts.
                    await workspaces.advance(transaction, after.id, after.name, after.key_policy)
                    await write(transaction, "workspace.applied", after, changes, noted, version, origin, self._offload)
                elif is_new:
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
        """Return the version afterwards, the parts that are put, the changes, and what to note.

        The last value is whether that is new.
        """
        if status is None or status.deleted_at is not None:
            return None
        noted = await workspace_contents.find(connection, status.id, status.version)
        if noted is None or not noted.digests:
            return None
        if origin.actor is not None:
            Actor(origin.actor, await catalog.member_role(connection, status.id, origin.actor)).require_admin()
        check_version(status.version, expected_version)
        unknown = await self._offload.run(asked.unknown, noted.digests, MAX_PARTS)
        if unknown is None:
            return None
        await self._offload.run(_check, asked.name, unknown)
        removed = await self._removed(connection, status.id, unknown, noted.totals)
        if len(removed) > MAX_PARTS:
            return None
        update = Update(status.id, asked.name, unknown.parts, removed)
        before, after, changes = await effect_of(connection, status, update, self._offload)
        check_removals(noted.totals.parts, changes, max_removals)
        totals = await totals_after(connection, noted.totals, before, after, self._measure, self._offload)
        check_totals(_NOTHING, totals)
        return status.version + bool(changes), after, changes, Noted(totals, asked.digests), bool(unknown.ids)

    async def _removed(
        self, connection: Connection, workspace_id: WorkspaceId, unknown: Unknown, totals: Totals
    ) -> tuple[PartRef, ...]:
        """Return the parts that are there and were not sent. No id may have been sent twice."""
        put = {part: ids_of(unknown.parts, part) for part in unknown.ids}
        await prefer_indexes(connection)
        existing = await workspace_parts.find_existing(connection, workspace_id, put)
        removed: list[PartRef] = []
        for part, sent in unknown.ids.items():
            added = len(put[part]) - len(existing[part])
            # What is in known pieces exists. So all ids need to be read only if some are missing.
            if len(sent) - added < totals.count(part):
                there = await workspace_parts.find_ids(connection, workspace_id, part)
                missing = await self._offload.run(set(there).difference, sent)
                removed += [PartRef(part, id_) for id_ in missing]
        return tuple(removed)


def _check(name: str, unknown: Unknown) -> None:
    """Check what was sent by itself, without the parts in known pieces, which were checked before."""
    violations = Violations()
    violations.text("workspace.name", name, maximum=MAX_NAME)
    check_bounds(violations, "workspace", unknown.parts)
    check_unique(violations, "workspace", unknown.parts)
    check_named_ids(violations, unknown.parts)
    for part, ids in unknown.ids.items():
        if len(set(ids)) < len(ids):
            violations.add("workspace", f"has a {part.value} twice")
    violations.raise_if_any()
