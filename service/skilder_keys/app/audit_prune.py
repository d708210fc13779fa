"""Remove audit events that were exported, and leave a stub from which the chain goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from skilder_keys.domain.audit_chain import GENESIS
from skilder_keys.domain.audit_check import ChainCheck, Head
from skilder_keys.domain.audit_export import Exported
from skilder_keys.storage import audit_chain, audit_prune
from skilder_keys.storage.sessions import transaction

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from skilder_keys.storage.database import Connection

BATCH = 5000
"""The most events that are removed in one transaction."""


class NotExportedError(Exception):
    """An export does not have an event as it is on record."""


class Pruned(NamedTuple):
    """What was removed of a workspace: all events up to a number, which is 0 for none, and how many these were."""

    workspace_id: str
    through: int
    removed: int


async def candidates(connection: Connection, workspace_ids: Collection[str], before: datetime) -> dict[str, int]:
    """Return, by workspace, the number up to which all events are older than a time, if there is any."""
    chosen = workspace_ids or await audit_chain.heads(connection)
    found = {each: await audit_prune.last_before(connection, each, before) for each in chosen}
    return {each: number for each, number in found.items() if number > 0}


async def prune(
    connection: Connection, workspace_id: str, exported: Mapping[str, Exported], signed_off_by: str, before: datetime
) -> Pruned:
    """Remove the events of a workspace up to the last one that an export was read for.

    First the stub is written, as an event of the chain. Then the events go, the oldest first, in transactions of their
    own: so nobody waits for long, and if that is stopped, the next prune goes on.

    Raises:
        NotExportedError: The export does not have the events as they are on record.
    """
    known = exported.get(workspace_id, Exported())
    through = known.wanted
    if through.number > await audit_prune.signed_off(connection, workspace_id):
        await _require_exported(connection, workspace_id, known)
        details = {
            "older_events": known.older.number,
            "before": before.isoformat(),
            "signed_off_by": signed_off_by,
        }
        try:
            async with transaction(connection):
                await audit_prune.sign_off(connection, workspace_id, through, details)
        except LookupError:
            raise NotExportedError(
                f"event {through.number} of {workspace_id} has another hash than the export"
            ) from None
    removed = 0
    while True:
        async with transaction(connection):
            count = await audit_prune.remove(connection, workspace_id, BATCH)
        removed += count
        if count < BATCH:
            return Pruned(workspace_id, through.number, removed)


async def _require_exported(connection: Connection, workspace_id: str, known: Exported) -> None:
    """Require that the export has all events that would be removed, as they are on record."""
    check = ChainCheck(workspace_id)
    reached = Head(0, GENESIS)
    async with transaction(connection, "repeatable_read", readonly=True):
        async for older in audit_chain.older(connection, workspace_id):
            for each in older:
                check.older(each)
        if check.older_events not in (known.older, Head(0, GENESIS)):
            raise NotExportedError(f"the export does not have the events of {workspace_id} from before the chain")
        async for events in audit_chain.chained(connection, workspace_id):
            for event in events:
                if event.number > known.wanted.number:
                    break
                if not reached.number and event.number < known.first:
                    raise NotExportedError(f"the export does not have event {event.number} of {workspace_id}")
                check.add(event)
                reached = check.head
            else:
                continue
            break
    if check.findings:
        raise NotExportedError(f"{check.findings[0].words} in {workspace_id}: run audit verify")
    if reached != known.wanted:
        raise NotExportedError(f"event {known.wanted.number} of {workspace_id} has another hash than the export")
