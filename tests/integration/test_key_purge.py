"""Keys that ended long ago are purged: the audit trail keeps their ids and no more, and still verifies."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from skilder_keys.app.key_purge import KeyPurge
from tests.support.audit import add_event, as_owner, findings
from tests.support.databases import rows_as_text
from tests.support.rows import insert, insert_key, without_events

if TYPE_CHECKING:
    from uuid import UUID

    from tests.support.fleet import Process

    Sql = asyncpg.Connection[Any]

NOW = datetime.now(UTC)
AGE = timedelta(days=30)
REVOKED = {"revoked_by_kind": "user", "revoked_by_id": "bob", "revoke_reason": ""}
ISSUED = NOW - timedelta(days=400)


# As a purge does, but without saying that the key was purged.
ERASE = """
UPDATE audit_event
SET actor = NULL, peer = '', details = '{}', salt = NULL, private_digest = sha256(salt || convert_to(
    concat('{"actor":', to_json(actor), ',"peer":', to_json(peer), ',"details":', details::text, '}'), 'UTF8'))
"""


def days_ago(days: int) -> datetime:
    """Return a time."""
    return NOW - timedelta(days=days)


async def key(sql: Sql, **values: Any) -> UUID:
    """Make a key of bob, with an event about it."""
    async with without_events(sql):
        id_ = await insert_key(sql, type="user", user_id="bob-the-person", created_at=ISSUED, **values)
    details = '{"user_id": "bob-the-person", "reason": "bob-the-person asked"}'
    await add_event(sql, action="key.issued", key_id=id_, actor="bob-the-person", details=details)
    return id_


async def purge(one: Process, age: timedelta = AGE) -> KeyPurge:
    """Purge once."""
    assert one.database is not None
    job = KeyPurge(one.database, one.writer, one.log.logger, None, 300)
    await job.purge(age)
    return job


async def left(sql: Sql) -> set[UUID]:
    """Return the ids of the keys that are there."""
    return {row["id"] for row in await sql.fetch("SELECT id FROM key")}


async def test_only_keys_that_ended_long_ago_go(writer: Process, sql: Sql) -> None:
    """Revoked or expired, whichever came first; generations of a key go together."""
    gone = [
        await key(sql, revoked_at=days_ago(31), **REVOKED),
        await key(sql, expires_at=days_ago(31)),
        await key(sql, revoked_at=days_ago(2), expires_at=days_ago(40), **REVOKED),
        first := await key(sql, expires_at=days_ago(50)),
        await key(sql, expires_at=days_ago(40), family_id=first, predecessor_id=first),
    ]
    kept = [
        await key(sql),
        await key(sql, expires_at=NOW + timedelta(days=1)),
        await key(sql, revoked_at=days_ago(29), **REVOKED),
        await key(sql, expires_at=days_ago(29)),
        root := await key(sql, expires_at=days_ago(50)),
        await key(sql, family_id=root, predecessor_id=root),
    ]
    await insert(sql, "key_use", key_id=gone[0], last_minute=1)
    before = await sql.fetchval("SELECT count(*) FROM audit_event")
    assert (await purge(writer)).purged == len(gone)
    assert await left(sql) == set(kept)
    assert await sql.fetchval("SELECT count(*) FROM key_use") == 0
    rows = await sql.fetch("SELECT key_id, caller, details FROM audit_event WHERE action = 'key.purged'")
    assert {tuple(row) for row in rows} == {(each, "policy:purge_keys_after_days", "{}") for each in gone}
    assert await sql.fetchval("SELECT count(*) FROM audit_event") == before + len(gone)
    assert await findings(sql) == []
    assert (await purge(writer)).purged == 0


async def test_the_trail_keeps_the_id_and_no_more(writer: Process, sql: Sql) -> None:
    """Nothing of a person is in any table; a change of what is left is found, and so is erasing without a purge."""
    purged = await key(sql, revoked_at=days_ago(31), **REVOKED)
    async with without_events(sql):
        kept = await insert_key(sql)
    await add_event(sql, action="key.issued", key_id=kept, actor="ada")
    await purge(writer)
    rows = await rows_as_text(sql)
    assert not any("bob-the-person" in row for row in rows)
    assert await sql.fetchval("SELECT count(*) FROM audit_event WHERE key_id = $1", purged) == 2
    event = await sql.fetchrow(
        "SELECT actor, peer, details, salt FROM audit_event WHERE key_id = $1 ORDER BY id", purged
    )
    assert event is not None
    assert tuple(event) == (None, "", "{}", None)
    assert await findings(sql) == []
    number = await sql.fetchval("SELECT min(number) FROM audit_event WHERE key_id = $1", purged)
    by_number = "WHERE workspace_id = 'acme' AND number ="
    for change, expected in (
        (f"UPDATE audit_event SET caller = 'x' {by_number} {number}", [("acme", number, "edited")]),  # noqa: S608
        (f"UPDATE audit_event SET caller = 'console' {by_number} {number}", []),  # noqa: S608
        (f"{ERASE} {by_number} {number + 1}", [("acme", number + 1, "erased")]),
    ):
        await as_owner(sql, change)
        assert await findings(sql) == expected


async def test_who_may_purge(writer: Process, sql: Sql) -> None:
    """Only a role that may write audit events, and nobody what has just ended."""
    assert writer.database is not None
    with pytest.raises(asyncpg.RaiseError, match="for a day at least"):
        await sql.execute("SELECT purge_keys('1 hour', 1)")
    role = "reader_" + (await sql.fetchval("SELECT current_database()"))
    await sql.execute(f"CREATE ROLE {role}; SET SESSION AUTHORIZATION {role}")
    try:
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="only a role that may write audit events"):
            await sql.execute("SELECT purge_keys('30 days', 1)")
    finally:
        await sql.execute(f"RESET SESSION AUTHORIZATION; DROP ROLE {role}")


async def test_the_job_runs_by_itself_and_not_without_an_age(writer: Process, sql: Sql) -> None:
    """Without an age it ends at once; with one, it purges what ends later too."""
    assert writer.database is not None
    await KeyPurge(writer.database, writer.writer, writer.log.logger, None, 0.01).run()
    job = KeyPurge(writer.database, writer.writer, writer.log.logger, AGE.days, 0.01)
    running = asyncio.create_task(job.run())
    try:
        for count in (1, 2):
            await key(sql, expires_at=days_ago(31))
            async with asyncio.timeout(30):
                while job.purged < count or job.runs["done"] < count:
                    await asyncio.sleep(0.01)
    finally:
        running.cancel()
    assert job.runs.keys() == {"done", "elsewhere", "failed"}
    assert (job.runs["elsewhere"], job.runs["failed"]) == (0, 0)
    assert any(each["event"] == "keys purged" and each["audit_head"].startswith("acme:") for each in writer.log.events)
