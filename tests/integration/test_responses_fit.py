"""Responses that a client with default limits can take: of every method, about the largest workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from google.protobuf import message_factory
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask

from skilder.keys.v1.activity_service_pb2 import GetUsageRequest, ListActivityRequest
from skilder.keys.v1.audit_service_pb2 import FollowEventsRequest, ListEventsRequest
from skilder.keys.v1.authorization_service_pb2 import (
    TOOL_SET_VIEW_FULL,
    AuthorizeRequest,
    BatchAuthorizeRequest,
    ReadToolSetRequest,
)
from skilder.keys.v1.catalog_service_pb2 import (
    ApplyWorkspaceRequest,
    DeleteWorkspaceRequest,
    GetWorkspaceRequest,
    ListHatsRequest,
    ListMembersRequest,
    ListToolsRequest,
    ListWorkspacesRequest,
    UpdateWorkspaceRequest,
    WorkspaceParts,
)
from skilder.keys.v1.key_pb2 import KEY_LIMIT_HATS, KEY_TYPE_RUNTIME, KEY_TYPE_WORKSPACE, HatLimit, Key
from skilder.keys.v1.key_service_pb2 import (
    CountKeysRequest,
    ExplainKeyRequest,
    GetKeyRequest,
    IssueKeyRequest,
    KeyFilter,
    ListKeysRequest,
    ListToolUsersRequest,
    ResumeKeyRequest,
    RevokeKeyRequest,
    RevokeKeysRequest,
    RotateKeyRequest,
    SuspendKeyRequest,
    UpdateKeyRequest,
)
from skilder.keys.v1.runtime_service_pb2 import RotateOwnKeyRequest
from tests.support.calls import LASTING, METHODS
from tests.support.largest import largest_workspace
from tests.support.lengths import ONLY_IF_LONG
from tests.support.service import TOKENS
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from tests.support.service import Client, Service

KIB = 2**10
LIMIT = 4 * KIB * KIB
LARGE = {"CatalogService/GetWorkspace": 16 * KIB * KIB}
ACTOR = "user-000000"
CALLERS = {
    "AuthorizationService": "service",
    "KeyService": "console",
    "CatalogService": "console",
    "ActivityService": "console",
    "AuditService": "console",
}
RUNTIME: dict[str, Any] = {"type": KEY_TYPE_RUNTIME, "workspace_id": "largest", "runtime_id": "r" * 128}

_ALL_KEYS = RevokeKeysRequest(
    workspace_id="largest", filter=KeyFilter(types=[KEY_TYPE_WORKSPACE]), dry_run=True, actor=ACTOR
)


class Caller:
    """A client with the limits that gRPC has by default, but for GetWorkspace, which needs a higher one."""

    def __init__(self, clients: dict[str, Client], larger: Client) -> None:
        self._clients = clients
        self._larger = larger
        self.sizes: dict[str, int] = {}

    def add(self, service: str, client: Client) -> None:
        """Call the methods of another service with a client."""
        self._clients[service] = client

    async def call(self, method: str, request: Message) -> list[Any]:
        """Return the responses of a method, and note the largest one."""
        descriptor = METHODS[method]
        client = self._larger if method in LARGE else self._clients[method.partition("/")[0]]
        response: Any = message_factory.GetMessageClass(descriptor.output_type)
        options = {"response_deserializer": response.FromString}
        path, body = f"/skilder.keys.v1.{method}", request.SerializeToString()
        if descriptor.server_streaming:
            stream: Any = client.channel.unary_stream(path, **options)
            call = stream(body)
            found = [await call.read()] if method in LASTING else [each async for each in call]
            call.cancel()
        else:
            unary: Any = client.channel.unary_unary(path, **options)
            found = [await unary(body)]
        self.sizes[method] = max([self.sizes.get(method, 0), *(each.ByteSize() for each in found)])
        return found

    async def pages(self, method: str, request: Any) -> list[Any]:
        """Call a method for each page, and return the responses."""
        found = await self.call(method, request)
        while found[-1].next_page_token:
            request.page_token = found[-1].next_page_token
            found += await self.call(method, request)
        return found


@pytest.fixture
async def caller(patient: Service) -> Caller:
    """A caller with each role."""
    larger = await patient.client(TOKENS["console"], options=[("grpc.max_receive_message_length", 16 * KIB * KIB)])
    return Caller({service: getattr(patient, role) for service, role in CALLERS.items()}, larger)


async def change_keys(caller: Caller, service: Service, key_id: str) -> None:
    """Suspend, resume and rotate a key, and rotate that of a runtime instance by itself."""
    reason = "r" * 500
    await caller.call("KeyService/SuspendKey", SuspendKeyRequest(key_id=key_id, reason=reason, actor=ACTOR))
    await caller.call("KeyService/ResumeKey", ResumeKeyRequest(key_id=key_id, reason=reason, actor=ACTOR))
    await caller.call("KeyService/RotateKey", RotateKeyRequest(key_id=key_id, actor=ACTOR))
    issued = await service.operator.issue(**RUNTIME, description="D" * 200)
    caller.add("RuntimeService", await service.client(issued.token))
    await caller.call("RuntimeService/RotateOwnKey", RotateOwnKeyRequest())


@ONLY_IF_LONG
@pytest.mark.long
@GRPCIO_IF_SHORT
async def test_every_response_about_the_largest_workspace_fits(caller: Caller, patient: Service) -> None:
    """Into 4 MiB; a whole workspace into 16 MiB. What does not fit is on a next page, in another part, or named."""
    workspace = largest_workspace("largest")
    await caller.call("CatalogService/ApplyWorkspace", ApplyWorkspaceRequest(workspace=workspace, actor=ACTOR))
    update = UpdateWorkspaceRequest(
        workspace_id="largest", put=WorkspaceParts(members=workspace.members[:5000]), actor=ACTOR
    )
    for member in update.put.members:
        member.ClearField("team_ids")
    ((updated,),) = [await caller.call("CatalogService/UpdateWorkspace", update)]
    assert len(updated.changes) == updated.change_count == 5000
    get = GetWorkspaceRequest(workspace_id="largest", actor=ACTOR)
    assert len((await caller.call("CatalogService/GetWorkspace", get))[0].workspace.tools) == len(workspace.tools)
    assert (await caller.call("CatalogService/ListWorkspaces", ListWorkspacesRequest(actor=ACTOR)))[0].workspaces
    for kind in (ListMembersRequest, ListHatsRequest, ListToolsRequest):
        method = f"CatalogService/{kind.DESCRIPTOR.name.removesuffix('Request')}"
        await caller.call(method, kind(workspace_id="largest", page_size=1000, actor=ACTOR))

    order: dict[str, Any] = {
        "type": KEY_TYPE_WORKSPACE,
        "workspace_id": "largest",
        "actor": ACTOR,
        "description": "D" * 200,
    }
    limit = HatLimit(hat_ids=[hat.id for hat in workspace.hats[:100]])
    (wide,) = await caller.call("KeyService/IssueKey", IssueKeyRequest(unlimited=[KEY_LIMIT_HATS], **order))
    order_limited = IssueKeyRequest(hat_limit=limit, **order)
    limited = [(await caller.call("KeyService/IssueKey", order_limited))[0] for _ in range(20)]
    await change_keys(caller, patient, limited[0].key.id)
    await caller.call("KeyService/GetKey", GetKeyRequest(key_id=limited[0].key.id, actor=ACTOR))
    explain = ExplainKeyRequest(key_id=wide.key.id, page_size=1000, actor=ACTOR)
    (explained,) = await caller.call("KeyService/ExplainKey", explain)
    assert (len(explained.hats), len(explained.tools)) == (len(workspace.hats), 1000)
    users = ListToolUsersRequest(workspace_id="largest", tool_id=workspace.tools[0].id, page_size=1000, actor=ACTOR)
    assert any(page.users for page in await caller.pages("KeyService/ListToolUsers", users))
    await caller.call("KeyService/ListKeys", ListKeysRequest(workspace_id="largest", page_size=1000, actor=ACTOR))
    await caller.call("KeyService/CountKeys", CountKeysRequest(workspace_id="largest", actor=ACTOR))

    await _read_what_was_done(caller)
    ask = AuthorizeRequest(token=wide.token)
    (response,) = await caller.call("AuthorizationService/Authorize", ask)
    assert response.granted.WhichOneof("reach") == "tool_set_version"
    for fields in ({"view": TOOL_SET_VIEW_FULL}, {"mcp_server": "server"}):
        ask_in_part = AuthorizeRequest(token=wide.token, **fields)
        (response,) = await caller.call("AuthorizationService/Authorize", ask_in_part)
        assert response.granted.WhichOneof("reach") == "tool_set_version"
        await caller.call("AuthorizationService/ReadToolSet", ReadToolSetRequest(request=ask_in_part))
    ask_about_a_tool = AuthorizeRequest(token=wide.token, tool_id=workspace.tools[0].id)
    (response,) = await caller.call("AuthorizationService/Authorize", ask_about_a_tool)
    assert response.granted.WhichOneof("reach") == "tool"
    asks = [ask, ask_about_a_tool, *(AuthorizeRequest(token=each.token) for each in limited)] * 45
    batch = BatchAuthorizeRequest(requests=asks)
    (responses,) = await caller.call("AuthorizationService/BatchAuthorize", batch)
    assert len(responses.responses) == len(asks)
    assert all(each.HasField("granted") for each in responses.responses)
    parts = await caller.call("AuthorizationService/ReadToolSet", ReadToolSetRequest(request=ask))
    assert sum(len(part.tool_set.tools) for part in parts) == len(workspace.tools)

    await _change(caller, limited[0].key.id)
    await caller.call("KeyService/RevokeKeys", _ALL_KEYS)
    await caller.call("KeyService/RevokeKey", RevokeKeyRequest(key_id=wide.key.id, reason="r" * 500, actor=ACTOR))
    await caller.call("CatalogService/DeleteWorkspace", DeleteWorkspaceRequest(workspace_id="largest", actor=ACTOR))

    assert set(caller.sizes) == set(METHODS), "call every method here"
    for method, size in caller.sizes.items():
        assert 0 < size <= LARGE.get(method, LIMIT), method


async def _read_what_was_done(caller: Caller) -> None:
    """Read activity and events. Larger responses are in test_lists.py, and in tests/unit/test_convert_activity.py."""
    await caller.call("ActivityService/ListActivity", ListActivityRequest(workspace_id="largest", actor=ACTOR))
    usage = GetUsageRequest(workspace_id="largest", step=Duration(seconds=3600), actor=ACTOR)
    await caller.call("ActivityService/GetUsage", usage)
    request = ListEventsRequest(workspace_id="largest", page_size=1000, actor=ACTOR)
    assert sum(len(page.events) for page in await caller.pages("AuditService/ListEvents", request)) > 20
    follow = FollowEventsRequest(workspace_id="largest", after_number=0, actor=ACTOR)
    await caller.call("AuditService/FollowEvents", follow)


async def _change(caller: Caller, key_id: str) -> None:
    """Change a key in each way that leaves it there."""
    described = UpdateKeyRequest(
        key=Key(id=key_id, description="d" * 200), update_mask=FieldMask(paths=["description"]), actor=ACTOR
    )
    await caller.call("KeyService/UpdateKey", described)
    reason = "r" * 500
    await caller.call("KeyService/SuspendKey", SuspendKeyRequest(key_id=key_id, reason=reason, actor=ACTOR))
    await caller.call("KeyService/ResumeKey", ResumeKeyRequest(key_id=key_id, reason=reason, actor=ACTOR))
