"""Reflection, so that tools need no .proto files: grpc.reflection.v1, and v1alpha for older tools.

The package grpcio-reflection has only v1alpha. The messages of v1 have other names, but the same bytes.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool
from grpc_reflection.v1alpha import reflection, reflection_pb2

from skilder_keys.rpc.public import PublicMethod

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skilder_keys.rpc.public import PublicCall

_ALPHA = "grpc.reflection.v1alpha"
_V1 = "grpc.reflection.v1"
_SERVICES = tuple(f"{package}.ServerReflection" for package in (_V1, _ALPHA))


def reflection_methods(service_names: Iterable[str]) -> tuple[PublicMethod, ...]:
    """Return the methods of reflection, which describe these services and reflection itself."""
    respond = _responder((*service_names, *_SERVICES))

    async def serve(call: PublicCall, first: reflection_pb2.ServerReflectionRequest) -> None:
        request: Any = first
        while request is not None:
            await call.write(respond(request.SerializeToString(deterministic=True)))
            request = await call.read(reflection_pb2.ServerReflectionRequest)

    return tuple(
        PublicMethod(f"/{name}/ServerReflectionInfo", reflection_pb2.ServerReflectionRequest, serve)
        for name in _SERVICES
    )


class Symbols:
    """A pool of descriptors that also finds methods, and enum values by the name of their enum."""

    def __init__(self) -> None:
        self._pool: Any = descriptor_pool.Default()
        _add_v1(self._pool)

    def FindFileContainingSymbol(self, name: str) -> Any:  # noqa: ANN401, N802 - as a pool has it
        """Return the file that defines a symbol.

        Raises:
            KeyError: The symbol is unknown.
        """
        try:
            return self._pool.FindFileContainingSymbol(name)
        except KeyError:
            parent, _, last = name.rpartition(".")
            return self._file_of_member(parent, last)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - any attribute of the pool
        """Return an attribute of protobuf's own pool."""
        return getattr(self._pool, name)

    def _file_of_member(self, parent: str, name: str) -> Any:  # noqa: ANN401 - untyped
        for find, of_parent in (("FindServiceByName", "methods_by_name"), ("FindEnumTypeByName", "values_by_name")):
            try:
                descriptor = getattr(self._pool, find)(parent)
            except KeyError:
                continue
            if name in getattr(descriptor, of_parent):
                return descriptor.file
        raise KeyError(name)


def _responder(service_names: tuple[str, ...]) -> Any:  # noqa: ANN401 - a cached function
    servicer = reflection.ReflectionServicer(service_names, Symbols())

    # A response costs far more than a request, because files are collected and serialised for it.
    @lru_cache(maxsize=64)
    def respond(body: bytes) -> bytes:
        request = reflection_pb2.ServerReflectionRequest.FromString(body)
        (response,) = servicer.ServerReflectionInfo(iter((request,)), None)
        serialised: bytes = response.SerializeToString()
        return serialised

    return respond


def _add_v1(pool: Any) -> None:  # noqa: ANN401 - untyped
    """Add the file of v1: that of v1alpha with another package."""
    file = descriptor_pb2.FileDescriptorProto()
    reflection_pb2.DESCRIPTOR.CopyToProto(file)
    file.name, file.package = "grpc/reflection/v1/reflection.proto", _V1
    for message in file.message_type:
        for field in message.field:
            if field.type_name:
                field.type_name = field.type_name.replace(_ALPHA, _V1)
    for service in file.service:
        for method in service.method:
            method.input_type = method.input_type.replace(_ALPHA, _V1)
            method.output_type = method.output_type.replace(_ALPHA, _V1)
    pool.AddSerializedFile(file.SerializeToString())
