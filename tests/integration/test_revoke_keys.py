"""RevokeKeys ends all keys that match a filter: as many as the caller allows, in parts, and safe to repeat."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.key_service_pb2 import RevokeKeysRequest, SuspendKeyRequest
from skilder_keys.app import key_revocations
from skilder_keys.storage.migrations import migrate
from skilder_keys.supervisor.embedded_postgres import EmbeddedPostgres
from tests.support.calls import caller, delete_workspace, get_key, remove, user
from tests.support.fence import until_true
from tests.support.postgres_files import copy_postgres
from tests.support.rows import NO_HASH, insert_key, without_events
from tests.support.service import refusal, serving
from tests.support.sql import connected
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from skilder.keys.v1.key_service_pb2 import RevokeKeysResponse
    from tests.support.service import Client, Service

USER, RUNTIME = key_pb2.KEY_TYPE_USER, key_pb2.KEY_TYPE_RUNTIME
BOBS: Any = {"user_ids": ["bob"]}


async def revoke(client: Client, wanted: dict[str, Any], **fields: Any) -> RevokeKeysResponse:
    """Revoke keys of `acme`; by default as many as match."""
    defaults: dict[str, Any] = {"workspace_id": "acme", "filter": wanted, "max_keys": 1_000_000}
    request = RevokeKeysRequest(**defaults | fields)
    response: RevokeKeysResponse = await client.keys.RevokeKeys(request)
    return response


async def add_keys(sql: asyncpg.Connection[Any], number: int, description: str = "Slack Support Bot") -> None:
    """Add workspace keys that were issued and used one after the other."""
    await sql.execute(
        """
        INSERT INTO key (id, type, workspace_id, description, secret_hash, limited_to_hats, created_by_kind,
                         created_by_id, last_used_at)
        SELECT gen_random_uuid(), 'workspace', 'acme', $2, $3, false, 'caller', 'console',
               now() - make_interval(secs => n)
        FROM generate_series(1, $1) AS n
        """,
        number,
        description,
        NO_HASH,
    )


async def counts(sql: asyncpg.Connection[Any]) -> tuple[int, int]:
    """Return how many keys are revoked, and how many events say so, each about another key."""
    revoked = await sql.fetchval("SELECT count(*) FROM key WHERE revoked_at IS NOT NULL")
    events = await sql.fetchval("SELECT count(DISTINCT key_id) FROM audit_event WHERE action = 'key.revoked'")
    assert events == await sql.fetchval("SELECT count(*) FROM audit_event WHERE action = 'key.revoked'")
    return int(revoked), int(events)


@GRPCIO_IF_SHORT
async def test_keys_that_match_are_denied_at_once(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """The others are not. Each has an event, and shows who revoked it and why."""
    bobs = [await service.operator.issue(type=USER, user_id="bob", description=f"{n}") for n in range(3)]
    others = [await service.operator.issue(), await service.operator.issue(type=USER, user_id="cyd")]
    for issued in bobs + others:
        assert (await service.service.authorize(issued.token)).HasField("granted")
    response = await revoke(service.console, BOBS, reason="Left", actor="ada")
    assert sorted(response.key_ids) == sorted(each.key.id for each in bobs)
    assert (response.key_count, response.more) == (3, False)
    for issued in bobs:
        assert await service.service.denial(issued.token) == "REVOKED"
        key = await get_key(service.operator, issued.key.id)
        assert (key.state, key.revoke_reason, key.revoked_by) == (key_pb2.KEY_STATE_REVOKED, "Left", user("ada"))
    for issued in others:
        assert (await service.service.authorize(issued.token)).HasField("granted")
    rows = await sql.fetch("SELECT * FROM audit_event WHERE action = 'key.revoked'")
    assert {str(row["key_id"]) for row in rows} == set(response.key_ids)
    for row in rows:
        assert (row["workspace_id"], row["caller"], row["actor"]) == ("acme", "console", "ada")
        details = json.loads(row["details"])
        assert details.pop("changes").keys() == {"revoked_at", "revoke_reason"}
        assert details == {"user_id": "bob", "runtime_id": None, "reason": "Left"}
    again = await revoke(service.operator, BOBS, reason="Again")
    assert (again.key_count, list(again.key_ids), again.more) == (0, [], False)
    assert (await get_key(service.operator, bobs[0].key.id)).revoke_reason == "Left"
    assert await counts(sql) == (3, 3)


@ONLY_GRPCIO
async def test_a_dry_run_changes_nothing(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """It says how many keys and which, makes the same checks, and needs no `max_keys`."""
    issued = [(await service.operator.issue(type=USER, user_id="bob")).key.id for _ in range(3)]
    request = RevokeKeysRequest(workspace_id="acme", filter=BOBS, dry_run=True)
    response = await service.operator.keys.RevokeKeys(request)
    assert (response.key_count, list(response.key_ids), response.more) == (3, issued, False)
    assert (await revoke(service.operator, BOBS, dry_run=True, max_keys=3)).key_count == 3
    refused = await refusal(revoke(service.operator, BOBS, dry_run=True, max_keys=2))
    assert (refused.reason, refused.metadata) == ("TOO_MANY_CHANGED", {"count": "3", "allowed": "2"})
    assert await counts(sql) == (0, 0)


@ONLY_GRPCIO
async def test_more_keys_than_allowed_are_all_left(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """The error says how many match."""
    for _ in range(3):
        await service.operator.issue(type=USER, user_id="bob")
    for allowed in (0, 2):
        refused = await refusal(revoke(service.operator, BOBS, max_keys=allowed))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "TOO_MANY_CHANGED")
        assert refused.metadata == {"count": "3", "allowed": str(allowed)}
    assert await counts(sql) == (0, 0)
    assert (await revoke(service.operator, BOBS, max_keys=3)).key_count == 3
    assert (await revoke(service.operator, BOBS, max_keys=0)).key_count == 0


@ONLY_GRPCIO
@pytest.mark.parametrize(
    ("fields", "field", "words"),
    [
        ({"filter": None}, "filter", "is required: set at least one of its fields"),
        ({"filter": {}}, "filter", "is required: set at least one of its fields"),
        ({"filter": {"types": [], "text": "", "hint": ""}}, "filter", "is required: set at least one of its fields"),
        ({"filter": {"text": "!"}}, "filter.text", "has no word"),
        ({"max_keys": None}, "max_keys", "is required: set it to the number of keys"),
        ({"max_keys": -1}, "max_keys", "is -1; it has to be 0 or more"),
        ({"reason": "r" * 501}, "reason", "at most 500 are allowed"),
        ({"reason": f"WSK_{'0' * 71}"}, "reason", "contains a token"),
        ({"workspace_id": ""}, "workspace_id", "is required"),
    ],
)
@TOGETHER_IF_SHORT
async def test_a_bad_request_revokes_nothing(
    service: Service, sql: asyncpg.Connection[Any], fields: dict[str, Any], field: str, words: str
) -> None:
    """By its field. What was forgotten never means more."""
    await service.operator.issue(type=USER, user_id="bob")
    wanted = fields.pop("filter", BOBS)
    refused = await refusal(revoke(service.operator, wanted, **fields))
    assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])
    assert words in refused.fields[field]
    assert await counts(sql) == (0, 0)


@ONLY_GRPCIO
@pytest.mark.parametrize(
    ("actor", "wanted", "revoked"),
    [
        ("ada", {"types": [USER, RUNTIME, key_pb2.KEY_TYPE_WORKSPACE]}, {"shared", "bob", "cyd", "runtime"}),
        ("ada", BOBS, {"bob"}),
        ("bob", {"types": [USER, RUNTIME, key_pb2.KEY_TYPE_WORKSPACE]}, {"bob"}),
        ("bob", {"user_ids": ["bob", "cyd"]}, {"bob"}),
        ("cyd", BOBS, set()),
    ],
)
async def test_who_may_revoke_which_keys(
    service: Service, sql: asyncpg.Connection[Any], actor: str, wanted: dict[str, Any], revoked: set[str]
) -> None:
    """An admin any, a member their own user keys; who is no member none."""
    await service.operator.issue(description="shared")
    await service.operator.issue(description="runtime", type=RUNTIME, runtime_id="r")
    for user_id in ("bob", "cyd"):
        await service.operator.issue(description=user_id, type=USER, user_id=user_id)
    response = await revoke(service.console, wanted, actor=actor)
    found = await sql.fetch("SELECT description FROM key WHERE revoked_at IS NOT NULL")
    assert {row["description"] for row in found} == revoked
    assert response.key_count == len(revoked)
    for name in ("dan", ""):
        refused = await refusal(revoke(service.console, wanted, actor=name))
        assert refused.reason == ("ACTOR_NOT_MEMBER" if name else "ACTOR_REQUIRED")


@ONLY_GRPCIO
async def test_keys_of_every_state_but_revoked_match(service: Service) -> None:
    """Also of members that left and of deleted workspaces. A filter for revoked keys finds none to revoke."""
    suspended = (await service.operator.issue(description="suspended")).key.id
    await service.operator.keys.SuspendKey(SuspendKeyRequest(key_id=suspended))
    bobs = (await service.operator.issue(type=USER, user_id="bob", description="left")).key.id
    workspace = small_workspace()
    remove(workspace.members, "bob")
    await service.operator.apply(workspace)
    client = service.operator
    assert (await revoke(client, {"states": [key_pb2.KEY_STATE_REVOKED]})).key_count == 0
    assert list((await revoke(client, {"states": [key_pb2.KEY_STATE_MEMBER_REMOVED]})).key_ids) == [bobs]
    both = [key_pb2.KEY_STATE_SUSPENDED, key_pb2.KEY_STATE_REVOKED]
    assert list((await revoke(client, {"states": both})).key_ids) == [suspended]
    last = (await client.issue()).key.id
    await delete_workspace(client)
    response = await revoke(client, {"states": [key_pb2.KEY_STATE_WORKSPACE_GONE]})
    assert list(response.key_ids) == [last]
    assert (await get_key(client, last)).revoked_by == caller("operator")


@ONLY_GRPCIO
@pytest.mark.own_service
async def test_very_many_keys_take_several_calls(
    service: Service, sql: asyncpg.Connection[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each revokes some, those that were not used for longest first, and says whether there are more."""
    monkeypatch.setattr(key_revocations, "MAX_REVOKED", 50)
    monkeypatch.setattr(key_revocations, "TOGETHER", 20)
    await service.operator.apply(small_workspace())
    await add_keys(sql, 120)
    text = {"text": "slack"}
    dry = await revoke(service.operator, text, dry_run=True)
    assert (dry.key_count, len(dry.key_ids), dry.more) == (120, 50, True)
    refused = await refusal(revoke(service.operator, text, max_keys=119))
    assert refused.metadata == {"count": "120", "allowed": "119"}
    oldest = [str(row["id"]) for row in await sql.fetch("SELECT id FROM key ORDER BY last_used_at")]
    found: list[str] = []
    epoch = await sql.fetchval("SELECT epoch FROM fence")
    for count, more in ((50, True), (50, True), (20, False)):
        response = await revoke(service.operator, text, max_keys=120 - len(found))
        assert (response.key_count, len(response.key_ids), response.more) == (count, count, more)
        found += response.key_ids
    assert sorted(found[:50]) == sorted(oldest[:50])
    assert sorted(found) == sorted(oldest)
    # A transaction, and so a change, for each 20 keys of a call.
    assert await sql.fetchval("SELECT epoch FROM fence") - epoch == 3 + 3 + 1
    assert await counts(sql) == (120, 120)


@ONLY_GRPCIO
async def test_a_key_that_is_used_meanwhile_is_left(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """The filter has to match when its turn comes, not only when the keys are looked for."""
    long_ago = datetime.now(UTC) - timedelta(days=100)
    idle, used = [await insert_key(sql, created_at=long_ago, last_used_at=long_ago) for _ in range(2)]
    since = Timestamp()
    since.FromDatetime(long_ago + timedelta(days=10))
    async with sql.transaction():
        await sql.execute("UPDATE key SET last_used_at = now() WHERE id = $1", used)
        call = asyncio.ensure_future(revoke(service.operator, {"unused_since": since}))
        async with asyncio.timeout(60):
            while not await sql.fetchval("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)"):
                await asyncio.sleep(0.01)
    response = await call
    assert (list(response.key_ids), response.more) == ([str(idle)], False)
    assert await sql.fetchval("SELECT revoked_at IS NULL FROM key WHERE id = $1", used)


@ONLY_GRPCIO
async def test_calls_at_once_revoke_each_key_once(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Together they revoke all, and none waits for another for ever."""
    await add_keys(sql, 300)
    responses = await asyncio.gather(*(revoke(service.operator, {"text": "bot"}) for _ in range(4)))
    ids = [id_ for response in responses for id_ in response.key_ids]
    assert len(set(ids)) == len(ids) == 300
    assert await counts(sql) == (300, 300)


@ONLY_GRPCIO
async def test_a_call_that_fails_in_the_middle_is_finished_by_another(
    transport: str, tmp_path: Path, postgres_files: Path
) -> None:
    """Postgres is stopped while the third thousand of keys is about to be revoked. What was committed stays."""
    copy_postgres(postgres_files, tmp_path / "pg")
    folder = tmp_path / "pg" / "postgres"
    postgres = await asyncio.to_thread(EmbeddedPostgres.start, folder)
    try:
        await migrate(postgres.url())
        async with serving(postgres.url(), tmp_path, transport=transport, lease=1, lock_timeout=60) as service:
            await service.operator.apply(small_workspace())
            async with connected(postgres.url()) as sql, connected(postgres.url()) as other:
                async with without_events(sql):
                    await add_keys(sql, 3500)
                blocked = await sql.fetchval("SELECT id FROM key ORDER BY last_used_at OFFSET 2500 LIMIT 1")
                transaction = sql.transaction()
                await transaction.start()
                await sql.execute("SELECT FROM key WHERE id = $1 FOR UPDATE", blocked)
                call = asyncio.ensure_future(refusal(revoke(service.operator, {"text": "bot"})))
                await until_true(other, "SELECT count(*) = 2000 FROM key WHERE revoked_at IS NOT NULL")
                await until_true(other, "SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted)")
                await asyncio.to_thread(postgres.stop)
            assert (await call).code is grpc.StatusCode.UNAVAILABLE
            postgres = await asyncio.to_thread(EmbeddedPostgres.start, folder)
            async with connected(postgres.url()) as sql:
                assert await counts(sql) == (2000, 2000)
                async with asyncio.timeout(60):
                    while True:
                        try:
                            response = await revoke(service.operator, {"text": "bot"})
                            break
                        except grpc.aio.AioRpcError as error:
                            assert error.code() is grpc.StatusCode.UNAVAILABLE  # noqa: PT017 - it is tried again
                            await asyncio.sleep(0.1)
                assert (response.key_count, response.more) in {(1500, False), (0, False)}
                assert await counts(sql) == (3500, 3500)
    finally:
        await asyncio.to_thread(postgres.stop)
