"""skilder.keys.v1.CatalogService."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.domain.workspace import FIELDS
from skilder_keys.domain.workspace_lists import WorkspaceFilter
from skilder_keys.rpc import convert, convert_catalog_lists, convert_workspaces
from skilder_keys.rpc.workspace_digests import SentWorkspace

if TYPE_CHECKING:
    from skilder_keys.app.workspace_reads import WorkspaceReads
    from skilder_keys.app.workspace_updates import WorkspaceUpdates
    from skilder_keys.app.workspaces import Workspaces
    from skilder_keys.offload import Offload
    from skilder_keys.rpc.pipeline import Call

    _ListRequest = pb.ListWorkspacesRequest | pb.ListMembersRequest | pb.ListHatsRequest | pb.ListToolsRequest

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["CatalogService"]


class _Page(TypedDict):
    """The arguments that all lists have."""

    page_size: int
    page_token: str
    actor: UserId | None


class CatalogServicer:
    """Converts requests, calls the use case, and converts its results."""

    def __init__(
        self, workspaces: Workspaces, updates: WorkspaceUpdates, reads: WorkspaceReads, offload: Offload
    ) -> None:
        """Make the servicer.

        Args:
            workspaces: The use cases that change whole workspaces.
            updates: The one that changes single parts.
            reads: Those that show and list them.
            offload: Where long messages are converted.
        """
        self._workspaces = workspaces
        self._updates = updates
        self._reads = reads
        self._offload = offload

    async def ApplyWorkspace(  # noqa: N802
        self, request: pb.ApplyWorkspaceRequest, call: Call
    ) -> bytes:
        """Replace the contents of a workspace by the given ones."""
        asked = await self._offload.run(SentWorkspace, request.workspace, call.body)
        version, changes = await self._workspaces.apply_asked(
            asked,
            _expected_version(request),
            call.origin(request.actor),
            max_removals=request.max_removals if request.HasField("max_removals") else None,
            dry_run=request.dry_run,
        )
        call.notes.update(workspace=asked.id, version=str(version))
        if request.dry_run:
            call.notes["dry_run"] = "true"
        return await self._offload.run(convert_workspaces.apply_response, version, changes)

    async def UpdateWorkspace(  # noqa: N802
        self, request: pb.UpdateWorkspaceRequest, call: Call
    ) -> bytes:
        """Add, replace and remove single parts of a workspace."""
        update, violations = await self._offload.run(convert_workspaces.update, request)
        version, changes = await self._updates.update(
            update,
            _expected_version(request),
            call.origin(request.actor),
            violations=violations,
            dry_run=request.dry_run,
        )
        call.notes.update(workspace=update.workspace_id, version=str(version))
        if request.dry_run:
            call.notes["dry_run"] = "true"
        return await self._offload.run(convert_workspaces.apply_response, version, changes)

    async def GetWorkspace(self, request: pb.GetWorkspaceRequest, call: Call) -> bytes:  # noqa: N802
        """Return a workspace, or those of its fields that a mask names."""
        read_mask = tuple(request.read_mask.paths) if request.HasField("read_mask") else FIELDS
        status, workspace = await self._reads.get(WorkspaceId(request.workspace_id), _actor(request), read_mask)
        call.notes["workspace"] = workspace.id
        return await self._offload.run(convert_workspaces.get_response, status, workspace, read_mask)

    async def ListWorkspaces(self, request: pb.ListWorkspacesRequest, call: Call) -> bytes:  # noqa: N802
        """List the workspaces, in order of id."""
        page = await self._reads.list_workspaces(
            WorkspaceFilter(UserId(request.user_id) if request.user_id else None, request.show_deleted),
            **_page(request),
            limits=call.caller.limits,
        )
        return await self._offload.run(convert_workspaces.list_workspaces_response, page)

    async def ListMembers(self, request: pb.ListMembersRequest, call: Call) -> bytes:  # noqa: N802
        """List the members of a workspace, in order of id."""
        page = await self._reads.list_members(convert_catalog_lists.member_filter(request), **_page(request))
        call.notes["workspace"] = request.workspace_id
        return await self._offload.run(convert_catalog_lists.list_members_response, page)

    async def ListHats(self, request: pb.ListHatsRequest, call: Call) -> bytes:  # noqa: N802
        """List the hats of a workspace, in order of id, without their instructions."""
        page = await self._reads.list_hats(convert_catalog_lists.hat_filter(request), **_page(request))
        call.notes["workspace"] = request.workspace_id
        return await self._offload.run(convert_catalog_lists.list_hats_response, page)

    async def ListTools(self, request: pb.ListToolsRequest, call: Call) -> bytes:  # noqa: N802
        """List the tools of a workspace, in order of id."""
        page = await self._reads.list_tools(convert_catalog_lists.tool_filter(request), **_page(request))
        call.notes["workspace"] = request.workspace_id
        return await self._offload.run(convert_catalog_lists.list_tools_response, page)

    async def DeleteWorkspace(  # noqa: N802
        self, request: pb.DeleteWorkspaceRequest, call: Call
    ) -> pb.DeleteWorkspaceResponse:
        """Delete a workspace permanently."""
        deleted_at = await self._workspaces.delete(
            WorkspaceId(request.workspace_id), _expected_version(request), call.origin(request.actor)
        )
        call.notes["workspace"] = request.workspace_id
        return pb.DeleteWorkspaceResponse(deleted_at=convert.timestamp(deleted_at))


def _expected_version(
    request: pb.ApplyWorkspaceRequest | pb.UpdateWorkspaceRequest | pb.DeleteWorkspaceRequest,
) -> int | None:
    return request.expected_version if request.HasField("expected_version") else None


def _page(request: _ListRequest) -> _Page:
    return _Page(page_size=request.page_size, page_token=request.page_token, actor=_actor(request))


def _actor(request: pb.GetWorkspaceRequest | _ListRequest) -> UserId | None:
    return UserId(request.actor) if request.actor else None
