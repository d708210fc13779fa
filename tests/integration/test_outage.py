"""A database that goes away and comes back: UNAVAILABLE meanwhile, never a denial, and no restart needed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.token import KeyType, Token
from skilder_keys.storage.migrations import migrate
from skilder_keys.supervisor.embedded_postgres import EmbeddedPostgres
from tests.support.ids import new_key_id
from tests.support.postgres_files import copy_postgres
from tests.support.service import Service, refusal, serving
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    import asyncpg

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def until_health_is(service: Service, status: int) -> None:
    """Wait until a health watch reports this status for AuthorizationService."""
    stub: Any = health_pb2_grpc.HealthStub(service.operator.channel)
    watch = stub.Watch(health_pb2.HealthCheckRequest(service="skilder.keys.v1.AuthorizationService"), timeout=60)
    async for response in watch:
        if response.status == status:
            watch.cancel()
            return


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(60):
        while not await condition():
            await asyncio.sleep(0.01)


async def is_kept(service: Service, token: str) -> bool:
    """Return whether a token was just decided from memory."""
    before = await service.metric("cache_hits_total")
    await service.service.authorize(token)
    return await service.metric("cache_hits_total") > before


@GRPCIO_IF_SHORT
async def test_calls_are_unavailable_while_postgres_is_gone_and_work_again_when_it_is_back(
    transport: str, tmp_path: Path, postgres_files: Path
) -> None:
    """A good key is never denied in an outage, health follows, and the server recovers by itself.

    Keys in memory are decided from there exactly as long as the lease runs.
    """
    copy_postgres(postgres_files, tmp_path / "pg")
    folder = tmp_path / "pg" / "postgres"
    postgres = await asyncio.to_thread(EmbeddedPostgres.start, folder)
    try:
        await migrate(postgres.url())
        async with serving(postgres.url(), tmp_path, transport=transport, lease=1) as service:
            await service.operator.apply(small_workspace())
            issued, cold = [await service.operator.issue() for _ in range(2)]
            assert (await service.service.authorize(issued.token)).HasField("granted")

            await asyncio.to_thread(postgres.stop)

            async def is_out() -> bool:
                call = service.service.authorization.Authorize(pb.AuthorizeRequest(token=issued.token))
                if await call.code() is grpc.StatusCode.OK:
                    assert (await call).HasField("granted")
                    return False
                return await call.code() is grpc.StatusCode.UNAVAILABLE

            await until(is_out)
            for call in (
                service.service.authorize(issued.token),
                service.service.authorize(cold.token),
                service.service.authorization.BatchAuthorize(
                    pb.BatchAuthorizeRequest(requests=[pb.AuthorizeRequest(token=issued.token)])
                ),
                service.operator.issue(),
                service.operator.revoke(key_id=issued.key.id),
                service.operator.revoke(token=issued.token),
                service.operator.apply(small_workspace()),
            ):
                refused = await refusal(call)
                assert (refused.code, refused.reason) == (grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE")
                assert "pg" not in refused.message, "the response says nothing about the database"
            assert await service.service.denial("no token") == "MALFORMED", "what needs no database is still decided"
            await until_health_is(service, NOT_SERVING)

            postgres = await asyncio.to_thread(EmbeddedPostgres.start, folder)
            await until_health_is(service, SERVING)
            for each in (issued, cold):
                assert (await service.service.authorize(each.token)).HasField("granted")
            assert [each for each in service.log.events if each["event"] == "database"], "the log names the cause"
    finally:
        await asyncio.to_thread(postgres.stop)


@GRPCIO_IF_SHORT
async def test_memory_decides_in_an_outage_while_the_lease_runs(transport: str, tmp_path: Path) -> None:
    """Known keys as always, and wrong secrets of them. Other tokens are UNAVAILABLE, and never denied."""
    # A new one: after a restart, the first change would wait for the longest lease that there may have been.
    postgres = await asyncio.to_thread(EmbeddedPostgres.start, tmp_path / "postgres")
    try:
        await migrate(postgres.url())
        async with serving(postgres.url(), tmp_path, transport=transport, lease=60, call_timeout=90) as service:
            await service.operator.apply(small_workspace())
            known, revoked, cold = [await service.operator.issue() for _ in range(3)]
            await service.operator.revoke(key_id=revoked.key.id)
            for each in (known, revoked):
                await until(partial(is_kept, service, each.token))
            await asyncio.to_thread(postgres.stop)

            assert (await service.service.authorize(known.token)).HasField("granted")
            assert (await service.service.authorize(known.token, tool_id="web.search")).granted.HasField("tool")
            assert await service.service.denial(revoked.token) == "REVOKED"
            wrong = Token.mint(KeyType.WORKSPACE, KeyId(UUID(known.key.id))).reveal()
            assert await service.service.denial(wrong) == "UNKNOWN"
            stranger = Token.mint(KeyType.WORKSPACE, new_key_id()).reveal()
            for token in (cold.token, stranger):
                assert (await refusal(service.service.authorize(token))).code is grpc.StatusCode.UNAVAILABLE
            batch = pb.BatchAuthorizeRequest(requests=[pb.AuthorizeRequest(token=each.token) for each in (known, cold)])
            refused = await refusal(service.service.authorization.BatchAuthorize(batch))
            assert refused.code is grpc.StatusCode.UNAVAILABLE, "all are decided, or the call fails"
    finally:
        await asyncio.to_thread(postgres.stop)


@GRPCIO_IF_SHORT
async def test_a_runtime_caller_is_not_unauthenticated_in_an_outage(
    service: Service, sql: asyncpg.Connection[Any]
) -> None:
    """Whether its key is good cannot be decided, which is UNAVAILABLE."""
    issued = await service.operator.issue(type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="runtime-1")
    runtime = await service.client(issued.token)
    async with failing_updates(sql, "57P01"):
        assert (await refusal(runtime.authorize(issued.token))).code is grpc.StatusCode.UNAVAILABLE


@asynccontextmanager
async def failing_updates(sql: asyncpg.Connection[Any], sqlstate: str) -> AsyncIterator[None]:
    """Make every update of a key fail with this SQLSTATE, a first use included."""
    await sql.execute(
        f"""
        CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
        $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '{sqlstate}'; END $$;
        CREATE TRIGGER fail BEFORE UPDATE ON key EXECUTE FUNCTION fail();
        """
    )
    yield
    await sql.execute("DROP FUNCTION fail CASCADE")


@GRPCIO_IF_SHORT
async def test_broken_connections_are_replaced(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """After every backend was terminated, a call fails as UNAVAILABLE at worst, and later ones work."""
    issued = await service.operator.issue()
    for _ in range(3):
        await sql.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        granted = False
        while not granted:
            call = service.service.authorization.Authorize(pb.AuthorizeRequest(token=issued.token))
            if await call.code() is grpc.StatusCode.OK:
                granted = (await call).HasField("granted")
                assert granted
            else:
                assert await call.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("sqlstate", ["53300", "57014", "57P01", "57P03", "25006", "55P03", "40P01", "40001"])
@GRPCIO_IF_SHORT
async def test_errors_of_an_overloaded_or_stopping_postgres_are_unavailable(
    service: Service, sql: asyncpg.Connection[Any], sqlstate: str
) -> None:
    """Full, cancelled, shut down, starting, read-only, locked, deadlocked: none of these is the caller's fault."""
    issued = await service.operator.issue()
    async with failing_updates(sql, sqlstate):
        for call in (service.service.authorize(issued.token), service.operator.revoke(key_id=issued.key.id)):
            assert (await refusal(call)).code is grpc.StatusCode.UNAVAILABLE


async def test_an_unexpected_error_is_internal_and_reveals_nothing(
    service: Service, sql: asyncpg.Connection[Any]
) -> None:
    """It is logged in full, and the caller gets a bare INTERNAL."""
    issued = await service.operator.issue()
    await sql.execute("ALTER TABLE key RENAME COLUMN secret_hash TO something_else")
    refused = await refusal(service.service.authorize(issued.token))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    assert "secret_hash" not in refused.message
    (logged,) = [each for each in service.log.events if each["event"] == "unexpected error"]
    assert "secret_hash" in logged["exception"]
