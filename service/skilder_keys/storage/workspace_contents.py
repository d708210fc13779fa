"""What is known of a workspace's contents without reading them: table `workspace_content`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from skilder_keys.domain.difference import KINDS
from skilder_keys.domain.totals import Noted, Totals

if TYPE_CHECKING:
    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.storage.database import Connection

_TOTALS = [each.name for each in fields(Totals)]
_COLUMNS = [*_TOTALS, "digests"]
_FIND = f"SELECT {', '.join(_COLUMNS)} FROM workspace_content WHERE workspace_id = $1 AND version = $2"  # noqa: S608 - names of fields
_SAVE = f"""
INSERT INTO workspace_content (workspace_id, version, {", ".join(_COLUMNS)})
VALUES ($1, $2, {", ".join(f"${number}" for number in range(3, 3 + len(_COLUMNS)))})
ON CONFLICT (workspace_id) DO UPDATE
SET version = excluded.version, {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)}
"""  # noqa: S608 - names of fields


async def find(connection: Connection, workspace_id: WorkspaceId, version: int) -> Noted | None:
    """Return what was noted of a workspace at a version; None if nothing was."""
    row = await connection.fetchrow(_FIND, workspace_id, version)
    if row is None:
        return None
    digests = {part: digest for part, digest in zip(KINDS, row["digests"], strict=True) if digest}
    return Noted(Totals(**{name: row[name] for name in _TOTALS}), digests)


async def save(connection: Connection, workspace_id: WorkspaceId, version: int, noted: Noted) -> None:
    """Note what a workspace has at a version. Call it in the transaction that makes the version, or has locked it."""
    digests = [noted.digests.get(part, b"") for part in KINDS]
    values = [getattr(noted.totals, name) for name in _TOTALS]
    await connection.execute(_SAVE, workspace_id, version, *values, digests)
