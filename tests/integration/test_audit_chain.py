"""The chain of audit events: numbers without gaps, hashes over each event, and where a break of it is found."""

from __future__ import annotations

import asyncio
import json
import random
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from skilder_keys.storage.migrations import migrate
from tests.support.audit import add_event, checks, findings, head, record_nothing_by_hand, two_workspaces
from tests.support.lengths import by_form
from tests.support.rows import insert, insert_key
from tests.support.sql import connected
from tests.support.stock import StockServer, cluster_folder, running

if TYPE_CHECKING:
    from uuid import UUID

    Sql = asyncpg.Connection[Any]

# As a worker of schema 30 writes events: one, and several at once.
OLDER_ONE = """
INSERT INTO audit_event (action, workspace_id, key_id, caller, actor, peer, details) VALUES ($1, $2, $3, $4, $5, $6, $7)
"""
OLDER_MANY = """
INSERT INTO audit_event (action, workspace_id, key_id, caller, actor, peer, details)
SELECT $1, $2, key_id, $3, $4, $5, details FROM unnest($6::uuid[], $7::jsonb[]) AS changed (key_id, details)
"""


@pytest.fixture
async def acme(sql: Sql) -> Sql:
    """A database with two workspaces, with five events each; what is changed by hand adds none."""
    await two_workspaces(sql)
    await record_nothing_by_hand(sql)
    return sql


async def numbers(sql: Sql, workspace_id: str = "acme") -> list[int]:
    """Return the numbers of the events of a workspace, in the order of their ids."""
    rows = await sql.fetch("SELECT number FROM audit_event WHERE workspace_id = $1 ORDER BY id", workspace_id)
    return [row["number"] for row in rows]


async def test_each_workspace_has_a_chain(acme: Sql) -> None:
    """Its events are numbered from one, also several of one statement or transaction; a rollback takes no number."""
    keys = [await insert_key(acme) for _ in range(3)]
    await acme.execute(OLDER_ONE, "key.revoked", "acme", keys[0], "operator", None, "unix:", "{}")
    undone = acme.transaction()
    await undone.start()
    await add_event(acme)
    await undone.rollback()
    async with acme.transaction():
        await acme.execute(OLDER_MANY, "key.revoked", "acme", "operator", "ada", "unix:", keys, ["{}", "[]", "1"])
        await add_event(acme, "globex")
        await add_event(acme)
        assert await numbers(acme) == [1, 2, 3, 4, 5, 6], "events are written at the commit"
    assert await numbers(acme) == list(range(1, 11))
    assert await numbers(acme, "globex") == list(range(1, 7))
    assert await findings(acme) == []
    found = await checks(acme)
    assert {each: (one.count, one.head) for each, one in found.items()} == {
        each: (one.head.number, (await head(acme, each)).head) for each, one in found.items()
    }
    assert await acme.fetchval("SELECT count(*) FROM pending_audit_event") == 0


_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=20)
_DETAILS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | _TEXT,
    lambda some: st.lists(some, max_size=3) | st.dictionaries(_TEXT, some, max_size=3),
    max_leaves=8,
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(events=st.lists(st.tuples(_TEXT, st.none() | _TEXT, _TEXT, _DETAILS), min_size=1, max_size=5))
def test_the_database_and_the_check_agree(
    events: list[tuple[str, str | None, str, object]],
    agreeing: Any,
) -> None:
    """On the content of any event: of every character, and of every JSON value."""
    runner, sql = agreeing
    runner.run(_agree(sql, events))


async def _agree(sql: Sql, events: list[tuple[str, str | None, str, object]]) -> None:
    for caller, actor, peer, details in events:
        await add_event(sql, caller=caller, actor=actor, peer=peer, details=json.dumps(details))
    assert await findings(sql) == []


@pytest.fixture
def agreeing(postgres_url: str, template: str) -> Any:
    """An event loop of its own, in which Hypothesis can run its examples, and a database."""
    from tests.support.postgres import new_database  # noqa: PLC0415

    with asyncio.Runner() as runner:
        made = new_database(postgres_url, template)
        url = runner.run(made.__aenter__())
        sql = runner.run(asyncpg.connect(url))
        runner.run(insert(sql, "workspace", id="acme", name="W", version=1))
        yield runner, sql
        runner.run(sql.close())
        runner.run(made.__aexit__(None, None, None))


async def test_an_event_is_bounded(acme: Sql) -> None:
    """What is too long becomes its digest and its length; short values beside it stay."""
    details = {
        "version": 2,
        "reason": "Why",
        "changes": {"tool": {"added": [f"tool-{n}" for n in range(40_000)]}, "hat": {"added": ["a"]}},
    }
    await add_event(acme, details=json.dumps(details))
    await add_event(acme, details=json.dumps({f"name-{n}": "x" * 100 for n in range(5000)}))
    await add_event(acme, details=json.dumps("x" * 300_000))
    rows = [
        json.loads(row[0]) for row in await acme.fetch("SELECT details FROM audit_event WHERE number > 5 ORDER BY id")
    ]
    added = rows[0]["changes"]["tool"].pop("added")
    assert rows[0] == {"version": 2, "reason": "Why", "changes": {"tool": {}, "hat": {"added": ["a"]}}}
    assert added.keys() == {"sha256", "bytes", "count"}
    assert added["count"] == 40_000
    assert [set(row) for row in rows[1:]] == [{"sha256", "bytes"}] * 2
    assert await findings(acme) == []
    longest = "SELECT max(octet_length(details::text)) FROM audit_event"
    assert await acme.fetchval(longest) <= 240 * 1024
    with pytest.raises(asyncpg.RaiseError, match="at most 256 KiB"):
        await add_event(acme, caller="x" * 300_000)


async def test_changes_at_once_leave_no_gap(acme: Sql, database_url: str) -> None:
    """Of several processes, in any order, of one and of several workspaces; some are rolled back, some sessions end."""
    keys = [await insert_key(acme) for _ in range(6)]
    turns = by_form(30, 300)

    async def change(seed: int) -> int:
        source = random.Random(seed)  # noqa: S311 - no secret
        written = 0
        async with connected(database_url) as sql:
            for turn in range(turns):
                transaction = sql.transaction()
                await transaction.start()
                steps: list[tuple[str, str | UUID]] = [
                    ("event", each) for each in source.choices(("acme", "globex"), k=source.randint(1, 3))
                ]
                # At most one key, as two in another order would wait for each other without an event as well.
                steps.append(("key", source.choice(keys)))
                source.shuffle(steps)
                for kind, what in steps:
                    if kind == "key":
                        await sql.execute("UPDATE key SET description = $2 WHERE id = $1", what, f"{seed} {turn}")
                    else:
                        await add_event(sql, str(what))
                if source.random() < 0.2:
                    await transaction.rollback()
                else:
                    await transaction.commit()
                    written += len(steps) - 1
        return written

    written = sum(await asyncio.gather(*(change(seed) for seed in range(6))))
    assert await findings(acme) == []
    for workspace_id in ("acme", "globex"):
        assert await numbers(acme, workspace_id) == list(range(1, (await head(acme, workspace_id)).head.number + 1))
    assert await acme.fetchval("SELECT count(*) FROM audit_event WHERE number > 5") == written


async def test_an_event_waits_for_the_commit_of_the_one_before(acme: Sql, database_url: str) -> None:
    """So the order of numbers is the order of commits. A session that ends before its commit leaves no gap."""
    async with connected(database_url) as one, connected(database_url) as two:
        transaction = one.transaction()
        await transaction.start()
        await add_event(one)
        await one.execute("SET CONSTRAINTS ALL IMMEDIATE")
        assert (await numbers(one))[-1] == 6
        waiting = asyncio.create_task(add_event(two, caller="second"))
        while not await acme.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
            await asyncio.sleep(0.01)
        await add_event(acme, "globex")
        assert await numbers(acme) == [1, 2, 3, 4, 5]
        await acme.execute("SELECT pg_terminate_backend($1, 5000)", one.get_server_pid())
        await waiting
    assert await numbers(acme) == [1, 2, 3, 4, 5, 6]
    assert await acme.fetchval("SELECT caller FROM audit_event WHERE number = 6 AND workspace_id = 'acme'") == "second"
    assert await findings(acme) == []


async def test_a_crash_leaves_no_gap() -> None:
    """Neither in the middle of a transaction nor after a commit: events under way are gone with their transaction."""
    with cluster_folder() as folder:
        server = StockServer.create(folder)
        with running(server):
            await migrate(server.url())
            sql, other = await asyncpg.connect(server.url()), await asyncpg.connect(server.url())
            await insert(sql, "workspace", id="acme", name="W", version=1)
            await add_event(sql)
            await other.execute("BEGIN")
            await add_event(other)
            noted = await head(sql)
            server.crash()
            for each in (sql, other):
                each.terminate()
        with running(server):
            async with connected(server.url()) as sql:
                assert await findings(sql, expected=[noted]) == []
                await add_event(sql)
                assert await numbers(sql) == [1, 2, 3]
                assert await findings(sql, expected=[noted]) == []


async def test_snapshots_tell_new_events_apart(acme: Sql, database_url: str) -> None:
    """By the transaction that wrote them, although an older transaction may commit after a newer one."""
    async with connected(database_url) as slow:
        transaction = slow.transaction()
        await transaction.start()
        await add_event(slow, "globex", caller="slow")
        await add_event(acme, caller="fast")
        snapshot = await acme.fetchval("SELECT pg_current_snapshot()::text")
        await transaction.commit()
    await add_event(acme, caller="later")
    rows = await acme.fetch(
        """
        SELECT caller FROM audit_event
        WHERE transaction >= pg_snapshot_xmin($1::text::pg_snapshot)
          AND NOT pg_visible_in_snapshot(transaction, $1::text::pg_snapshot) ORDER BY id
        """,
        snapshot,
    )
    assert [row["caller"] for row in rows] == ["slow", "later"]
