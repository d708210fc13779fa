"""skilder-keys workspace: apply, show, list, delete."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from service.cli import output
from service.cli.apply import Actor, ExpectedVersion, apply
from service.cli.client import Connection, connected, fail
from service.cli.exits import Exit
from service.yaml_scalars import dump
from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1 import workspace_pb2
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub

app = typer.Typer(help="Apply, show and delete workspaces.", no_args_is_help=True)

WorkspaceId = Annotated[str, typer.Argument(help="The workspace's id.")]

app.command()(apply)


@app.command()
@connected
def show(
    service: Connection,
    workspace_id: WorkspaceId,
    json: output.Json = False,
) -> None:
    """Show a workspace, as YAML that `apply` takes."""
    with service.stub(CatalogServiceStub) as stub:
        response = stub.GetWorkspace(pb.GetWorkspaceRequest(workspace_id=workspace_id))
    if json:
        output.print_json(output.as_dict(response))
        return
    shown = output.as_dict(response.workspace)
    for member in shown.get("members", ()):
        member["role"] = output.short(output.MEMBER_ROLE, output.MEMBER_ROLE.Value(member["role"]))
    typer.echo(f"# version {response.version}, last changed {output.moment(response.updated_at)}")
    typer.echo(dump(shown), nl=False)


@app.command("list")
@connected
def list_(service: Connection, json: output.Json = False) -> None:
    """List the workspaces."""
    found: list[workspace_pb2.WorkspaceSummary] = []
    request = pb.ListWorkspacesRequest(page_size=1000)
    with service.stub(CatalogServiceStub) as stub:
        while True:
            page = stub.ListWorkspaces(request)
            found += page.workspaces
            request.page_token = page.next_page_token
            if not page.next_page_token:
                break
    if json:
        output.print_json({"workspaces": [output.as_dict(each) for each in found]})
        return
    output.print_table(
        ("workspace", "name", "version", "created", "changed"),
        (
            (each.id, each.name, str(each.version), output.moment(each.created_at), output.moment(each.updated_at))
            for each in found
        ),
    )


@app.command()
@connected
def delete(
    service: Connection,
    workspace_id: WorkspaceId,
    expected_version: ExpectedVersion = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Delete a workspace for good: its keys stop working at once and its id is never used again."""
    if not yes and not sys.stdin.isatty():
        raise fail("say --yes: this cannot be undone, and there is no terminal to ask on", Exit.USAGE)
    if not yes:
        typer.confirm(f"Every key of {workspace_id} stops working, and this cannot be undone. Go on?", abort=True)
    request = pb.DeleteWorkspaceRequest(workspace_id=workspace_id, expected_version=expected_version, actor=actor)
    with service.stub(CatalogServiceStub) as stub:
        response = stub.DeleteWorkspace(request)
    if json:
        output.print_json(output.as_dict(response))
    else:
        typer.echo(f"Workspace {workspace_id} was deleted at {output.moment(response.deleted_at)}.")
