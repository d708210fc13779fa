"""Reflection, which gRPC tools expect, in both of its versions. It needs no token."""

from __future__ import annotations

import asyncio
import subprocess
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection_pb2

from tests.support import grpcurl
from tests.support.service import serving
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Service

VERSIONS = ("v1", "v1alpha")
SERVICES = [
    "envoy.service.auth.v3.Authorization",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "skilder.keys.v1.ActivityService",
    "skilder.keys.v1.AuditService",
    "skilder.keys.v1.AuthorizationService",
    "skilder.keys.v1.CatalogService",
    "skilder.keys.v1.KeyService",
    "skilder.keys.v1.RuntimeService",
]


async def reflected(service: Service, *requests: dict[str, Any], version: str = "v1") -> list[Any]:
    """Return the responses to requests on one stream, from a client without a token."""
    anybody = await service.client(None)
    method: Any = anybody.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    return [each async for each in method(reflection_pb2.ServerReflectionRequest(**request) for request in requests)]


@pytest.mark.parametrize("version", VERSIONS)
async def test_every_service_is_listed(empty_service: Service, version: str) -> None:
    """By both versions, including the two reflection services."""
    (response,) = await reflected(empty_service, {"list_services": "*"}, version=version)
    assert [each.name for each in response.list_services_response.service] == SERVICES


SYMBOLS = {
    "skilder.keys.v1.KeyService": "skilder/keys/v1/key_service.proto",
    "skilder.keys.v1.KeyService.IssueKey": "skilder/keys/v1/key_service.proto",
    "skilder.keys.v1.CatalogService.ApplyWorkspace": "skilder/keys/v1/catalog_service.proto",
    "skilder.keys.v1.AuthorizationService.BatchAuthorize": "skilder/keys/v1/authorization_service.proto",
    "grpc.health.v1.Health.Check": "grpc_health/v1/health.proto",
    "grpc.reflection.v1.ServerReflection.ServerReflectionInfo": "grpc/reflection/v1/reflection.proto",
    "grpc.reflection.v1alpha.ServerReflection": "grpc_reflection/v1alpha/reflection.proto",
    "skilder.keys.v1.IssueKeyRequest": "skilder/keys/v1/key_service.proto",
    "skilder.keys.v1.IssueKeyRequest.hat_limit": "skilder/keys/v1/key_service.proto",
    "skilder.keys.v1.RevokeKeyRequest.target": "skilder/keys/v1/key_service.proto",
    "skilder.keys.v1.KeyType": "skilder/keys/v1/key.proto",
    "skilder.keys.v1.KEY_TYPE_USER": "skilder/keys/v1/key.proto",
    "skilder.keys.v1.KeyType.KEY_TYPE_USER": "skilder/keys/v1/key.proto",
    "skilder.keys.v1.ability": "skilder/keys/v1/common.proto",
    "google.protobuf.Timestamp": "google/protobuf/timestamp.proto",
}
NO_SYMBOLS = ["", ".", "skilder", "skilder.keys.v1", "skilder.keys.v1.KeyService.Nope", "skilder.keys.v1.KeyType.NOPE"]


@pytest.mark.parametrize("version", VERSIONS)
async def test_symbols_of_every_kind_are_found(empty_service: Service, version: str) -> None:
    """Services, methods, messages, fields, oneofs, enums, their values and options; an unknown symbol is not found."""
    requests = [{"file_containing_symbol": name} for name in (*SYMBOLS, *NO_SYMBOLS)]
    found = await reflected(empty_service, *requests, version=version)
    assert [each.original_request.file_containing_symbol for each in found] == [*SYMBOLS, *NO_SYMBOLS]
    for (name, path), response in zip(SYMBOLS.items(), found, strict=False):
        assert response.WhichOneof("message_response") == "file_descriptor_response", name
        first, *_ = response.file_descriptor_response.file_descriptor_proto
        assert FileDescriptorProto.FromString(first).name == path
    for response in found[len(SYMBOLS) :]:
        assert response.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


@pytest.mark.parametrize(
    "symbol", ["skilder.keys.v1.KeyService.IssueKey", "skilder.keys.v1.IssueKeyRequest", "grpc.health.v1.Health.Check"]
)
async def test_grpcurl_describes(empty_service: Service, symbol: str) -> None:
    """The first command that most people try."""
    command = (grpcurl.required(), "-plaintext", empty_service.address, "describe", symbol)
    running = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    reported, fault = await running.communicate()
    assert running.returncode == 0, fault.decode()
    assert f"{symbol} is a" in reported.decode()


@GRPCIO_IF_SHORT
async def test_reflection_can_be_turned_off(transport: str, database_url: str, tmp_path: Path) -> None:
    """Then neither version is served."""
    async with serving(database_url, tmp_path, transport=transport, reflection=False) as service:
        anybody = await service.client(None)
        for version in VERSIONS:
            # All of a unary call is sent at once; a stream fails with INTERNAL if the service refuses it before that.
            method: Any = anybody.channel.unary_unary(
                f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
            )
            assert await method(b"").code() is grpc.StatusCode.UNIMPLEMENTED
