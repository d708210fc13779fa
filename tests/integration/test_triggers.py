"""A database whose triggers do not fire is refused, since changes could then pass the fence unnoticed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.errors import UnavailableError
from skilder_keys.storage.sessions import DatabaseFaultError
from skilder_keys.storage.triggers import NEEDED, require_triggers
from tests.support.service import serving
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

pytestmark = [pytest.mark.stock_too, GRPCIO_IF_SHORT]


async def test_every_trigger_is_listed(sql: asyncpg.Connection[Any]) -> None:
    """So a migration that adds one must say that the service relies on it."""
    rows = await sql.fetch("SELECT tgrelid::regclass::text AS relname, tgname FROM pg_trigger WHERE NOT tgisinternal")
    assert {(row["relname"], row["tgname"]) for row in rows} == {
        (table, trigger) for table, triggers in NEEDED.items() for trigger in triggers
    }


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("ALTER TABLE key DISABLE TRIGGER key_change", 'ALTER TABLE public."key" ENABLE ALWAYS TRIGGER key_change'),
        (
            "ALTER TABLE tool ENABLE TRIGGER tool_replicated",
            'ALTER TABLE public."tool" ENABLE REPLICA TRIGGER tool_replicated',
        ),
        # As `pg_restore --data-only --disable-triggers` leaves them.
        (
            "ALTER TABLE member ENABLE TRIGGER ALL",
            "member_added, member_emptied, member_removed, member_replicated, member_updated",
        ),
        ("DROP TRIGGER tool_updated ON tool", "the triggers tool_updated are missing"),
    ],
)
async def test_a_trigger_that_does_not_fire_is_named(
    transport: str, sql: asyncpg.Connection[Any], database_url: str, tmp_path: Path, statement: str, words: str
) -> None:
    """By the check, and by a server that starts on such a database."""
    await require_triggers(sql, "public")
    await sql.execute(statement)
    with pytest.raises(DatabaseFaultError) as refused:
        await require_triggers(sql, "public")
    assert words in str(refused.value)
    with pytest.raises(UnavailableError):
        async with serving(database_url, tmp_path, transport=transport):
            pytest.fail("the server started")
