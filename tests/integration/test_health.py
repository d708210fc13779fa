"""The standard services that every gRPC tool expects: health and reflection. They need no token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.support.service import Service, serving

if TYPE_CHECKING:
    from pathlib import Path

SERVICES = (
    "skilder.keys.v1.AuthorizationService",
    "skilder.keys.v1.CatalogService",
    "skilder.keys.v1.KeyService",
)


@pytest.mark.parametrize("name", ["", *SERVICES])
async def test_health_speaks_for_the_server_and_for_each_service(empty_service: Service, name: str) -> None:
    """As grpc_health_probe asks it, with no token."""
    anybody = await empty_service.client(None)
    stub: Any = health_pb2_grpc.HealthStub(anybody.channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=name))
    assert response.status == health_pb2.HealthCheckResponse.SERVING


async def test_health_of_an_unknown_service_is_not_found(empty_service: Service) -> None:
    """As the standard says."""
    stub: Any = health_pb2_grpc.HealthStub(empty_service.operator.channel)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Check(health_pb2.HealthCheckRequest(service="no.such.Service"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


async def listed(service: Service) -> list[str]:
    """Answers the services that reflection lists."""
    anybody = await service.client(None)
    stub: Any = reflection_pb2_grpc.ServerReflectionStub(anybody.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
    async for response in call:
        return [each.name for each in response.list_services_response.service]
    return []


async def test_reflection_lists_every_service(empty_service: Service) -> None:
    """So that grpcurl needs no .proto files."""
    assert await listed(empty_service) == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        *SERVICES,
    ]


async def test_reflection_can_be_turned_off(database_url: str, tmp_path: Path) -> None:
    """Then it is not there at all."""
    async with serving(database_url, tmp_path, reflection=False) as service:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await listed(service)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
