"""Decisions from memory: what they cost, what they contain, and who waits for whom."""

from __future__ import annotations

import asyncio
import gc
import tracemalloc
from typing import TYPE_CHECKING, Any

import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.app.authorization.query import AuthorizeQuery
from skilder_keys.domain.access import CallerLimits
from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.ids import ToolId, WorkspaceId
from skilder_keys.domain.token import KeyType, Token
from tests.support.calls import part
from tests.support.decisions import kinds_of_decisions
from tests.support.fence import LONG, warm
from tests.support.fleet import Process, process, until
from tests.support.ids import new_key_id
from tests.support.memory import minted
from tests.support.rows import insert_key
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    Sql = asyncpg.Connection[Any]

pytestmark = pytest.mark.stock_too


async def test_a_decision_from_memory_needs_no_database(one: Process) -> None:
    """Nor argon2, whatever its kind, and its bytes equal those of the decision that needed both."""
    queries = await kinds_of_decisions(one)
    one.memory.drop_all()
    for name, query in queries.items():
        one.memory.drop_all()
        lent = one.database.lent
        cold = await one.decide(query)
        assert one.database.lent > lent, name
        lent, checks, hits = one.database.lent, one.hasher.checks, one.memory.hits
        for _ in range(3):
            known = await one.decide(query)
            assert known == cold, name
            assert pb.AuthorizeResponse.FromString(known.body) == pb.AuthorizeResponse.FromString(cold.body)
            # As protobuf itself would write it, so that the bytes do not show how they were made.
            assert pb.AuthorizeResponse.FromString(known.body).SerializeToString() == known.body, name
        assert (one.database.lent, one.hasher.checks, one.memory.hits) == (lent, checks, hits + 3), name


async def test_the_fast_grant_equals_the_ordinary_grant(one: Process) -> None:
    """The same bytes, one hit and one use. All other queries are left to the ordinary way, untouched."""
    queries = await kinds_of_decisions(one)
    for query in queries.values():
        await one.decide(query)
    for name, query in queries.items():
        count = one.authorizer.granted
        decided = await one.decide(query)
        assert one.authorizer.granted - count == (decided.denied is None), name
        await one.usage.flush()
        one.usage_clock.now += 61
        before = (one.database.lent, one.memory.misses, one.authorizer.denials.total())
        hits = one.memory.hits
        granted = one.authorizer.grant(query)
        # A version that is not the current one must first be checked as a field.
        assert granted == (None if decided.denied or name == "stale version" else decided.body), name
        assert one.memory.hits - hits == (granted is not None), name
        assert one.authorizer.granted - count == (decided.denied is None) + (granted is not None), name
        assert (one.database.lent, one.memory.misses, one.authorizer.denials.total()) == before, name
        await one.usage.flush()
        assert (one.database.lent > before[0]) == (granted is not None), f"{name}: a use is written"


async def test_the_fast_grant_leaves_everything_else_alone(one: Process, database_url: str) -> None:
    """Foreign keys, fields over their bounds, stale keys, and any query without a lease."""
    key, token = await one.issue()
    await warm(one, token)
    assert one.authorizer.grant(AuthorizeQuery(token), CallerLimits(frozenset({key.workspace_id}))) is not None
    assert one.authorizer.grant(AuthorizeQuery(token), CallerLimits(frozenset({WorkspaceId("other")}))) is None
    slack = CallerLimits(mcp_servers=frozenset({"slack"}))
    assert one.authorizer.grant(AuthorizeQuery(token, ToolId("slack.post")), slack) is not None
    assert one.authorizer.grant(AuthorizeQuery(token, ToolId("git.commit")), slack) is None
    assert one.authorizer.grant(AuthorizeQuery(token), slack) is None
    assert one.authorizer.grant(AuthorizeQuery(token, None, "\x00")) is None
    assert one.authorizer.grant(AuthorizeQuery(token, ToolId("slack.post"), "\x00")) is None
    assert one.authorizer.grant(AuthorizeQuery(token, ToolId(""))) is None
    assert one.authorizer.grant(AuthorizeQuery(token[:-1])) is None
    await one.revoke(key)
    assert one.authorizer.grant(AuthorizeQuery(token)) is None
    _, token = await one.issue()
    async with process(database_url) as other:
        await other.decide(AuthorizeQuery(token))
        assert other.authorizer.grant(AuthorizeQuery(token)) is None
        assert other.memory.hits == 0


async def test_a_decision_without_a_lease_is_the_same(one: Process, database_url: str) -> None:
    """From another process, which reads the database for each."""
    queries = await kinds_of_decisions(one)
    async with process(database_url) as other:
        for name, query in queries.items():
            expected = await one.decide(query)
            for _ in range(2):
                lent = other.database.lent
                assert await other.decide(query) == expected, name
                assert other.database.lent > lent
        assert len(other.key_cache) == 0


async def test_a_wrong_secret_for_a_key_in_memory_costs_nothing(one: Process) -> None:
    """No database and no argon2: memory knows the one valid token."""
    key, token = await one.issue()
    await warm(one, token)
    lent, checks = one.database.lent, one.hasher.checks
    for type_ in KeyType:
        for _ in range(20):
            assert await one.outcome(Token.mint(type_, key.id).reveal()) == "UNKNOWN"
    assert (one.database.lent, one.hasher.checks) == (lent, checks)
    assert await one.outcome(token) == "granted"
    assert one.database.lent == lent


async def test_a_wrong_secret_for_a_revoked_key_in_memory_reveals_nothing(one: Process) -> None:
    """Neither that it was revoked nor which key it is."""
    key, token = await one.issue()
    await one.revoke(key)
    await warm(one, token)
    assert (await one.ask(token)).denied.key_id == str(key.id)
    unknown = await one.ask(Token.mint(KeyType.WORKSPACE, new_key_id()).reveal())
    assert await one.ask(Token.mint(KeyType.WORKSPACE, key.id).reveal()) == unknown


async def test_the_fields_of_a_query_are_always_checked(one: Process) -> None:
    """Warm or cold, and also where the key is not usable."""
    _, token = await one.issue()
    key, revoked = await one.issue()
    await one.revoke(key)
    for _ in range(2):
        for each in (token, revoked, "no token"):
            for query in (
                AuthorizeQuery(each, ToolId("x" * 256)),
                AuthorizeQuery(each, ToolId("")),
                AuthorizeQuery(each, None, "\x00"),
                AuthorizeQuery(each, ToolId(" a"), "b"),
            ):
                with pytest.raises(InvalidRequestError):
                    await one.decide(query)
        await warm(one, token)
        await warm(one, revoked)


async def test_a_stampede_reads_a_key_once(one: Process) -> None:
    """All who authorize a token at the same time share one load."""
    _, token = await one.issue()
    await one.outcome(token)
    one.memory.drop_all()
    lent = one.database.lent
    found = await asyncio.gather(*(one.outcome(token) for _ in range(200)))
    assert set(found) == {"granted"}
    assert one.database.lent - lent <= 2, "the key and its catalog"


async def test_many_cold_keys_are_read_by_a_few_queries(one: Process) -> None:
    """However many callers come at once."""
    tokens = [(await one.issue())[1] for _ in range(60)]
    for token in tokens:
        await one.outcome(token)
    one.memory.drop_all()
    lent = one.database.lent
    found = await asyncio.gather(*(one.outcome(token) for token in tokens))
    assert set(found) == {"granted"}
    assert one.database.lent - lent <= 2, "the keys and their catalog"
    assert len(one.key_cache) == 60


async def test_keys_of_equal_reach_share_one_tool_set(one: Process) -> None:
    """The same object, so that ten thousand agents of a workspace need the memory of one tool set."""
    tokens = [(await one.issue())[1] for _ in range(3)]
    tokens.append((await one.issue(description="another"))[1])
    limited = (await one.issue(hat_ids=("everyone",)))[1]
    for token in (*tokens, limited):
        await warm(one, token)
    found = [one.memory.find(token) for token in (*tokens, limited)]
    ids = [id(access[1]) for access in found if access]
    assert len(ids) == 5
    assert len(set(ids[:4])) == 1
    assert ids[4] != ids[0]
    assert len({(await one.ask(token)).granted.tool_set.version for token in tokens}) == 1


async def test_memory_is_bounded_and_decisions_stay_right(database_url: str) -> None:
    """Twelve keys of four reaches, with room for three keys and no tool set."""
    async with process(database_url, lease=LONG, capacity=3, snapshot_bytes=1) as made:
        await made.apply()
        await made.follow()
        reaches: list[tuple[str, ...]] = [(), ("everyone",), ("engineer",), ("support-desk",)]
        tokens = [((await made.issue(hat_ids=hats))[1], hats) for hats in reaches for _ in range(3)]
        for _ in range(3):
            for token, hats in tokens:
                response = await made.ask(token)
                assert not hats or [hat.id for hat in response.granted.tool_set.hats] == list(hats)
                assert response.HasField("granted")
            assert len(made.key_cache) == 3
            snapshot = made.snapshots.current(WorkspaceId("acme"))
            assert snapshot is not None
            assert snapshot.grown == 0


async def test_a_key_in_memory_takes_less_than_a_kib(one: Process, sql: Sql) -> None:
    """With its proof and its recorded use, so that the limit in keys is one of memory. Each key is used for a while."""
    made = [minted() for _ in range(900)]
    for token in made:
        await insert_key(sql, id=token.key_id, secret_hash=await one.verifier.hash(token.secret), limited_to_hats=False)

    async def use(first: int, last: int) -> None:
        for number in range(first, last, 25):  # many calls at once would leave large tables, whatever the keys take
            await asyncio.gather(*(one.outcome(token.reveal()) for token in made[number : number + 25]))

    async def use_for_a_while(first: int, last: int) -> None:
        await use(first, last)
        one.usage_clock.now += 61
        await use(first, last)
        await one.usage.flush()

    await use_for_a_while(0, 50)  # for what is made once
    tracemalloc.start()
    try:
        await use_for_a_while(50, 900)
        gc.collect()
        taken, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(one.key_cache) == 900
    proof = 2 * 64  # in memory that Python does not count, and that all workers share
    assert taken / 850 + proof < 1024


async def test_a_user_who_moves_is_moved_in_memory(one: Process) -> None:
    """A user's key follows the user's teams; after moving back it reaches the same, under the same version."""
    _, token = await one.issue(KeyType.USER, user_id="bob")
    await warm(one, token)
    first = (await one.ask(token)).granted.tool_set
    workspace = small_workspace()
    part(workspace.members, "bob").team_ids[:] = ["engineering"]
    await one.apply(workspace)
    moved = (await one.ask(token)).granted.tool_set
    assert [hat.id for hat in moved.hats] == ["engineer", "everyone"]
    assert moved.version != first.version
    await warm(one, token)
    await one.apply()
    assert (await one.ask(token)).granted.tool_set == first
    assert (await one.ask(token, version=first.version)).granted.tool_set_version == first.version


async def test_a_database_that_lost_a_version_shows_nothing_of_it(one: Process, sql: Sql) -> None:
    """After a restore the same version of a workspace may have other content."""
    _, token = await one.issue()
    await warm(one, token)
    lost = small_workspace()
    part(lost.hats, "everyone").skill_ids.append("code")
    assert await one.apply(lost) == 2
    await warm(one, token)
    before = await one.ask(token)
    ids = {row["id"] for row in await sql.fetch("SELECT id FROM reader")}
    async with sql.transaction():
        await sql.execute("DELETE FROM hat_skill WHERE hat_id = 'everyone' AND skill_id = 'code'")
        # A restore fires no trigger, and puts the version back.
        await sql.execute("ALTER TABLE workspace DISABLE TRIGGER workspace_keep_version")
        await sql.execute("UPDATE workspace SET version = 1")
        await sql.execute("SET CONSTRAINTS ALL IMMEDIATE")
        await sql.execute("ALTER TABLE workspace ENABLE ALWAYS TRIGGER workspace_keep_version")
        await sql.execute("UPDATE fence SET epoch = 0")
        await sql.execute("DELETE FROM change")
    async with asyncio.timeout(60):
        while ids == {row["id"] for row in await sql.fetch("SELECT id FROM reader")}:
            await asyncio.sleep(0.005)
    await until(one.lease.valid)
    other = small_workspace()
    part(other.hats, "everyone").name = "All"
    assert await one.apply(other) == 2
    after = await one.ask(token)
    assert "All" in [hat.name for hat in after.granted.tool_set.hats]
    assert before.granted.tool_set.version != after.granted.tool_set.version


@pytest.mark.parametrize(("seconds", "written"), [(30, False), (70, True), (-3600, True)])
async def test_a_use_that_is_on_record_is_not_written_again(
    one: Process, sql: Sql, seconds: int, *, written: bool
) -> None:
    """A process that has just started learns of it when it reads the key; a time in the future is corrected."""
    _, token = await one.issue()
    await sql.execute("UPDATE key SET last_used_at = now() - make_interval(secs => $1)", seconds)
    assert await one.outcome(token) == "granted"
    lent = one.database.lent
    await one.usage.flush()
    assert (one.database.lent > lent) is written


async def test_uses_decided_from_memory_are_recorded(one: Process, sql: Sql) -> None:
    """As all others, with the next flush. Denied tokens have no use."""
    key, token = await one.issue()
    revoked, revoked_token = await one.issue()
    await one.revoke(revoked)
    for each in (token, revoked_token):
        await warm(one, each)
    last_used = "SELECT last_used_at FROM key WHERE id = $1"
    await one.usage.flush()
    first = await sql.fetchval(last_used, key.id)
    await sql.execute("UPDATE key SET last_used_at = last_used_at - interval '61 s' WHERE id = $1", key.id)
    one.usage_clock.now += 61
    assert await one.outcome(token) == "granted"
    await one.outcome(revoked_token)
    await one.usage.flush()
    assert await sql.fetchval(last_used, key.id) > first
    assert await sql.fetchval(last_used, revoked.id) is None
