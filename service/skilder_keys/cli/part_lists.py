"""skilder-keys workspace members, hats, tools."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1 import workspace_pb2
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.enums import short_name, short_names
from skilder_keys.cli.paging import pages
from skilder_keys.cli.table import Column

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_ROLES = workspace_pb2.MemberRole.DESCRIPTOR
_NONE = "-"

Role = Enum("Role", {name: name for name in short_names(_ROLES)})  # type: ignore[misc]  # from the contract
WorkspaceId = Annotated[str, typer.Argument(help="The workspace's id.")]
Actor = Annotated[str, typer.Option(help="Act for this user, by their id, who must be a member of the workspace.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Show this many at most [default: all].")]


@connected
def members(
    service: Connection,
    workspace_id: WorkspaceId,
    text: Annotated[str, typer.Option(help="Only members with all these words in their user id.")] = "",
    team: Annotated[str, typer.Option(help="Only members of this team, by its id, not of those below.")] = "",
    role: Annotated[Role | None, typer.Option(help="Only members with this role.")] = None,
    limit: Limit = None,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """List the members of a workspace."""
    request = pb.ListMembersRequest(
        workspace_id=workspace_id,
        text=text,
        team_id=team,
        role=None if role is None else short_names(_ROLES)[role.value],  # type: ignore[arg-type]  # a plain number
        actor=actor,
    )
    columns = (Column("user", whole=True), Column("role", whole=True), Column("teams", drop=1))
    _print(service, "members", columns, _member, request, limit, json=json)


@connected
def hats(
    service: Connection,
    workspace_id: WorkspaceId,
    text: Annotated[str, typer.Option(help="Only hats with all these words in their id or name.")] = "",
    user: Annotated[str, typer.Option(help="Only hats that the keys of this user reach, by their id.")] = "",
    limit: Limit = None,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """List the hats of a workspace, without their instructions."""
    request = pb.ListHatsRequest(workspace_id=workspace_id, text=text, user_id=user, actor=actor)
    columns = (
        Column("hat", whole=True),
        "name",
        Column("audience", whole=True),
        Column("teams", drop=1),
        Column("skills", drop=2),
    )
    _print(service, "hats", columns, _hat, request, limit, json=json)


@connected
def tools(
    service: Connection,
    workspace_id: WorkspaceId,
    text: Annotated[str, typer.Option(help="Only tools with all these words in their id or name.")] = "",
    mcp_server: Annotated[str, typer.Option(help="Only tools of this MCP server.")] = "",
    skill: Annotated[str, typer.Option(help="Only tools of this skill, by its id.")] = "",
    limit: Limit = None,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """List the tools of a workspace, also the disabled ones."""
    request = pb.ListToolsRequest(
        workspace_id=workspace_id, text=text, mcp_server=mcp_server, skill_id=skill, actor=actor
    )
    columns = (Column("tool", whole=True), "name", Column("server", drop=2), Column("state", whole=True, drop=1))
    _print(service, "tools", columns, _tool, request, limit, json=json)


def _print(
    service: Connection,
    parts: str,
    columns: Sequence[Column | str],
    row: Callable[[Any], Sequence[str]],
    request: Any,  # noqa: ANN401 - of any of the lists
    limit: int | None,
    *,
    json: bool,
) -> None:
    with service.stub(CatalogServiceStub) as stub:
        found = pages(getattr(stub, f"List{parts.title()}"), request, parts, limit)
        output.print_list(parts, columns, row, found, json=json)


def _member(member: workspace_pb2.Member) -> tuple[str, ...]:
    return member.user_id, short_name(_ROLES, member.role), _joined(member.team_ids)


def _hat(hat: workspace_pb2.HatSummary) -> tuple[str, ...]:
    audience = short_name(workspace_pb2.HatAudience.DESCRIPTOR, hat.audience)
    return hat.id, hat.name, audience, _joined(hat.team_ids), _joined(hat.skill_ids)


def _tool(tool: workspace_pb2.Tool) -> tuple[str, ...]:
    return tool.id, tool.name, tool.mcp_server, "disabled" if tool.disabled else "enabled"


def _joined(ids: Sequence[str]) -> str:
    return ", ".join(ids) or _NONE
