"""skilder-keys keys: issue, list, count, show, revoke; `cli.key_changes` has others."""

from __future__ import annotations

import sys
import uuid
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import typer

from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.cli import output, stdio
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.enums import short_names
from skilder_keys.cli.exits import Exit, fail, say
from skilder_keys.cli.explain import explain
from skilder_keys.cli.find_key import KeyName, WorkspaceOfKey, find_key_id
from skilder_keys.cli.key_changes import resume, suspend
from skilder_keys.cli.key_options import Actor, ExpiresAt, ExpiresIn, WorkspaceId
from skilder_keys.cli.paging import pages
from skilder_keys.cli.prompts import Yes, confirm, require_terminal
from skilder_keys.cli.secrets import read_token
from skilder_keys.cli.text import Style, styled
from skilder_keys.domain.keys import KeyState
from skilder_keys.domain.token import KeyType, MalformedTokenError, Token

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.descriptor import EnumDescriptor

app = typer.Typer(help="Issue, find, explain, suspend and revoke keys.", no_args_is_help=True)


Types = Annotated[
    list[KeyType] | None, typer.Option("--type", "-t", help="Only keys of this type; repeat it for several.")
]
Users = Annotated[
    list[str] | None, typer.Option(metavar="<user>", help="Only keys of this user; repeat it for several.")
]
States = Annotated[list[KeyState] | None, typer.Option(help="Only keys in this state; repeat it for several.")]
UnusedDays = Annotated[
    int | None, typer.Option(min=0, max=36500, help="Only keys that were not used in this many days.")
]


@app.command()
@connected
def issue(
    service: Connection,
    description: Annotated[
        str, typer.Argument(help="What the key is for, as a text by which others can recognize it later.")
    ],
    workspace: WorkspaceId,
    type_: Annotated[KeyType, typer.Option("--type", "-t", help="The key's type.")] = KeyType.WORKSPACE,
    user: Annotated[str, typer.Option(help="The member a user key belongs to, by their id.")] = "",
    runtime: Annotated[str, typer.Option(help="The instance a runtime key is for, by its id.")] = "",
    hat: Annotated[
        list[str] | None, typer.Option(metavar="<hat>", help="Limit the key to this hat; repeat it for several.")
    ] = None,
    all_hats: Annotated[
        bool, typer.Option("--all-hats", help="Do not limit the key to some hats.", show_default=False)
    ] = False,
    expires_in: ExpiresIn = None,
    expires_at: ExpiresAt = None,
    actor: Actor = "",
    request_id: Annotated[
        str,
        typer.Option(
            help="An id of your choice, for retries. If the response is lost, the same command with the same id issues "
            "no second key, but shows a new token for the first one [default: a random id].",
            show_default=False,
        ),
    ] = "",
    json: output.Json = False,
) -> None:
    """Issue a key and show its token, which cannot be shown again.

    A workspace or user key needs --hat or --all-hats. Only the token goes to standard output, everything else to
    standard error.
    """
    if type_ is not KeyType.RUNTIME and all_hats == bool(hat):
        raise fail(
            "give either --hat, once for each hat that the key may reach, or --all-hats for a key without that limit",
            Exit.USAGE,
        )
    if expires_in is not None and expires_at is not None:
        raise fail("give --expires-in or --expires-at, not both", Exit.USAGE)
    if stdio.is_closed(1):
        raise fail("standard output is closed, and the token goes there: no key was issued", Exit.USAGE)
    request = pb.IssueKeyRequest(
        request_id=request_id or str(uuid.uuid4()),
        type=_numbers(key_pb2.KeyType.DESCRIPTOR, [type_])[0],
        workspace_id=workspace,
        user_id=user,
        runtime_id=runtime,
        description=description,
        hat_limit=key_pb2.HatLimit(hat_ids=hat) if hat else None,
        unlimited=[key_pb2.KEY_LIMIT_HATS] if all_hats else [],
        actor=actor,
    )
    if expires_in is not None:
        request.lifetime.FromTimedelta(expires_in)
    if expires_at is not None:
        request.expires_at.FromDatetime(expires_at)
    with _retry_explained(request.request_id):
        with service.stub(KeyServiceStub) as stub:
            response = stub.IssueKey(request)
        if json:
            output.print_json(output.as_dict(response))
        elif not sys.stdout.isatty():
            # Print it first, so that a failure of standard error cannot lose it.
            output.print_line(response.token)
    if json:
        return
    output.print_fields(output.key_fields(response.key), stderr=True)
    if sys.stdout.isatty():
        say(styled("\nThe token, shown only this once:", Style.BOLD, sys.stderr))
        output.print_line(response.token)


def _numbers(enum: EnumDescriptor, values: Iterable[KeyType | KeyState] | None) -> list[Any]:
    return [short_names(enum)[value.value] for value in values or ()]


@contextmanager
def _retry_explained(request_id: str) -> Iterator[None]:
    """If a key may have been issued and its token was not shown, report how to get the token."""
    again = f"again, with --request-id {request_id}"
    try:
        yield
    except stdio.OutputError:
        say(f"The key was issued, but its token could not be written. To get a new token, run the command {again}")
        raise
    except KeyboardInterrupt:
        say(f"The key may have been issued. To be sure, run the command {again}")
        raise
    except typer.Exit as error:
        if error.exit_code in (Exit.UNAVAILABLE, Exit.FAILED):
            say(f"The key may have been issued. To be sure, run the command {again}")
        raise


@app.command("list")
@connected
def list_(
    service: Connection,
    workspace: WorkspaceId,
    type_: Types = None,
    user: Users = None,
    state: States = None,
    unused_days: UnusedDays = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Show this many keys at most, the newest [default: all].")
    ] = None,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """List the keys of a workspace, newest first."""
    request = pb.ListKeysRequest(workspace_id=workspace, filter=_filter(type_, user, state, unused_days), actor=actor)
    with service.stub(KeyServiceStub) as stub:
        found = pages(stub.ListKeys, request, "keys", limit)
        output.print_list("keys", output.KEY_COLUMNS, output.key_row, found, json=json)


def _filter(
    types: list[KeyType] | None, users: list[str] | None, states: list[KeyState] | None, unused_days: int | None
) -> pb.KeyFilter:
    key_filter = pb.KeyFilter(
        types=_numbers(key_pb2.KeyType.DESCRIPTOR, types),
        user_ids=users,
        states=_numbers(key_pb2.KeyState.DESCRIPTOR, states),
    )
    if unused_days is not None:
        key_filter.unused_since.FromDatetime(datetime.now(UTC) - timedelta(days=unused_days))
    return key_filter


@app.command()
@connected
def count(
    service: Connection,
    workspace: WorkspaceId,
    type_: Types = None,
    user: Users = None,
    state: States = None,
    unused_days: UnusedDays = None,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Count the keys of a workspace by type and state."""
    request = pb.CountKeysRequest(workspace_id=workspace, filter=_filter(type_, user, state, unused_days), actor=actor)
    with service.stub(KeyServiceStub) as stub:
        response = stub.CountKeys(request)
    if json:
        output.print_json(output.as_dict(response))
    else:
        output.print_table(output.COUNT_COLUMNS, map(output.count_row, response.counts))
    if response.partial:
        say("There may be more keys: the service stopped counting.")


@app.command()
@connected
def show(
    service: Connection,
    key: KeyName,
    workspace: WorkspaceOfKey = "",
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Show one key."""
    with service.stub(KeyServiceStub) as stub:
        key_id = find_key_id(stub, key, workspace, actor)
        found = stub.GetKey(pb.GetKeyRequest(key_id=key_id, actor=actor)).key
    output.print_key(found, json=json)


@app.command()
@connected
def revoke(
    service: Connection,
    key: KeyName = "",
    workspace: WorkspaceOfKey = "",
    token: Annotated[
        bool, typer.Option("--token", help="Instead of KEY: read the key's token from standard input or a prompt.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, as a text for the record.")] = "",
    yes: Yes = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Revoke a key, immediately and permanently. Show it and ask first."""
    if token == bool(key):
        raise fail("give either KEY or --token", Exit.USAGE)
    require_terminal(yes=yes)
    request = pb.RevokeKeyRequest(reason=reason, actor=actor)
    with service.stub(KeyServiceStub) as stub:
        if token:
            request.token = read_token()
        else:
            request.key_id = find_key_id(stub, key, workspace, actor)
        if not yes:
            _show_before(stub, request)
        revoked = stub.RevokeKey(request).key
    output.print_key(revoked, json=json)


def _show_before(stub: Any, request: pb.RevokeKeyRequest) -> None:  # noqa: ANN401 - stubs have no types
    """Show the key that will be revoked, and ask for confirmation."""
    try:
        key_id = request.key_id or str(Token.parse(request.token).key_id)
        key = stub.GetKey(pb.GetKeyRequest(key_id=key_id, actor=request.actor)).key
    except MalformedTokenError:
        return  # the service will reject it with a message
    except grpc.RpcError as error:
        # A caller that has the token may revoke the key, even if it may not see the key.
        if not request.token or error.code() is not grpc.StatusCode.PERMISSION_DENIED:
            raise
        say("You are not allowed to see this key, but you can revoke it by its token.")
    else:
        output.print_fields(output.key_fields(key), stderr=True)
        if key.state == key_pb2.KEY_STATE_REVOKED:
            return
    confirm("Everything that uses this key stops working at once. This cannot be undone. Go on?", yes=False)


app.command()(explain)
app.command()(suspend)
app.command()(resume)
