"""Make the stubs for Python as a plugin does, so that buf can run what grpc_tools has only in its compiler."""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from google.protobuf.compiler.plugin_pb2 import CodeGeneratorRequest, CodeGeneratorResponse
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from grpc_tools import protoc  # type: ignore[import-untyped] # it has no types

if TYPE_CHECKING:
    from collections.abc import Iterable

    from google.protobuf.descriptor_pb2 import DescriptorProto, FieldDescriptorProto, FileDescriptorProto


def _fields(messages: Iterable[DescriptorProto]) -> Iterable[FieldDescriptorProto]:
    for message in messages:
        yield from message.field
        yield from _fields(message.nested_type)


def _without_names_for_json(file: FileDescriptorProto) -> FileDescriptorProto:
    """Leave out what follows from the name of a field. buf says it, and it would be a fourth of the stubs."""
    for field in [*file.extension, *_fields(file.message_type)]:
        field.ClearField("json_name")
    return file


def generate(request: CodeGeneratorRequest) -> CodeGeneratorResponse:
    """Return the stubs of the files to generate."""
    with TemporaryDirectory() as folder:
        files, made = Path(folder, "files.binpb"), Path(folder, "made")
        made.mkdir()
        described = FileDescriptorSet(file=map(_without_names_for_json, request.proto_file))
        files.write_bytes(described.SerializeToString())
        outputs = [f"--{name}_out={made}" for name in ("python", "grpc_python")]
        if protoc.main(["protoc", f"--descriptor_set_in={files}", *outputs, *request.file_to_generate]) != 0:
            return CodeGeneratorResponse(error="grpc_tools made no stubs")
        return CodeGeneratorResponse(
            supported_features=CodeGeneratorResponse.FEATURE_PROTO3_OPTIONAL,
            file=[
                CodeGeneratorResponse.File(name=str(path.relative_to(made)), content=path.read_text("utf-8"))
                for path in sorted(made.rglob("*.py"))
            ],
        )


if __name__ == "__main__":
    asked = CodeGeneratorRequest.FromString(sys.stdin.buffer.read())
    sys.stdout.buffer.write(generate(asked).SerializeToString())
