"""A purge of keys looks up the few that ended, however many keys and events there are."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.storage import purged_keys
from tests.support.many_keys import key_id
from tests.support.plans import undone

if TYPE_CHECKING:
    import asyncpg

pytestmark = pytest.mark.stock_too(in_turn=True)

_READ = """
SELECT relname, coalesce(seq_scan, 0) AS whole, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) AS rows
FROM pg_stat_xact_user_tables WHERE relname = ANY($1::text[])
"""
_TABLES = ["key", "key_hat", "key_use", "activity_key", "audit_event"]
_EVENTS = """
INSERT INTO audit_event (at, action, workspace_id, key_id, caller, peer, details, number, hash, salt)
SELECT now(), 'key.updated', 'acme', id, 'console', 'ipv4:192.0.2.1:1', '{}', 1000000 + row_number() OVER (),
       sha256(id::text::bytea), substr(sha256(id::text::bytea), 1, 16)
FROM key WHERE workspace_id = 'acme'
"""
_ENDED = """
UPDATE key SET revoked_at = now() - interval '400 days',
               revoked_by_kind = 'user', revoked_by_id = 'ada', revoke_reason = ''
WHERE id = ANY($1::uuid[])
"""


async def test_a_purge_reads_what_it_purges(full: asyncpg.Connection[Any]) -> None:
    """By indexes, also in the cascades and triggers that it fires."""
    ended = [key_id(number) for number in range(101, 131) if number % 20]  # the others are revoked
    async with undone(full):
        await full.execute("SET LOCAL session_replication_role = replica")
        await full.execute(_EVENTS)
        await full.execute(_ENDED, ended)
        await full.execute("SET LOCAL session_replication_role = origin")
        before = {row["relname"]: row for row in await full.fetch(_READ, _TABLES)}
        assert set(await purged_keys.purge(full, timedelta(days=365), 200)) == set(ended)
        after = {row["relname"]: row for row in await full.fetch(_READ, _TABLES)}
    read = {
        name: (row["whole"] - before[name]["whole"], row["rows"] - before[name]["rows"]) for name, row in after.items()
    }
    assert {whole for whole, _ in read.values()} == {0}, read
    # A key is found, compared with its other generations, locked, looked at again and removed.
    assert len(ended) <= read["key"][1] <= 20 * len(ended), read
    assert all(rows <= 20 * len(ended) for _, rows in read.values()), read
