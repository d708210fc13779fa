"""The audit trail of a test's database, read and changed from outside the service."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skilder_keys.app.audit_check import check
from skilder_keys.domain.audit_check import ExpectedHead, Head
from tests.support.rows import insert, without_events

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

    from skilder_keys.domain.audit_check import ChainCheck

    Sql = asyncpg.Connection[Any]


async def add_event(sql: Sql, workspace_id: str = "acme", **values: Any) -> None:
    """Write an event as the service does."""
    defaults = {"action": "workspace.applied", "caller": "console", "peer": "ipv4:127.0.0.1:1", "details": "{}"}
    await insert(sql, "audit_event", workspace_id=workspace_id, **(defaults | values))


async def checks(sql: Sql, *workspace_ids: str, expected: Iterable[ExpectedHead] = ()) -> dict[str, ChainCheck]:
    """Return the finished checks by workspace."""
    async with sql.transaction(isolation="repeatable_read", readonly=True):
        return {each.workspace_id: each async for each in check(sql, workspace_ids, expected)}


async def findings(sql: Sql, *workspace_ids: str, expected: Iterable[ExpectedHead] = ()) -> list[tuple[str, int, str]]:
    """Return what `audit verify` finds: workspace, number and kind of each fault."""
    done = await checks(sql, *workspace_ids, expected=expected)
    return [(found.workspace_id, found.number, found.fault.value) for each in done.values() for found in each.findings]


async def head(sql: Sql, workspace_id: str = "acme") -> ExpectedHead:
    """Return the head on record."""
    row = await sql.fetchrow("SELECT number, hash FROM audit_head WHERE workspace_id = $1", workspace_id)
    assert row is not None
    return ExpectedHead(workspace_id, Head(row["number"], row["hash"]))


async def as_owner(sql: Sql, *statements: str) -> None:
    """Run statements as somebody does who owns the tables and wants to leave no trace."""
    async with sql.transaction():
        await sql.execute("ALTER TABLE audit_event DISABLE TRIGGER USER")
        for statement in statements:
            await sql.execute(statement)
        for trigger in ("audit_event_divert", "audit_event_refuse_change"):
            await sql.execute(f"ALTER TABLE audit_event ENABLE ALWAYS TRIGGER {trigger}")


async def record_nothing_by_hand(sql: Sql) -> None:
    """Let keys and workspaces be written by hand without events, so that a test has its own only. No server starts."""
    for row in await sql.fetch("SELECT tgrelid::regclass AS t, tgname FROM pg_trigger WHERE tgname LIKE '%by_hand%'"):
        await sql.execute(f"ALTER TABLE {row['t']} DISABLE TRIGGER {row['tgname']}")


async def two_workspaces(sql: Sql) -> None:
    """Make `acme` and `globex`, with five events each."""
    async with without_events(sql):
        for workspace_id in ("acme", "globex"):
            await insert(sql, "workspace", id=workspace_id, name="W", version=1)
    for number in range(1, 6):
        for workspace_id in ("acme", "globex"):
            await add_event(sql, workspace_id, details=f'{{"version": {number}}}', actor="ada")
