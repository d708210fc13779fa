"""Decisions from memory on the wire: runtime keys as callers, and the bytes that are sent."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1.key_pb2 import KEY_TYPE_RUNTIME
from skilder_keys.domain.token import KeyType, Token
from tests.support.calls import call, delete_workspace
from tests.support.service import Client, Service, refusal
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    Sql = asyncpg.Connection[Any]

pytestmark = GRPCIO_IF_SHORT


RUNTIME: dict[str, Any] = {"type": KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"}


async def until_from_memory(service: Service, client: Client, token: str) -> None:
    """Wait until both the client's own key and the token it authorizes are in memory."""
    async with asyncio.timeout(60):
        while True:
            before = await service.metric("cache_hits_total")
            await client.authorize(token)
            if await service.metric("cache_hits_total") >= before + 2:
                return


async def test_a_runtime_key_in_memory_is_refused_at_once_when_revoked(service: Service) -> None:
    """Also on an open connection, and after its workspace was deleted."""
    for round_ in range(10):
        runtime, agent = await service.operator.issue(**RUNTIME), await service.operator.issue()
        instance = await service.client(runtime.token)
        await until_from_memory(service, instance, agent.token)
        await service.operator.revoke(key_id=runtime.key.id)
        refused = await refusal(instance.authorize(agent.token))
        assert refused.code is grpc.StatusCode.UNAUTHENTICATED, round_
        assert (await service.service.authorize(agent.token)).HasField("granted")
    last, agent = await service.operator.issue(**RUNTIME), await service.operator.issue()
    instance = await service.client(last.token)
    await until_from_memory(service, instance, agent.token)
    await delete_workspace(service.operator)
    assert (await refusal(instance.authorize(agent.token))).code is grpc.StatusCode.UNAUTHENTICATED


async def test_a_runtime_instance_learns_nothing_of_a_foreign_key_in_memory(service: Service) -> None:
    """Warm or cold, granted or revoked: PERMISSION_DENIED as always; a wrong secret is an unknown token."""
    await service.operator.apply(small_workspace("globex"))
    instance = await service.client((await service.operator.issue(**RUNTIME)).token)
    foreign = await service.operator.issue(workspace_id="globex")
    for revoked in (False, True):
        if revoked:
            await service.operator.revoke(key_id=foreign.key.id)
        for _ in range(3):
            refused = await refusal(instance.authorize(foreign.token))
            assert refused.reason == "FOREIGN_WORKSPACE"
            await service.service.authorize(foreign.token)
        wrong = Token.mint(KeyType.WORKSPACE, Token.parse(foreign.token).key_id)
        assert await instance.denial(wrong.reveal()) == "UNKNOWN"


async def test_a_refused_query_of_a_runtime_instance_is_no_use_of_the_key(service: Service, sql: Sql) -> None:
    """Cold or from memory."""
    await service.operator.apply(small_workspace("globex"))
    instance = await service.client((await service.operator.issue(**RUNTIME)).token)
    foreign = await service.operator.issue(workspace_id="globex")
    await refusal(instance.authorize(foreign.token))
    assert await sql.fetchval("SELECT last_used_at FROM key WHERE workspace_id = 'globex'") is None


async def test_a_served_response_is_the_same_cold_and_warm(service: Service) -> None:
    """The bytes on the wire."""
    issued = await service.operator.issue()
    request = pb.AuthorizeRequest(token=issued.token)
    method = "AuthorizationService/Authorize"
    cold = await call(service.service, method, request)
    async with asyncio.timeout(60):
        while await service.metric("cache_hits_total") == 0:
            assert await call(service.service, method, request) == cold
    assert await call(service.service, method, request) == cold
