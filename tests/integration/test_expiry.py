"""Expiry: at its instant by the database's clock, on every process, with no job and no write."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder_keys.app.authorization.query import AuthorizeQuery
from skilder_keys.domain.access import NO_LIMITS
from skilder_keys.domain.token import KeyType
from tests.support.calls import get_key
from tests.support.fence import epoch, warm
from tests.support.service import refusal
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from skilder_keys.domain.keys import Key
    from tests.support.fleet import Process
    from tests.support.service import Service

    Sql = asyncpg.Connection[Any]

EXPIRED = "EXPIRED"
SHORT = timedelta(seconds=1.5)


async def database_time(sql: Sql) -> datetime:
    """Return the time by the database's clock."""
    moment: datetime = await sql.fetchval("SELECT clock_timestamp()")
    return moment


async def until_expired(
    sql: Sql, expires_at: datetime, ways: dict[str, Callable[[], Awaitable[str]]]
) -> dict[str, list[str]]:
    """Ask in each way until all say that the key has expired; return what they said.

    What is asked after the expiry must be denied, and what has its answer before must be granted.
    """
    said: dict[str, list[str]] = {name: [] for name in ways}
    async with asyncio.timeout(60):
        while not all(each[-1:] == [EXPIRED] for each in said.values()):
            for name, ask in ways.items():
                before = await database_time(sql)
                outcome = await ask()
                after = await database_time(sql)
                assert outcome in {"granted", EXPIRED}, (name, outcome)
                if before >= expires_at:
                    assert outcome == EXPIRED, (name, before - expires_at)
                if after < expires_at:
                    assert outcome == "granted", (name, expires_at - after)
                said[name].append(outcome)
            await asyncio.sleep(0.001)
    return said


def outcome_of(response: Any) -> str:
    """Return `granted`, or the reason why a response denies a token."""
    if response.WhichOneof("verdict") == "granted":
        return "granted"
    return pb.DenialReason.Name(response.denied.reason).removeprefix("DENIAL_REASON_")


@GRPCIO_IF_SHORT
async def test_a_key_expires_at_its_instant(service: Service, sql: Sql) -> None:
    """In every method that decides about tokens. What the key could do does not change before."""
    lifetime = Duration()
    lifetime.FromTimedelta(SHORT)
    issued = await service.operator.issue(lifetime=lifetime)
    caller = await service.operator.issue(type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="runtime-7", lifetime=lifetime)
    other = await service.operator.issue()
    runtime = await service.client(caller.token)

    async def whole() -> str:
        return outcome_of(await service.service.authorize(issued.token))

    async def tool() -> str:
        return outcome_of(await service.service.authorize(issued.token, tool_id="git.commit"))

    async def batch() -> str:
        requests = [pb.AuthorizeRequest(token=token) for token in (issued.token, other.token)]
        response = await service.service.authorization.BatchAuthorize(pb.BatchAuthorizeRequest(requests=requests))
        assert outcome_of(response.responses[1]) == "granted"
        return outcome_of(response.responses[0])

    async def parts() -> str:
        request = pb.ReadToolSetRequest(request=pb.AuthorizeRequest(token=issued.token))
        (part,) = [each async for each in service.service.authorization.ReadToolSet(request)]
        if part.WhichOneof("part") == "tool_set":
            return "granted"
        return pb.DenialReason.Name(part.denied.reason).removeprefix("DENIAL_REASON_")

    expires_at = issued.key.expires_at.ToDatetime(UTC)
    said = await until_expired(sql, expires_at, {"set": whole, "tool": tool, "batch": batch, "parts": parts})
    assert all(each.count("granted") > 2 for each in said.values()), said

    async def call() -> str:
        try:
            return outcome_of(await runtime.authorize(other.token))
        except grpc.aio.AioRpcError as error:
            return EXPIRED if error.code() is grpc.StatusCode.UNAUTHENTICATED else str(error)

    await until_expired(sql, caller.key.expires_at.ToDatetime(UTC), {"caller": call})


async def expiring(one: Process, sql: Sql, after: timedelta) -> tuple[Key, str]:
    """Issue a key that was used, and let it expire some time from now."""
    key, token = await one.issue(lifetime=timedelta(days=1))
    await one.outcome(token)
    await sql.execute("UPDATE key SET expires_at = clock_timestamp() + $2 WHERE id = $1", key.id, after)
    return await one.keys.get(str(key.id), None, NO_LIMITS), token


async def test_a_grant_in_memory_ends_by_itself(writer: Process, sql: Sql) -> None:
    """With no change and no write: neither the epoch nor the row of the key moves. Before, it is all from memory."""
    key, token = await expiring(writer, sql, SHORT)
    assert key.expires_at is not None
    await writer.follow()
    await warm(writer, token)
    row = "SELECT key.xmin, key.ctid, epoch FROM key, fence"
    before = await sql.fetchrow(row)
    hits, lent = writer.memory.hits, writer.database.lent
    said = await until_expired(
        sql, key.expires_at, {"memory": lambda: writer.outcome(token), "grant": lambda: _fast(writer, token)}
    )
    assert said["memory"].count("granted") > 10
    assert await sql.fetchrow(row) == before
    assert writer.memory.hits - hits > 10
    reads = writer.database.lent - lent
    assert reads <= 3 + said["memory"].count(EXPIRED), "a heartbeat uses a connection of its own"
    denied, lent = writer.memory.hits, writer.database.lent
    for _ in range(10):
        assert await writer.outcome(token) == EXPIRED
    assert (writer.memory.hits, writer.database.lent) == (denied + 10, lent), "the denial is in memory too"


async def _fast(one: Process, token: str) -> str:
    """Ask the fast path, and the database where it does not answer."""
    body = one.authorizer.grant(AuthorizeQuery(token))
    return await one.outcome(token) if body is None else outcome_of(pb.AuthorizeResponse.FromString(body))


async def test_a_key_expires_without_a_lease_too(writer: Process, sql: Sql) -> None:
    """Each call reads the key, and the database says whether it has expired."""
    key, token = await expiring(writer, sql, SHORT)
    assert key.expires_at is not None
    said = await until_expired(sql, key.expires_at, {"database": lambda: writer.outcome(token)})
    assert said["database"].count("granted") > 2


async def test_a_long_time_is_counted_in_shorter_ones(writer: Process, sql: Sql) -> None:
    """A key with 100 s is read again after 95, in case the two clocks do not run at the same rate."""
    _, token = await expiring(writer, sql, timedelta(seconds=100))
    await writer.follow()
    asked = writer.lease.now()
    await warm(writer, token)
    known = writer.key_cache.find(token)
    assert known is not None
    assert asked + 90 < known.fresh_until <= writer.lease.now() + 95


async def test_an_expired_key_has_no_first_use(writer: Process, sql: Sql) -> None:
    """With a lease or without."""
    _, token = await writer.issue(lifetime=timedelta(days=1))
    await sql.execute("UPDATE key SET expires_at = created_at + interval '1 microsecond'")
    for follow in (False, True):
        if follow:
            await writer.follow()
        assert await writer.outcome(token) == EXPIRED
    assert await sql.fetchval("SELECT last_used_at FROM key") is None


async def test_an_expiry_by_hand_passes_the_fence(writer: Process, sql: Sql) -> None:
    """Set, moved and lifted: memory follows."""
    _, token = await writer.issue()
    await writer.follow()
    await warm(writer, token)
    before = await epoch(sql)

    async def becomes(expected: str) -> None:
        async with asyncio.timeout(60):
            while await writer.outcome(token) != expected:
                await asyncio.sleep(0.002)

    await sql.execute("UPDATE key SET expires_at = created_at + interval '1 microsecond'")
    await becomes(EXPIRED)
    await sql.execute("UPDATE key SET expires_at = now() + interval '1 day'")
    await becomes("granted")
    await sql.execute("UPDATE key SET expires_at = NULL")
    await becomes("granted")
    assert await epoch(sql) == before + 3


@GRPCIO_IF_SHORT
async def test_the_expiry_is_shown(service: Service) -> None:
    """In the response, later, and to whoever asks about the token; to the microsecond."""
    at = Timestamp()
    at.FromDatetime((datetime.now(UTC) + timedelta(days=30)).replace(microsecond=123456))
    issued = await service.operator.issue(expires_at=at)
    assert issued.key.expires_at == at
    assert (issued.key.version, issued.key.updated_at) == (1, issued.key.created_at)
    assert await get_key(service.operator, issued.key.id) == issued.key
    assert (await service.service.authorize(issued.token)).granted.key.expires_at == at
    lifetime = Duration(seconds=90, nanos=500_000_000)
    issued = await service.operator.issue(lifetime=lifetime)
    length = issued.key.expires_at.ToDatetime() - issued.key.created_at.ToDatetime()
    assert length == lifetime.ToTimedelta()
    forever = await service.operator.issue()
    assert not forever.key.HasField("expires_at")
    assert not (await service.service.authorize(forever.token)).granted.key.HasField("expires_at")


@GRPCIO_IF_SHORT
async def test_a_retry_keeps_the_expiry(service: Service) -> None:
    """A lifetime runs from the first try. With another lifetime, or none, it is another request."""
    first = await service.operator.issue(request_id="r", lifetime=Duration(seconds=3600))
    again = await service.operator.issue(request_id="r", lifetime=Duration(seconds=3600))
    assert (again.key, again.token != first.token) == (first.key, True)
    for fields in ({"lifetime": Duration(seconds=3601)}, {}, {"expires_at": first.key.expires_at}):
        refused = await refusal(service.operator.issue(request_id="r", **fields))
        assert list(refused.fields) == ["request_id"], fields


@GRPCIO_IF_SHORT
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"expires_at": Timestamp(seconds=1)}, "is 1970-01-01T00:00:01+00:00, which is past: it is 20"),
        ({"expires_at": Timestamp()}, "is 1970-01-01T00:00:00+00:00, which is past: it is 20"),
        ({"expires_at": Timestamp(seconds=4_000_000_000)}, "at most 3653 days from now are allowed"),
        ({"expires_at": Timestamp(seconds=2**62)}, "is not a time between the years 1 and 9999"),
        ({"expires_at": Timestamp(seconds=4_000_000_000, nanos=-1)}, "is not a time between the years 1 and 9999"),
        ({"lifetime": Duration()}, "is 0 s; 1 s to 3653 days are allowed"),
        ({"lifetime": Duration(seconds=-86400)}, "is -1 day; 1 s to 3653 days are allowed"),
        ({"lifetime": Duration(nanos=999_999_999)}, "is 0.999999 s; 1 s to 3653 days are allowed"),
        ({"lifetime": Duration(seconds=3654 * 86400)}, "is 3654 days; 1 s to 3653 days are allowed"),
        ({"lifetime": Duration(seconds=2**62)}, "is not a length of time"),
        ({"lifetime": Duration(seconds=5, nanos=-1)}, "is not a length of time"),
        ({"lifetime": Duration(seconds=5, nanos=1_000_000_000)}, "is not a length of time"),
    ],
)
@TOGETHER_IF_SHORT
async def test_an_expiry_out_of_bounds_is_refused(
    service: Service, sql: Sql, fields: dict[str, Any], words: str
) -> None:
    """It is named, and no key is issued."""
    refused = await refusal(service.operator.issue(**fields))
    (name,) = fields
    assert list(refused.fields) == [name]
    assert words in refused.fields[name]
    assert await sql.fetchval("SELECT count(*) FROM key") == 0


async def test_a_key_of_each_type_may_expire(writer: Process, sql: Sql) -> None:
    """Also one of a runtime, and one of a user who leaves: then that comes first."""
    of_bob = ""
    for type_ in KeyType:
        user = {"user_id": "bob"} if type_ is KeyType.USER else {}
        _, token = await writer.issue(type_, lifetime=timedelta(days=1), **user)
        of_bob = token if user else of_bob
        assert await writer.outcome(token) == "granted"
        await sql.execute("UPDATE key SET expires_at = created_at + interval '1 microsecond'")
        assert await writer.outcome(token) == EXPIRED
    await sql.execute("DELETE FROM member WHERE user_id = 'bob'")
    assert await writer.outcome(of_bob) == "MEMBER_REMOVED"
