"""Calls that many tests make, and calls below the stubs: any method, with any bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf import message_factory

from skilder.keys.v1 import (
    activity_service_pb2,
    audit_service_pb2,
    authorization_service_pb2,
    catalog_service_pb2,
    common_pb2,
    key_pb2,
    key_service_pb2,
    runtime_service_pb2,
    workspace_pb2,
)

if TYPE_CHECKING:
    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

    from tests.support.service import Client

_FILES = (
    activity_service_pb2,
    audit_service_pb2,
    authorization_service_pb2,
    catalog_service_pb2,
    key_service_pb2,
    runtime_service_pb2,
)

METHODS: dict[str, MethodDescriptor] = {
    f"{service.name}/{method.name}": method
    for file in _FILES
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
"""Every method of the service, as `KeyService/IssueKey`."""

OF_EACH_KIND = (
    "AuthorizationService/Authorize",
    "AuthorizationService/BatchAuthorize",
    "AuthorizationService/ReadToolSet",
    "AuditService/FollowEvents",
    "KeyService/IssueKey",
)
"""One method of each kind that the transports treat in another way: decided at once, streamed, and all others."""


LASTING = {"AuditService/FollowEvents"}
"""Methods whose streams last."""


async def call(client: Client, method: str, request: Message | bytes, **options: Any) -> bytes:
    """Call a method by its name and return the bytes of its response, or of all its responses.

    Of a stream that lasts, return only the first response.
    """
    body = request if isinstance(request, bytes) else request.SerializeToString()
    path = f"/skilder.keys.v1.{method}"
    if METHODS[method].server_streaming:
        stream_callable: Any = client.channel.unary_stream(path)
        stream = stream_callable(body, **options)
        if method in LASTING:
            async for part in stream:
                stream.cancel()
                return bytes(part)
        return b"".join([part async for part in stream])
    multi_callable: Any = client.channel.unary_unary(path)
    response: bytes = await multi_callable(body, **options)
    return response


def request_type(method: str) -> type[Message]:
    """Return the class of a method's requests."""
    return message_factory.GetMessageClass(METHODS[method].input_type)


def user(id_: str) -> common_pb2.Principal:
    """Return a person, as keys name who issued or revoked them."""
    return common_pb2.Principal(kind=common_pb2.PRINCIPAL_KIND_USER, id=id_)


def caller(name: str) -> common_pb2.Principal:
    """Return a caller, as keys name who issued or revoked them."""
    return common_pb2.Principal(kind=common_pb2.PRINCIPAL_KIND_CALLER, id=name)


def runtime(id_: str) -> common_pb2.Principal:
    """Return a runtime instance, as keys name who issued or revoked them."""
    return common_pb2.Principal(kind=common_pb2.PRINCIPAL_KIND_RUNTIME, id=id_)


async def get_key(client: Client, key_id: str, **fields: Any) -> key_pb2.Key:
    """Return a key."""
    response = await client.keys.GetKey(key_service_pb2.GetKeyRequest(key_id=key_id, **fields))
    key: key_pb2.Key = response.key
    return key


async def list_keys(client: Client, **fields: Any) -> key_service_pb2.ListKeysResponse:
    """Return one page of keys; of workspace `acme` by default."""
    response: key_service_pb2.ListKeysResponse = await client.keys.ListKeys(
        key_service_pb2.ListKeysRequest(**{"workspace_id": "acme"} | fields)
    )
    return response


async def count_keys(client: Client, **fields: Any) -> key_service_pb2.CountKeysResponse:
    """Return how many keys there are; of workspace `acme` by default."""
    response: key_service_pb2.CountKeysResponse = await client.keys.CountKeys(
        key_service_pb2.CountKeysRequest(**{"workspace_id": "acme"} | fields)
    )
    return response


async def list_events(client: Client, **fields: Any) -> audit_service_pb2.ListEventsResponse:
    """Return one page of events; of workspace `acme` by default."""
    response: audit_service_pb2.ListEventsResponse = await client.audit.ListEvents(
        audit_service_pb2.ListEventsRequest(**{"workspace_id": "acme"} | fields)
    )
    return response


async def list_workspaces(client: Client, **fields: Any) -> catalog_service_pb2.ListWorkspacesResponse:
    """Return one page of workspaces."""
    response: catalog_service_pb2.ListWorkspacesResponse = await client.catalog.ListWorkspaces(
        catalog_service_pb2.ListWorkspacesRequest(**fields)
    )
    return response


async def list_parts(client: Client, parts: str, **fields: Any) -> Any:
    """Return one page of `members`, `hats` or `tools`; of workspace `acme` by default."""
    method = f"List{parts.title()}"
    request: Any = getattr(catalog_service_pb2, f"{method}Request")
    return await getattr(client.catalog, method)(request(**{"workspace_id": "acme"} | fields))


async def get_workspace(
    client: Client, workspace_id: str = "acme", **fields: Any
) -> catalog_service_pb2.GetWorkspaceResponse:
    """Return a workspace and its version."""
    response: catalog_service_pb2.GetWorkspaceResponse = await client.catalog.GetWorkspace(
        catalog_service_pb2.GetWorkspaceRequest(workspace_id=workspace_id, **fields)
    )
    return response


async def delete_workspace(client: Client, workspace_id: str = "acme", **fields: Any) -> Any:
    """Delete a workspace."""
    return await client.catalog.DeleteWorkspace(
        catalog_service_pb2.DeleteWorkspaceRequest(workspace_id=workspace_id, **fields)
    )


def part(parts: Any, id_: str) -> Any:
    """Return the member, team, hat, skill or tool with this id from a list."""
    (found,) = [each for each in parts if id_of(each) == id_]
    return found


def remove(parts: Any, *ids: str) -> None:
    """Remove members, teams, hats, skills or tools from a list."""
    for id_ in ids:
        parts.remove(part(parts, id_))


def id_of(message: Any) -> str:
    """Return the id of an element of a list."""
    if isinstance(message, audit_service_pb2.AuditEvent):
        return f"{message.workspace_id} {message.number}"
    if isinstance(message, key_service_pb2.ToolUser):
        return str(message.user_id or message.key.id)
    if isinstance(message, activity_service_pb2.Activity):
        same = (message.start_at.seconds, message.span.seconds, message.key_id, message.tool_id, message.caller)
        return repr((*same, message.denial_reason, message.hint))
    return str(message.user_id if isinstance(message, workspace_pb2.Member) else message.id)
