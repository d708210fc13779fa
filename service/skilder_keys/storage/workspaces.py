"""Workspaces: table `workspace`. Their contents are in `storage.catalog`."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Literal

from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.domain.key_policy import NO_POLICY, KeyPolicy
from skilder_keys.domain.workspace import WorkspaceStatus

if TYPE_CHECKING:
    from datetime import datetime

    import asyncpg

    from skilder_keys.storage.database import Connection

_POLICY = [each.name for each in fields(KeyPolicy)]
COLUMNS = f"id, name, version, created_at, updated_at, deleted_at, {', '.join(_POLICY)}"
"""The columns that `status_of` needs."""
_CREATE = f"""
INSERT INTO workspace (id, name, version, {", ".join(_POLICY)})
VALUES ($1, $2, 1, {", ".join(f"${number}" for number in range(3, 3 + len(_POLICY)))})
ON CONFLICT (id) DO NOTHING RETURNING true
"""  # noqa: S608 - names of fields
_ADVANCE = "UPDATE workspace SET version = version + 1, name = $2, updated_at = now(){} WHERE id = $1"
_SET_POLICY = "".join(f", {name} = ${number}" for number, name in enumerate(_POLICY, 3))


async def find(connection: Connection, workspace_id: WorkspaceId) -> WorkspaceStatus | None:
    """Return a workspace, even a deleted one, or None."""
    row = await connection.fetchrow(
        f"SELECT {COLUMNS} FROM workspace WHERE id = $1",  # noqa: S608 - a constant
        workspace_id,
    )
    return None if row is None else status_of(row)


async def lock(
    connection: Connection, workspace_id: WorkspaceId, mode: Literal["read", "write"]
) -> WorkspaceStatus | None:
    """Return a workspace as `find` does, and lock it until the transaction ends.

    Transactions with mode "read" exclude those with mode "write", but not one another. Neither mode blocks a
    revocation, because the check of a foreign key passes both locks.
    """
    row = await connection.fetchrow(
        f"""
        SELECT {COLUMNS} FROM workspace WHERE id = $1
        FOR {"SHARE" if mode == "read" else "NO KEY UPDATE"}
        """,  # noqa: S608 - constants
        workspace_id,
    )
    return None if row is None else status_of(row)


async def create(connection: Connection, workspace_id: WorkspaceId, name: str, key_policy: KeyPolicy | None) -> bool:
    """Insert an empty workspace at version 1; return False if the id is used already, even by a deleted workspace."""
    return bool(await connection.fetchval(_CREATE, workspace_id, name, *_values(key_policy or NO_POLICY)))


async def advance(connection: Connection, workspace_id: WorkspaceId, name: str, key_policy: KeyPolicy | None) -> None:
    """Add 1 to the version, and set the name and, unless it is None, the key policy."""
    if key_policy is None:
        await connection.execute(_ADVANCE.format(""), workspace_id, name)
    else:
        await connection.execute(_ADVANCE.format(_SET_POLICY), workspace_id, name, *_values(key_policy))


async def mark_deleted(connection: Connection, workspace_id: WorkspaceId) -> datetime:
    """Mark a workspace as deleted, permanently, add 1 to its version, and return the time."""
    deleted_at: datetime = await connection.fetchval(
        """
        UPDATE workspace SET version = version + 1, updated_at = now(), deleted_at = now() WHERE id = $1
        RETURNING deleted_at
        """,
        workspace_id,
    )
    return deleted_at


def status_of(row: asyncpg.Record) -> WorkspaceStatus:
    """Return a workspace from a row that has all columns of its table."""
    return WorkspaceStatus(
        id=WorkspaceId(row["id"]),
        name=row["name"],
        version=row["version"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        deleted_at=row["deleted_at"],
        key_policy=KeyPolicy(**{name: row[name] for name in _POLICY}),
    )


def _values(key_policy: KeyPolicy) -> list[object]:
    return [getattr(key_policy, name) for name in _POLICY]
