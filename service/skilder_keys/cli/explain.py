"""skilder-keys keys explain, and workspace tool users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from skilder.keys.v1 import authorization_service_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.enums import short_name
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.find_key import KeyName, WorkspaceOfKey, find_key_id
from skilder_keys.cli.key_options import Actor
from skilder_keys.cli.paging import pages
from skilder_keys.cli.table import Column
from skilder_keys.cli.tool_options import ToolId, ToolName, put_tool, shown_paths

if TYPE_CHECKING:
    from skilder.keys.v1.authorization_service_pb2 import ReachedTool

_HATS = (Column("hat", whole=True), "name", Column("reached", whole=True), Column("teams", drop=1))
_TOOLS = (Column("tool", whole=True), "name", Column("server", drop=1))
_USERS = (Column("user", whole=True), Column("kind", whole=True), Column("description", drop=1), "through")


@connected
def explain(
    service: Connection,
    key: KeyName,
    workspace: WorkspaceOfKey = "",
    tool: ToolId = None,
    tool_name: ToolName = None,
    source_ip: Annotated[str, typer.Option(help="Explain a use of the key from this address.")] = "",
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Explain what a key reaches and why, and what stands in the way. `authorize` decides, this does not."""
    request = pb.ExplainKeyRequest(actor=actor, source_ip=source_ip)
    put_tool(request, tool, tool_name)
    with service.stub(KeyServiceStub) as stub:
        request.key_id = find_key_id(stub, key, workspace, actor)
        found = stub.ExplainKey(request)
        if found.next_page_token:
            request.page_token = found.next_page_token
            for page in pages(stub.ExplainKey, request, "tools"):
                found.tools.extend(page)
    found.next_page_token = ""
    if json:
        output.print_json(output.as_dict(found))
    else:
        _print_explanation(found, about_a_tool=request.WhichOneof("tool") is not None)


def _print_explanation(found: pb.ExplainKeyResponse, *, about_a_tool: bool) -> None:
    grant = found.tool
    denial = "-"
    if found.denial:
        denial = short_name(authorization_service_pb2.DenialReason.DESCRIPTOR, found.denial)
    output.print_fields(
        [
            *output.key_fields(found.key),
            ("denied", denial),
            ("tool", f"{grant.tool.id} ({grant.tool.name} of {grant.tool.mcp_server})" if grant.path_count else ""),
            ("through", shown_paths(grant.paths, grant.path_count)),
        ]
    )
    output.print_line("")
    output.print_table(_HATS, map(_hat_row, found.hats))
    if not about_a_tool:
        output.print_line("")
        output.print_table(_TOOLS, map(_tool_row, found.tools))


def _hat_row(hat: pb.HatExplanation) -> tuple[str, ...]:
    return hat.hat_id, hat.name, short_name(pb.HatReach.DESCRIPTOR, hat.reach), " < ".join(hat.team_ids) or "-"


def _tool_row(tool: ReachedTool) -> tuple[str, ...]:
    return tool.id, tool.name, tool.mcp_server


@connected
def tool_users(
    service: Connection,
    workspace_id: Annotated[str, typer.Argument(help="The workspace's id.")],
    tool: ToolId = None,
    tool_name: ToolName = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Show this many at most [default: all].")] = None,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """List the members and keys that reach a tool, and how."""
    request = pb.ListToolUsersRequest(workspace_id=workspace_id, actor=actor)
    put_tool(request, tool, tool_name)
    if request.WhichOneof("tool") is None:
        raise fail("give either --tool or --tool-name", Exit.USAGE)
    with service.stub(KeyServiceStub) as stub:
        found = pages(stub.ListToolUsers, request, "users", limit)
        output.print_list("users", _USERS, _user_row, found, json=json)


def _user_row(user: pb.ToolUser) -> tuple[str, ...]:
    paths = shown_paths(user.paths, len(user.paths))
    if user.HasField("key"):
        return user.key.id, "key", user.key.description, paths
    return user.user_id, "member", "-", paths
