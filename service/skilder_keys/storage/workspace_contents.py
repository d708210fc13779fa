"""What is known of a workspace's contents without reading them: table `workspace_content`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING

from skilder_keys.domain.totals import Totals

if TYPE_CHECKING:
    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.storage.database import Connection

_COLUMNS = [each.name for each in fields(Totals)]
_FIND = f"SELECT {', '.join(_COLUMNS)} FROM workspace_content WHERE workspace_id = $1 AND version = $2"  # noqa: S608 - names of fields
_SAVE = f"""
INSERT INTO workspace_content (workspace_id, version, {", ".join(_COLUMNS)})
VALUES ($1, $2, {", ".join(f"${number}" for number in range(3, 3 + len(_COLUMNS)))})
ON CONFLICT (workspace_id) DO UPDATE
SET version = excluded.version, {", ".join(f"{name} = excluded.{name}" for name in _COLUMNS)}
"""  # noqa: S608 - names of fields


async def find_totals(connection: Connection, workspace_id: WorkspaceId, version: int) -> Totals | None:
    """Return the totals of a workspace at a version; None if they are not known."""
    row = await connection.fetchrow(_FIND, workspace_id, version)
    return None if row is None else Totals(**dict(row))


async def save_totals(connection: Connection, workspace_id: WorkspaceId, version: int, totals: Totals) -> None:
    """Note the totals of a workspace at a version. Call it in the transaction that makes the version."""
    await connection.execute(_SAVE, workspace_id, version, *(getattr(totals, name) for name in _COLUMNS))
