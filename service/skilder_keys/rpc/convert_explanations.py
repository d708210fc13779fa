"""protobuf <-> domain, for what keys reach and who reaches a tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder.keys.v1 import authorization_service_pb2, key_service_pb2
from skilder_keys.app.enums import DENIAL_REASONS, HAT_REACHES
from skilder_keys.domain.ids import ToolId
from skilder_keys.domain.keys import Key
from skilder_keys.domain.tool_sets import ToolName
from skilder_keys.rpc.convert import MAX_PAGE_BYTES, key_message, list_response

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skilder_keys.app.page import Page
    from skilder_keys.domain.access import Caller
    from skilder_keys.domain.explanations import Explanation, FoundTool, ToolUser
    from skilder_keys.domain.permissions import ToolPath


def asked_tool(
    request: key_service_pb2.ExplainKeyRequest | key_service_pb2.ListToolUsersRequest,
) -> ToolId | ToolName | None:
    """Return the tool that a request names; None if it names none."""
    match request.WhichOneof("tool"):
        case "tool_id":
            return ToolId(request.tool_id)
        case "tool_name":
            return ToolName(request.tool_name.mcp_server, request.tool_name.name)
    return None


def explain_key_response(explanation: Explanation, page: Page[FoundTool], caller: Caller) -> bytes:
    """Return an ExplainKeyResponse, serialised."""
    first = key_service_pb2.ExplainKeyResponse(
        key=key_message(explanation.key, caller),
        hats=[
            key_service_pb2.HatExplanation(
                hat_id=hat.hat_id, name=hat.name, reach=HAT_REACHES[hat.reach], team_ids=hat.team_ids
            )
            for hat in explanation.hats
        ],
    )
    if explanation.denial is not None:
        first.denial = DENIAL_REASONS[explanation.denial]
    if explanation.grant is not None:
        grant = explanation.grant
        first.tool.CopyFrom(
            authorization_service_pb2.ToolGrant(
                tool=_reached_tool(grant.tool), paths=_paths(grant.paths), path_count=grant.path_count
            )
        )
    body = first.SerializeToString()
    return body + list_response(
        page,
        lambda tools, token: key_service_pb2.ExplainKeyResponse(tools=map(_reached_tool, tools), next_page_token=token),
        MAX_PAGE_BYTES - len(body),
    )


def list_tool_users_response(page: Page[ToolUser], caller: Caller) -> bytes:
    """Return a ListToolUsersResponse, serialised."""
    return list_response(
        page,
        lambda users, token: key_service_pb2.ListToolUsersResponse(
            users=[_tool_user(user, caller) for user in users], next_page_token=token
        ),
    )


def _tool_user(found: ToolUser, caller: Caller) -> key_service_pb2.ToolUser:
    paths = _paths(found.paths)
    if isinstance(found.user, Key):
        return key_service_pb2.ToolUser(paths=paths, key=key_message(found.user, caller))
    return key_service_pb2.ToolUser(paths=paths, user_id=found.user)


def _reached_tool(tool: FoundTool) -> authorization_service_pb2.ReachedTool:
    return authorization_service_pb2.ReachedTool(id=tool.id, name=tool.name, mcp_server=tool.mcp_server)


def _paths(paths: Iterable[ToolPath]) -> list[authorization_service_pb2.ToolPath]:
    return [authorization_service_pb2.ToolPath(hat_id=path.hat_id, skill_id=path.skill_id) for path in paths]
