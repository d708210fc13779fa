"""skilder-keys keys: issue, list, show, revoke."""

from __future__ import annotations

import sys
import uuid
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated

import typer

from service.cli import output
from service.cli.client import Connection, connected, fail
from service.cli.exits import Exit
from service.cli.secrets import read_token
from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub

app = typer.Typer(help="Issue, find and revoke keys.", no_args_is_help=True)


class KeyType(StrEnum):
    """The types of keys, as the command line has them."""

    workspace = "workspace"
    user = "user"
    runtime = "runtime"


class KeyState(StrEnum):
    """The states of keys, as the command line has them."""

    active = "active"
    revoked = "revoked"


Actor = Annotated[str, typer.Option(help="The user on whose behalf, who is then held to the rules.")]
WorkspaceId = Annotated[str, typer.Option("--workspace", "-w", help="The workspace.")]


@app.command()
@connected
def issue(
    service: Connection,
    description: Annotated[str, typer.Argument(help="What the key is for: it is found by this months later.")],
    workspace: WorkspaceId,
    type_: Annotated[KeyType, typer.Option("--type", "-t", help="What the key is for.")] = KeyType.workspace,
    user: Annotated[str, typer.Option(help="The member a user key is tied to.")] = "",
    runtime: Annotated[str, typer.Option(help="The instance a runtime key authenticates.")] = "",
    hat: Annotated[
        list[str] | None, typer.Option(metavar="<hat>", help="A hat the key is limited to; repeat it for more.")
    ] = None,
    actor: Actor = "",
    request_id: Annotated[
        str, typer.Option(help="The same again makes a retry safe [default: a random one].", show_default=False)
    ] = "",
    json: output.Json = False,
) -> None:
    """Issue a key and show its token, once: the token alone on standard output, the rest on standard error."""
    request = pb.IssueKeyRequest(
        request_id=request_id or str(uuid.uuid4()),
        type=output.number(key_pb2.KeyType, type_.value),
        workspace_id=workspace,
        user_id=user,
        runtime_id=runtime,
        description=description,
        hat_ids=hat or (),
        actor=actor,
    )
    try:
        with service.stub(KeyServiceStub) as stub:
            response = stub.IssueKey(request)
    except typer.Exit as error:
        if error.exit_code == Exit.UNAVAILABLE:
            typer.echo(f"The key may have been issued: try again with --request-id {request.request_id}", err=True)
        raise
    if json:
        output.print_json(output.as_dict(response))
        return
    output.print_fields(output.key_fields(response.key), stderr=True)
    if sys.stdout.isatty():
        typer.secho("\nThe token, shown this once:", err=True, bold=True)
    typer.echo(response.token)


@app.command("list")
@connected
def list_(
    service: Connection,
    workspace: WorkspaceId,
    type_: Annotated[KeyType | None, typer.Option("--type", "-t", help="Only keys of this type.")] = None,
    user: Annotated[str, typer.Option(help="Only keys of this user.")] = "",
    state: Annotated[KeyState | None, typer.Option(help="Only keys in this state.")] = None,
    unused_days: Annotated[
        int | None, typer.Option(min=0, max=36500, help="Only keys not used for so many days.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many keys at most.")] = 100,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """List the keys of a workspace, newest first."""
    request = pb.ListKeysRequest(
        workspace_id=workspace,
        type=output.number(key_pb2.KeyType, type_.value) if type_ else key_pb2.KEY_TYPE_UNSPECIFIED,
        user_id=user,
        state=output.number(key_pb2.KeyState, state.value) if state else key_pb2.KEY_STATE_UNSPECIFIED,
        actor=actor,
    )
    if unused_days is not None:
        request.unused_since.FromDatetime(datetime.now(UTC) - timedelta(days=unused_days))
    found: list[key_pb2.Key] = []
    with service.stub(KeyServiceStub) as stub:
        more = True
        while more and len(found) < limit:
            request.page_size = min(limit - len(found), 1000)
            page = stub.ListKeys(request)
            found += page.keys
            request.page_token = page.next_page_token
            more = bool(page.next_page_token)
    if json:
        output.print_json({"keys": [output.as_dict(key) for key in found]})
        return
    output.print_table(output.KEY_COLUMNS, map(output.key_row, found))
    if more:
        typer.echo(f"There are more: this shows the newest {limit}. Set --limit.", err=True)


@app.command()
@connected
def show(
    service: Connection,
    key_id: Annotated[str, typer.Argument(help="The key's id.")],
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Show one key."""
    with service.stub(KeyServiceStub) as stub:
        key = stub.GetKey(pb.GetKeyRequest(key_id=key_id, actor=actor)).key
    _print(key, json=json)


@app.command()
@connected
def revoke(
    service: Connection,
    key_id: Annotated[str | None, typer.Argument(help="The key's id; leave it out with --token.")] = None,
    token: Annotated[
        bool, typer.Option("--token", help="Revoke by the key's token, read from standard input or a prompt.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, in words.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Revoke a key, at once and for ever."""
    if token == (key_id is not None):
        raise fail("give either a key's id or --token", Exit.USAGE)
    request = pb.RevokeKeyRequest(reason=reason, actor=actor)
    if key_id is not None:
        request.key_id = key_id
    else:
        request.token = read_token()
    if not yes and sys.stdin.isatty():
        typer.confirm("Whoever uses this key stops working at once, and this cannot be undone. Go on?", abort=True)
    with service.stub(KeyServiceStub) as stub:
        key = stub.RevokeKey(request).key
    _print(key, json=json)


def _print(key: key_pb2.Key, *, json: bool) -> None:
    if json:
        output.print_json(output.as_dict(key))
    else:
        output.print_fields(output.key_fields(key))
