"""Deadlines reach the database query, and every wait has a limit."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_service_pb2
from tests.support.frames import AUTHORIZE, KNOWN, WHOLE, ask, reason_of
from tests.support.http2 import PATIENCE, connected
from tests.support.memory import minted
from tests.support.service import Service, refusal, serving
from tests.support.transport import GRPCIO_IF_SHORT, with_envoy_if_short
from tests.support.waiting import until_running
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from tests.support.fleet import Process


@asynccontextmanager
async def locked_keys(sql: asyncpg.Connection[Any]) -> AsyncIterator[None]:
    """Lock every key, so that every change of one waits."""
    async with sql.transaction():
        await sql.execute("SELECT FROM key FOR UPDATE")
        yield


def first_sight() -> pb.AuthorizeRequest:
    """Return a call about a token that nobody has seen."""
    return pb.AuthorizeRequest(token=minted().reveal())


async def test_a_deadline_ends_the_query_too(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """When the client's deadline has passed, Postgres stops working on the call, and nothing was changed."""
    issued = await service.operator.issue()
    request = key_service_pb2.RevokeKeyRequest(key_id=issued.key.id)
    async with locked_keys(sql):
        call = service.operator.keys.RevokeKey(request, timeout=0.5)
        await until_running(sql, 1)
        assert await call.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await until_running(sql, 0)
    key = (await service.operator.keys.GetKey(key_service_pb2.GetKeyRequest(key_id=issued.key.id))).key
    assert not key.HasField("revoked_at")


@GRPCIO_IF_SHORT
async def test_a_first_sight_that_cannot_come_in_time_is_refused_at_once(
    transport: str, database_url: str, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """While no key can be read, the estimated wait grows. A call with a short deadline is refused before all others."""
    limits = {"lock_timeout": 60, "statement_timeout": 60, "call_timeout": 60}
    async with serving(database_url, tmp_path, transport=transport, **limits) as service, sql.transaction():
        await sql.execute("LOCK TABLE key")
        authorization = service.service.authorization
        batch = pb.BatchAuthorizeRequest(requests=[first_sight() for _ in range(400)])
        waiting = [asyncio.create_task(refusal(authorization.BatchAuthorize(batch)))]
        await until_running(sql, 1)
        waiting += [asyncio.create_task(refusal(authorization.Authorize(first_sight()))) for _ in range(20)]
        hurried = authorization.Authorize(first_sight(), timeout=0.3)
        while await hurried.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
            hurried = authorization.Authorize(first_sight(), timeout=0.3)
        assert (await refusal(hurried)).reason == "BUSY"
        waiting.append(asyncio.create_task(refusal(authorization.Authorize(first_sight()))))
        await asyncio.wait(waiting, timeout=0.5, return_when=asyncio.FIRST_COMPLETED)
        assert not any(each.done() for each in waiting)
        for each in waiting:
            each.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)


async def test_a_cancelled_call_ends_the_query_too(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """A client that disconnects causes no more work, and the log says so."""
    issued = await service.operator.issue()
    async with locked_keys(sql):
        call = service.operator.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=issued.key.id))
        await until_running(sql, 1)
        call.cancel()
        await until_running(sql, 0)
    async with asyncio.timeout(60):
        while not (calls := service.log.calls("KeyService/RevokeKey")):
            await asyncio.sleep(0.01)
    assert [each["code"] for each in calls] == ["CANCELLED"]


@GRPCIO_IF_SHORT
async def test_a_call_without_a_deadline_gets_the_services_own(
    transport: str, database_url: str, tmp_path: Path, sql: asyncpg.Connection[Any], writer: Process
) -> None:
    """`call_timeout` ends it, with a reason."""
    key, _ = await writer.issue()
    async with (
        serving(database_url, tmp_path, transport=transport, call_timeout=0.3, lease=0.2) as service,
        locked_keys(sql),
    ):
        refused = await refusal(service.operator.revoke(key_id=str(key.id)))
    assert (refused.code, refused.reason) == (grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED")


@pytest.mark.parametrize("frames", [(), (WHOLE[:7],)], ids=["nothing of it", "its beginning"])
@with_envoy_if_short(frames=[(WHOLE[:7],)])
async def test_a_request_that_never_arrives_gets_the_services_deadline_too(
    transport: str, database_url: str, tmp_path: Path, frames: tuple[bytes, ...]
) -> None:
    """Whether or not the caller is known from an earlier call; it is counted and logged once."""
    method = AUTHORIZE.removeprefix("/skilder.keys.v1.")
    async with (
        serving(database_url, tmp_path, transport=transport, call_timeout=0.3, lease=0.2) as service,
        connected(service.address) as connection,
    ):
        for number in range(1, 4):
            stream = connection.call(AUTHORIZE, KNOWN)
            await stream.send(*frames)
            assert (await stream.response()).code is grpc.StatusCode.DEADLINE_EXCEEDED
            async with asyncio.timeout(PATIENCE):
                while len(service.log.calls(method)) < number:
                    await asyncio.sleep(0)
        assert [each["code"] for each in service.log.calls(method)] == ["DEADLINE_EXCEEDED"] * 3
        assert reason_of(await ask(connection, WHOLE)) == pb.DENIAL_REASON_MALFORMED


@GRPCIO_IF_SHORT
async def test_a_wait_for_a_lock_has_a_limit(
    transport: str, database_url: str, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """`lock_timeout` ends it as UNAVAILABLE: a retry may succeed."""
    async with serving(database_url, tmp_path, transport=transport, lock_timeout=0.2) as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue()
        async with locked_keys(sql):
            refused = await refusal(service.operator.revoke(key_id=issued.key.id))
    assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")


@GRPCIO_IF_SHORT
async def test_more_calls_than_connections_wait_their_turn(transport: str, database_url: str, tmp_path: Path) -> None:
    """A small pool serves many concurrent calls, and none of them fails."""
    async with serving(database_url, tmp_path, transport=transport, pool_size=2) as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue()
        responses = await asyncio.gather(*(service.service.authorize(issued.token) for _ in range(100)))
    assert all(response.HasField("granted") for response in responses)


@GRPCIO_IF_SHORT
async def test_a_pool_that_stays_exhausted_is_unavailable(
    transport: str, database_url: str, tmp_path: Path, sql: asyncpg.Connection[Any]
) -> None:
    """A call that gets no connection in time fails, instead of hanging."""
    async with serving(
        database_url, tmp_path, transport=transport, pool_size=1, lock_timeout=60, statement_timeout=60
    ) as service:
        await service.operator.apply(small_workspace())
        issued = await service.operator.issue()
        async with locked_keys(sql):
            holding = service.operator.keys.RevokeKey(key_service_pb2.RevokeKeyRequest(key_id=issued.key.id))
            await until_running(sql, 1)
            refused = await refusal(service.service.authorize(issued.token))
            checked: Any = health_pb2_grpc.HealthStub(service.operator.channel)
            health = await checked.Check(health_pb2.HealthCheckRequest())
        assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "BUSY")
        assert health.status == health_pb2.HealthCheckResponse.SERVING, "a busy service still counts as serving"
        assert (await holding).key.HasField("revoked_at")
