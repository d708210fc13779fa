"""Reflection, so that tools need no .proto files: grpc.reflection.v1, and v1alpha for older ones.

The package for reflection has v1alpha alone, whose messages are those of v1 under other names, byte for byte.
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
    """Return the methods of reflection, which describes these services and itself."""
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
    """A pool of descriptors that finds what protobuf's own does not: a method, and a value by its enum's name."""

    def __init__(self) -> None:
        self._pool: Any = descriptor_pool.Default()
        _add_v1(self._pool)

    def FindFileContainingSymbol(self, name: str) -> Any:  # noqa: ANN401, N802 - as a pool has it
        """Return the file in which a symbol stands. Raises KeyError."""
        try:
            return self._pool.FindFileContainingSymbol(name)
        except KeyError:
            parent, _, last = name.rpartition(".")
            return self._parent(parent, last)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever it is
        """Return all else that a pool has."""
        return getattr(self._pool, name)

    def _parent(self, parent: str, name: str) -> Any:  # noqa: ANN401 - untyped
        for find, of_parent in (("FindServiceByName", "methods_by_name"), ("FindEnumTypeByName", "values_by_name")):
            try:
                found = getattr(self._pool, find)(parent)
            except KeyError:
                continue
            if name in getattr(found, of_parent):
                return found.file
        raise KeyError(name)


def _responder(service_names: tuple[str, ...]) -> Any:  # noqa: ANN401 - a cached function
    servicer = reflection.ReflectionServicer(service_names, Symbols())

    # To collect and serialise files costs far more than to ask for them.
    @lru_cache(maxsize=64)
    def respond(body: bytes) -> bytes:
        request = reflection_pb2.ServerReflectionRequest.FromString(body)
        (response,) = servicer.ServerReflectionInfo(iter((request,)), None)
        found: bytes = response.SerializeToString()
        return found

    return respond


def _add_v1(pool: Any) -> None:  # noqa: ANN401 - untyped
    """Add the file of v1, which is that of v1alpha but for its package."""
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
