"""skilder-keys workspace: apply, show, list, delete, the lists of parts, and the commands for single parts."""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import typer
from google.protobuf.field_mask_pb2 import FieldMask

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1 import workspace_pb2
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder_keys.cli import catalog_commands, output, people_commands, policy_commands
from skilder_keys.cli.apply import Actor, ExpectedVersion, apply
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.enums import short_name
from skilder_keys.cli.paging import pages
from skilder_keys.cli.part_lists import hats, members, tools
from skilder_keys.cli.prompts import Yes, confirm
from skilder_keys.cli.table import Column
from skilder_keys.cli.workspace_file import print_workspace
from skilder_keys.domain.workspace import FIELDS

app = typer.Typer(help="Apply, change, show and delete workspaces.", no_args_is_help=True)

_COLUMNS = (
    Column("workspace", whole=True),
    "name",
    Column("version", whole=True, drop=1),
    Column("created", whole=True, drop=3),
    Column("changed", whole=True, drop=2),
)
_ROLE = Column("role", whole=True)
_DELETED = Column("deleted", whole=True)

# From the records, so none is missing. Without the id the output cannot be applied as if it were a whole workspace.
Field = Enum("Field", {name: name for name in FIELDS if name != "id"})  # type: ignore[misc]
Reader = Annotated[str, typer.Option(help="Act for this user, by their id, who must be a member of the workspace.")]
WorkspaceId = Annotated[str, typer.Argument(help="The workspace's id.")]

app.command()(apply)
for _command in (members, hats, tools):
    app.command()(_command)
app.add_typer(people_commands.member, name="member")
app.add_typer(people_commands.team, name="team")
app.add_typer(catalog_commands.hat, name="hat")
app.add_typer(catalog_commands.skill, name="skill")
app.add_typer(catalog_commands.tool, name="tool")
app.add_typer(policy_commands.policy, name="policy")


@app.command()
@connected
def show(
    service: Connection,
    workspace_id: WorkspaceId,
    only: Annotated[
        list[Field] | None, typer.Option(help="Show only this part; repeat it for several. Do not apply the output.")
    ] = None,
    actor: Reader = "",
    json: output.Json = False,
) -> None:
    """Show a workspace as YAML, in the form that `apply` accepts."""
    mask = FieldMask(paths=[each.value for each in only]) if only else None
    request = pb.GetWorkspaceRequest(workspace_id=workspace_id, read_mask=mask, actor=actor)
    with service.stub(CatalogServiceStub) as stub:
        response = stub.GetWorkspace(request)
    print_workspace(response, json=json)


@app.command("list")
@connected
def list_(
    service: Connection,
    user: Annotated[
        str, typer.Option(help="Only the workspaces that this user is a member of, by their id, with their role.")
    ] = "",
    deleted: Annotated[bool, typer.Option("--deleted", help="List deleted workspaces too.")] = False,
    limit: Annotated[int | None, typer.Option(min=1, help="Show this many workspaces at most [default: all].")] = None,
    actor: Annotated[
        str, typer.Option(help="Act for this user, by their id: list only the workspaces they are in.")
    ] = "",
    json: output.Json = False,
) -> None:
    """List the workspaces."""
    request = pb.ListWorkspacesRequest(user_id=user, show_deleted=deleted, actor=actor)
    columns = [*_COLUMNS, *([_ROLE] if user else ()), *([_DELETED] if deleted else ())]

    def row(each: workspace_pb2.WorkspaceSummary) -> list[str]:
        values = [each.id, each.name, str(each.version), output.moment(each.created_at), output.moment(each.updated_at)]
        if user:
            values.append(short_name(workspace_pb2.MemberRole.DESCRIPTOR, each.member_role))
        if deleted:
            values.append(output.moment(each.deleted_at) if each.HasField("deleted_at") else "-")
        return values

    with service.stub(CatalogServiceStub) as stub:
        found = pages(stub.ListWorkspaces, request, "workspaces", limit)
        output.print_list("workspaces", columns, row, found, json=json)


@app.command()
@connected
def delete(
    service: Connection,
    workspace_id: WorkspaceId,
    expected_version: ExpectedVersion = None,
    yes: Yes = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Delete a workspace permanently.

    Its keys stop working at once, and its id can never be used again.
    """
    confirm(f"Every key of {workspace_id} stops working at once. This cannot be undone. Go on?", yes=yes)
    request = pb.DeleteWorkspaceRequest(workspace_id=workspace_id, expected_version=expected_version, actor=actor)
    with service.stub(CatalogServiceStub) as stub:
        response = stub.DeleteWorkspace(request)
    if json:
        output.print_json(output.as_dict(response))
    else:
        output.print_line(f"Workspace {workspace_id} was deleted at {output.moment(response.deleted_at)}.")
