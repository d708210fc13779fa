"""Keys that nobody uses are revoked where the key policy says so; a key that was used within the time never is."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from skilder_keys.app.unused_keys import CHUNK, UnusedKeys
from skilder_keys.domain.key_policy import BEHIND, FRESH
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.storage import unused_keys
from tests.support.fleet import BOOTTIME, ORIGIN, process
from tests.support.rows import insert_key
from tests.support.service import serving
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.waiting import until
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from skilder.keys.v1.workspace_pb2 import Workspace
    from tests.support.fleet import Process

    Sql = asyncpg.Connection[Any]

DAYS = 30


class AdvancedClock:
    """The clock of the machine, ahead by some seconds."""

    ahead = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return BOOTTIME() + self.ahead


def with_rule(days: int = DAYS) -> Workspace:
    """Return the small workspace with the rule."""
    workspace = small_workspace()
    workspace.key_policy.revoke_unused_after.FromTimedelta(timedelta(days=days))
    return workspace


@asynccontextmanager
async def following(database_url: str, clock: AdvancedClock | None = None) -> AsyncIterator[Process]:
    """Run a process of the fleet that follows the fence."""
    async with process(database_url, clock=clock or BOOTTIME) as made:
        await made.follow()
        yield made


def job_of(one: Process) -> UnusedKeys:
    """Return the job of a process."""
    return UnusedKeys(one.database, one.writer, one.log.logger, 0.05)


async def let_rule_settle(sql: Sql) -> None:
    """Let the rule of `acme` be as old as it has to be."""
    await sql.execute("UPDATE workspace SET unused_rule_since = now() - $1::interval WHERE id = 'acme'", BEHIND)


async def age(sql: Sql, key_id: UUID, unused: timedelta) -> None:
    """Let the recorded last use of a key be some time ago."""
    await sql.execute("UPDATE key SET last_used_at = now() - $2::interval WHERE id = $1", key_id, unused)


async def unused_seconds(sql: Sql, key_id: UUID) -> float:
    """Return how long ago the recorded last use of a key is."""
    query = "SELECT extract(epoch FROM clock_timestamp() - last_used_at)::double precision FROM key WHERE id = $1"
    found: float = await sql.fetchval(query, key_id)
    return found


async def is_revoked(sql: Sql, key_id: UUID) -> bool:
    """Return whether a key is revoked."""
    return bool(await sql.fetchval("SELECT revoked_at IS NOT NULL FROM key WHERE id = $1", key_id))


async def test_keys_that_nobody_uses_are_revoked(database_url: str, sql: Sql) -> None:
    """Those whose last use or issue is long enough ago, whatever they are for, and no others; at once, everywhere."""
    over = timedelta(days=DAYS) + BEHIND + timedelta(minutes=1)
    under = timedelta(days=DAYS) + BEHIND - timedelta(minutes=1)
    async with following(database_url) as one, following(database_url) as other:
        await one.apply(with_rule())
        await one.apply(small_workspace("other"))
        await let_rule_settle(sql)
        unused, token = await one.issue()
        suspended, _ = await one.issue()
        await one.changes.suspend(str(suspended.id), "", ORIGIN)
        used, used_token = await one.issue()
        expired, _ = await one.issue(lifetime=timedelta(seconds=1))
        assert [await each.outcome(token) for each in (one, other)] == ["granted"] * 2
        for key in (unused, suspended, expired):
            await age(sql, key.id, over)
        await age(sql, used.id, under)
        now = datetime.now(UTC)
        never = await insert_key(sql, created_at=now - over)
        issued_lately = await insert_key(sql, created_at=now - under)
        elsewhere = await insert_key(sql, workspace_id="other", created_at=now - over)
        await until(lambda: _has_expired(sql, expired.id))
        assert await job_of(one).revoke()
        revoked = {each: await is_revoked(sql, each) for each in (unused.id, suspended.id, never)}
        assert all(revoked.values()), revoked
        kept = {each: await is_revoked(sql, each) for each in (used.id, expired.id, issued_lately, elsewhere)}
        assert not any(kept.values()), kept
        assert [await each.outcome(token) for each in (one, other)] == ["REVOKED"] * 2
        assert await other.outcome(used_token) == "granted"
        assert await job_of(one).revoke()  # again, with nothing to do


async def _has_expired(sql: Sql, key_id: UUID) -> bool:
    return bool(await sql.fetchval("SELECT expires_at < clock_timestamp() FROM key WHERE id = $1", key_id))


async def test_a_revocation_says_that_the_policy_did_it(database_url: str, sql: Sql) -> None:
    """The key names the rule, and the audit trail has an event with the last use."""
    async with following(database_url) as one:
        await one.apply(with_rule())
        await let_rule_settle(sql)
        key, _ = await one.issue()
        await age(sql, key.id, timedelta(days=100))
        job = job_of(one)
        await job.revoke()
        assert job.revoked == 1
        found = await one.keys.get(str(key.id), None, ORIGIN.caller.limits)
    assert found.revocation is not None
    assert found.revocation.by == Principal(PrincipalKind.POLICY, "revoke_unused_after")
    assert "Not used for more than 30 days" in found.revocation.reason
    event = await sql.fetchrow("SELECT * FROM audit_event WHERE action = 'key.revoked'")
    assert event is not None
    assert (event["key_id"], event["caller"], event["actor"]) == (key.id, "policy:revoke_unused_after", None)
    details = json.loads(event["details"])
    assert details["reason"] == found.revocation.reason
    assert datetime.now(UTC) - datetime.fromisoformat(details["last_used_at"]) > timedelta(days=99)


async def test_a_rule_begins_to_count_some_time_after_it_was_set(database_url: str, sql: Sql) -> None:
    """Until then, uses from before may not be on record. A change of the rule begins anew; other changes do not."""
    async with following(database_url) as one:
        await one.apply(with_rule())
        key, _ = await one.issue()
        await age(sql, key.id, timedelta(days=100))
        await sql.execute(
            "UPDATE workspace SET unused_rule_since = now() - $1::interval", BEHIND - timedelta(minutes=1)
        )
        await job_of(one).revoke()
        await let_rule_settle(sql)
        await one.apply(with_rule(31))
        await job_of(one).revoke()
        assert not await is_revoked(sql, key.id)
        await let_rule_settle(sql)
        renamed = with_rule(31)
        renamed.name = "Another"
        await one.apply(renamed)
        await job_of(one).revoke()
        assert await is_revoked(sql, key.id)


async def test_a_use_after_long_is_on_record_before_it_is_granted(database_url: str, sql: Sql) -> None:
    """So the loss of a process loses no use that matters. Where there is no rule, nothing is recorded at once."""
    async with following(database_url) as one:
        await one.apply(with_rule())
        await let_rule_settle(sql)
        key, token = await one.issue()
        await one.outcome(token)
        for long in (timedelta(days=100), FRESH):
            async with process(database_url) as another:
                await another.follow()
                await age(sql, key.id, long)
                assert await another.outcome(token) == "granted"
                assert await unused_seconds(sql, key.id) < 60  # and its uses that are not written are lost
        await job_of(one).revoke()
        assert not await is_revoked(sql, key.id)
        async with following(database_url) as another:
            await age(sql, key.id, FRESH - timedelta(minutes=1))
            assert await another.outcome(token) == "granted"
            assert await unused_seconds(sql, key.id) > 60
        await one.apply(small_workspace())  # which keeps the rule
        without = small_workspace()
        without.key_policy.SetInParent()
        await one.apply(without)
        async with following(database_url) as another:
            await age(sql, key.id, timedelta(days=100))
            assert await another.outcome(token) == "granted"
            assert await unused_seconds(sql, key.id) > 60


async def test_a_key_that_waits_in_memory_is_read_again(database_url: str, sql: Sql) -> None:
    """A process that has had it in memory for long records its next use before it is granted."""
    clock = AdvancedClock()
    async with following(database_url, clock) as one, following(database_url) as other:
        await one.apply(with_rule())
        await let_rule_settle(sql)
        key, token = await one.issue()
        await one.outcome(token)
        hits = one.memory.hits
        assert await one.outcome(token) == "granted"
        assert one.memory.hits == hits + 1
        await age(sql, key.id, timedelta(days=100))  # nobody has used it since, by the record
        clock.ahead += FRESH.total_seconds()
        await until(lambda: _valid(one))
        assert await one.outcome(token) == "granted"
        assert await unused_seconds(sql, key.id) < 60
        await job_of(other).revoke()
        assert await one.outcome(token) == "granted"


async def _valid(one: Process) -> bool:
    return one.lease.valid()


async def test_all_forget_the_keys_of_a_workspace_that_gets_the_rule(database_url: str, sql: Sql) -> None:
    """Before the call that sets it returns: those in memory would be used without a look at the record."""
    async with following(database_url) as one, following(database_url) as other:
        await one.apply()
        key, token = await one.issue()
        for each in (one, other):
            await each.outcome(token)
            assert each.memory.find(token) is not None
        await age(sql, key.id, timedelta(days=100))
        await one.apply(with_rule())
        assert [each.memory.find(token) for each in (one, other)] == [None, None]
        assert await other.outcome(token) == "granted"
        assert await unused_seconds(sql, key.id) < 60


async def test_a_use_and_the_revocation_at_once_have_one_winner(database_url: str, sql: Sql) -> None:
    """Whatever was granted is not revoked afterwards; whatever is revoked was not granted."""
    async with following(database_url) as one, following(database_url) as other:
        await one.apply(with_rule())
        await let_rule_settle(sql)
        issued = [await one.issue() for _ in range(60)]
        for round_ in range(3):
            live = [(key, token) for key, token in issued if not await is_revoked(sql, key.id)]
            for key, _ in live:
                await age(sql, key.id, timedelta(days=100))
            for each in (one, other):
                each.memory.drop_all()
            jobs = [job_of(each).revoke() for each in (one, other)]
            asked = live[:: round_ + 1]
            calls = asyncio.gather(*((one, other)[at % 2].outcome(token) for at, (_, token) in enumerate(asked)))
            await asyncio.gather(*jobs)
            outcomes = await calls
            for (key, _), outcome in zip(asked, outcomes, strict=True):
                assert (outcome == "granted") == (not await is_revoked(sql, key.id)), outcome
            await job_of(one).revoke()
            for (key, _), outcome in zip(asked, outcomes, strict=True):
                assert (outcome == "granted") == (not await is_revoked(sql, key.id)), outcome


async def test_a_use_that_is_being_recorded_counts(database_url: str, sql: Sql) -> None:
    """The row of a key that another transaction has locked is left out, also if that took it after the search."""
    async with following(database_url) as one:
        await one.apply(with_rule())
        await let_rule_settle(sql)
        key, _ = await one.issue()
        await age(sql, key.id, timedelta(days=100))
        async with sql.transaction():
            await age(sql, key.id, timedelta())
            await job_of(one).revoke()
        assert not await is_revoked(sql, key.id)


async def test_one_process_revokes_at_a_time(database_url: str, sql: Sql) -> None:
    """The others leave it to that one, and do not wait."""
    async with following(database_url) as one:
        await one.apply(with_rule())
        await let_rule_settle(sql)
        key, _ = await one.issue()
        await age(sql, key.id, timedelta(days=100))
        async with sql.transaction():
            assert await unused_keys.try_lock(sql)
            assert not await job_of(one).revoke()
            assert not await is_revoked(sql, key.id)
        assert await job_of(one).revoke()
        assert await is_revoked(sql, key.id)


async def test_a_rule_that_is_taken_away_revokes_nothing_any_more(database_url: str, sql: Sql) -> None:
    """Also where the search has begun before: it waits for the workspace, and looks again."""
    async with following(database_url) as one:
        await one.apply(with_rule())
        await let_rule_settle(sql)
        key, _ = await one.issue()
        await age(sql, key.id, timedelta(days=100))

        async def waits() -> bool:
            return bool(await sql.fetchval("SELECT true FROM pg_locks WHERE NOT granted")) or job.done()

        async with sql.transaction():
            await sql.execute("UPDATE workspace SET revoke_unused_after = NULL WHERE id = 'acme'")
            job = asyncio.create_task(job_of(one).revoke())
            await until(waits)
            assert not job.done()
        assert await job
        assert not await is_revoked(sql, key.id)


async def test_very_many_keys_are_revoked_in_pieces(database_url: str, sql: Sql) -> None:
    """All of them in one run, each transaction a bounded number."""
    count = 2 * CHUNK + 10
    async with following(database_url) as one:
        await one.apply(with_rule())
        await let_rule_settle(sql)
        await sql.execute(
            """
            INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind,
                             created_by_id, created_at)
            SELECT gen_random_uuid(), 'workspace', 'acme', 'Bot', '$argon2id$x', false, 'caller', 'c',
                   now() - interval '100 days' FROM generate_series(1, $1)
            """,
            count,
        )
        job = job_of(one)
        assert await job.revoke()
        assert job.revoked == count
        revoked = await sql.fetch("SELECT count(*) AS keys FROM key GROUP BY revoked_at ORDER BY 1")
        assert [row["keys"] for row in revoked] == [10, CHUNK, CHUNK]
        assert await sql.fetchval("SELECT count(*) FROM audit_event WHERE action = 'key.revoked'") == count


async def test_a_run_that_fails_is_counted_and_made_again(database_url: str, sql: Sql) -> None:
    """The loop goes on."""
    async with process(database_url) as gone:
        pass  # its database is closed
    async with following(database_url) as one:
        await one.apply(with_rule())
        await let_rule_settle(sql)
        failing = UnusedKeys(gone.database, one.writer, one.log.logger, 0.01)
        running = asyncio.create_task(failing.run())
        await until(lambda: _counted(failing, "failed", 2))
        running.cancel()
        assert "unused keys not revoked" in one.log.text()
        working = job_of(one)
        running = asyncio.create_task(working.run())
        await until(lambda: _counted(working, "done", 2))
        running.cancel()


async def _counted(job: UnusedKeys, outcome: str, count: int) -> bool:
    return job.runs[outcome] >= count


@GRPCIO_IF_SHORT
async def test_the_service_revokes_unused_keys(transport: str, database_url: str, tmp_path: Path, sql: Sql) -> None:
    """Without a call; and counts what it does. A key that is used all the time stays.

    A key that is unused for so long is in no memory, and is denied as soon as its revocation is recorded. Only here can
    one be in memory, as its last use is made older by hand: that one is denied from the end of the run.
    """
    async with serving(database_url, tmp_path, transport=transport, policy_interval=0.1) as service:
        await service.operator.apply(with_rule())
        await let_rule_settle(sql)
        unused, in_memory, used = [await service.operator.issue() for _ in range(3)]
        for each in (in_memory, used):
            await service.service.authorize(each.token)
        for each in (unused, in_memory):
            await age(sql, UUID(each.key.id), timedelta(days=100))

        async def revoked() -> bool:
            assert (await service.service.authorize(used.token)).HasField("granted")
            return all([await is_revoked(sql, UUID(each.key.id)) for each in (unused, in_memory)])

        async def runs() -> float:
            return await service.metric("unused_keys_runs_total", outcome="done")

        async def a_run_has_ended() -> bool:
            return await runs() > before

        await until(revoked)
        assert await service.service.denial(unused.token) == "REVOKED"
        # The run that revoked may be the last one that is counted here, or still wait for all processes.
        before = await runs()
        await until(a_run_has_ended)
        assert await service.service.denial(in_memory.token) == "REVOKED"
        assert await service.metric("unused_keys_revoked_total") == 2
        assert not await is_revoked(sql, UUID(used.key.id))


async def test_a_key_in_memory_is_never_older_than_fresh(database_url: str) -> None:
    """For a key with an expiry, too: whichever comes first counts."""
    async with following(database_url) as one:
        await one.apply(with_rule())
        for lifetime, most in ((None, FRESH), (timedelta(days=1), FRESH), (timedelta(minutes=5), timedelta(minutes=5))):
            _, token = await one.issue(lifetime=lifetime)
            await one.outcome(token)
            found = one.memory.find(token)
            assert found is not None
            assert found[0].fresh_until <= one.lease.now() + most.total_seconds()
