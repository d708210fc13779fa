"""protobuf <-> domain, for lists of members, hats and tools."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder.keys.v1 import catalog_service_pb2, workspace_pb2
from skilder_keys.app.enums import HAT_AUDIENCES, MEMBER_ROLES
from skilder_keys.domain.ids import SkillId, TeamId, UserId, WorkspaceId
from skilder_keys.domain.workspace_lists import HatFilter, MemberFilter, ToolFilter
from skilder_keys.rpc.convert import list_response, optional
from skilder_keys.rpc.convert_workspaces import member_message, tool_message

if TYPE_CHECKING:
    from skilder_keys.app.page import Page
    from skilder_keys.domain.workspace import Hat, Member, Tool


def member_filter(request: catalog_service_pb2.ListMembersRequest) -> MemberFilter:
    """Return some of the members of a workspace. An empty field is no condition.

    Raises:
        InvalidRequestError: `role` is not one of the enum.
    """
    return MemberFilter(
        WorkspaceId(request.workspace_id),
        request.text,
        TeamId(request.team_id) if request.team_id else None,
        optional("role", request.role, MEMBER_ROLES),
    )


def hat_filter(request: catalog_service_pb2.ListHatsRequest) -> HatFilter:
    """Return some of the hats of a workspace. An empty field is no condition."""
    user_id = UserId(request.user_id) if request.user_id else None
    return HatFilter(WorkspaceId(request.workspace_id), request.text, user_id)


def tool_filter(request: catalog_service_pb2.ListToolsRequest) -> ToolFilter:
    """Return some of the tools of a workspace. An empty field is no condition."""
    skill_id = SkillId(request.skill_id) if request.skill_id else None
    return ToolFilter(WorkspaceId(request.workspace_id), request.text, request.mcp_server, skill_id)


def list_members_response(page: Page[Member]) -> bytes:
    """Return a ListMembersResponse, serialised."""
    return list_response(
        page,
        lambda members, token: catalog_service_pb2.ListMembersResponse(
            members=map(member_message, members), next_page_token=token
        ),
    )


def list_hats_response(page: Page[Hat]) -> bytes:
    """Return a ListHatsResponse, serialised."""
    return list_response(
        page,
        lambda hats, token: catalog_service_pb2.ListHatsResponse(
            hats=map(hat_summary_message, hats), next_page_token=token
        ),
    )


def list_tools_response(page: Page[Tool]) -> bytes:
    """Return a ListToolsResponse, serialised."""
    return list_response(
        page,
        lambda tools, token: catalog_service_pb2.ListToolsResponse(
            tools=map(tool_message, tools), next_page_token=token
        ),
    )


def hat_summary_message(hat: Hat) -> workspace_pb2.HatSummary:
    """Return a hat without its instructions, as a message."""
    return workspace_pb2.HatSummary(
        id=hat.id,
        name=hat.name,
        description=hat.description,
        team_ids=hat.team_ids,
        skill_ids=hat.skill_ids,
        audience=HAT_AUDIENCES[hat.audience],
    )
