"""A caller of the service, for the few calls that are made one at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import grpc

from skilder.keys.v1 import activity_service_pb2, audit_service_pb2, catalog_service_pb2, key_pb2, key_service_pb2
from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1.activity_service_pb2_grpc import ActivityServiceStub
from skilder.keys.v1.audit_service_pb2_grpc import AuditServiceStub
from skilder.keys.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from skilder.keys.v1 import workspace_pb2

_SECONDS = 30.0


class Caller:
    """One connection; with several workers it goes to one of them. It closes when the context ends."""

    def __init__(self, address: str, token: str) -> None:
        """Connect to an address with the caller's token."""
        self._channel = grpc.insecure_channel(address, [("grpc.use_local_subchannel_pool", 1)])
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._authorization: Any = AuthorizationServiceStub(self._channel)
        self._catalog: Any = CatalogServiceStub(self._channel)
        self._keys: Any = KeyServiceStub(self._channel)
        self._audit: Any = AuditServiceStub(self._channel)
        self._activity: Any = ActivityServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def apply(self, workspace: workspace_pb2.Workspace) -> None:
        """Apply a workspace."""
        request = catalog_service_pb2.ApplyWorkspaceRequest(workspace=workspace)
        self._call(self._catalog.ApplyWorkspace, request)

    def put(self, workspace_id: str, parts: catalog_service_pb2.WorkspaceParts, whole: workspace_pb2.Workspace) -> None:
        """Add or replace parts of a workspace; an earlier version, which cannot, gets the whole one as it is then."""
        request = catalog_service_pb2.UpdateWorkspaceRequest(workspace_id=workspace_id, put=parts)
        try:
            self._call(self._catalog.UpdateWorkspace, request)
        except grpc.RpcError as error:
            if error.code() != grpc.StatusCode.UNIMPLEMENTED:
                raise
            self.apply(whole)

    def issue(self, workspace_id: str) -> str:
        """Issue a workspace key and return its token."""
        request = key_service_pb2.IssueKeyRequest(
            type=key_pb2.KEY_TYPE_WORKSPACE,
            workspace_id=workspace_id,
            description="Benchmark",
            unlimited=[key_pb2.KEY_LIMIT_HATS],
        )
        return str(self._call(self._keys.IssueKey, request).token)

    def revoke(self, key_id: str) -> None:
        """Revoke a key."""
        self._call(self._keys.RevokeKey, key_service_pb2.RevokeKeyRequest(key_id=key_id))

    def events(self, request: audit_service_pb2.ListEventsRequest) -> audit_service_pb2.ListEventsResponse:
        """Return a page of the audit trail."""
        response: audit_service_pb2.ListEventsResponse = self._call(self._audit.ListEvents, request)
        return response

    def list_keys(self, request: key_service_pb2.ListKeysRequest) -> key_service_pb2.ListKeysResponse:
        """Return a page of keys."""
        response: key_service_pb2.ListKeysResponse = self._call(self._keys.ListKeys, request)
        return response

    def count_keys(self, request: key_service_pb2.CountKeysRequest) -> key_service_pb2.CountKeysResponse:
        """Count keys."""
        response: key_service_pb2.CountKeysResponse = self._call(self._keys.CountKeys, request)
        return response

    def revoke_keys(self, request: key_service_pb2.RevokeKeysRequest) -> key_service_pb2.RevokeKeysResponse:
        """Revoke the keys that match a filter."""
        response: key_service_pb2.RevokeKeysResponse = self._call(self._keys.RevokeKeys, request)
        return response

    def activity(
        self, request: activity_service_pb2.ListActivityRequest | activity_service_pb2.GetUsageRequest
    ) -> None:
        """List or sum up activity."""
        listed = isinstance(request, activity_service_pb2.ListActivityRequest)
        self._call(self._activity.ListActivity if listed else self._activity.GetUsage, request)

    def authorize(self, request: pb.AuthorizeRequest) -> pb.AuthorizeResponse:
        """Authorize a token."""
        response: pb.AuthorizeResponse = self._call(self._authorization.Authorize, request)
        return response

    def batch_authorize(self, request: pb.BatchAuthorizeRequest) -> pb.BatchAuthorizeResponse:
        """Authorize many tokens."""
        response: pb.BatchAuthorizeResponse = self._call(self._authorization.BatchAuthorize, request)
        return response

    def granted(self, token: str) -> pb.Granted:
        """Authorize a token, which must be good, and return what it reaches."""
        response = self.authorize(pb.AuthorizeRequest(token=token))
        if response.granted.WhichOneof("reach") != "tool_set":
            raise RuntimeError(f"a good token was denied: {response.denied.message}")
        return response.granted

    def _call(self, method: Any, request: Message) -> Any:
        return method(request, metadata=self._metadata, timeout=_SECONDS)
