"""skilder-keys keys: issue, list, count, show, revoke; `cli.key_changes` has others."""

from __future__ import annotations

import sys
import uuid
from contextlib import contextmanager
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import typer

from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.cli import output, stdio
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.exits import Exit, fail, say
from skilder_keys.cli.explain import explain
from skilder_keys.cli.find_key import KeyName, WorkspaceOfKey, find_key_id
from skilder_keys.cli.key_changes import resume, suspend
from skilder_keys.cli.key_filters import filtered, numbers
from skilder_keys.cli.key_options import Actor, ExpiresAt, ExpiresIn, WorkspaceId
from skilder_keys.cli.key_revocations import DryRun, MaxKeys, revoke_matching, show_matching
from skilder_keys.cli.paging import pages
from skilder_keys.cli.prompts import Yes, confirm, require_terminal
from skilder_keys.cli.secrets import read_token
from skilder_keys.cli.text import Style, styled
from skilder_keys.domain.token import KeyType, MalformedTokenError, Token

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(help="Issue, find, explain, suspend and revoke keys.", no_args_is_help=True)


class KeySort(Enum):
    """The orders of a list of keys, as people write them."""

    NEWEST = "newest"
    LAST_USED = "last-used"
    EXPIRES = "expires"


_ORDERS = {
    KeySort.NEWEST: pb.KEY_ORDER_NEWEST,
    KeySort.LAST_USED: pb.KEY_ORDER_LEAST_RECENTLY_USED,
    KeySort.EXPIRES: pb.KEY_ORDER_EXPIRES_NEXT,
}
Sort = Annotated[
    KeySort, typer.Option(help="The order: the newest first, those unused for longest, or those that expire next.")
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
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="<label>", help="A label, NAME=VALUE; repeat it for several."),
    ] = None,
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
        type=numbers(key_pb2.KeyType.DESCRIPTOR, [type_])[0],
        workspace_id=workspace,
        user_id=user,
        runtime_id=runtime,
        description=description,
        hat_limit=key_pb2.HatLimit(hat_ids=hat) if hat else None,
        unlimited=[key_pb2.KEY_LIMIT_HATS] if all_hats else [],
        labels=_labels(label or []),
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


def _labels(given: list[str]) -> dict[str, str]:
    """Return labels that were given as NAME=VALUE."""
    labels: dict[str, str] = {}
    for each in given:
        name, separator, value = each.partition("=")
        if not separator:
            raise fail(f"--label {each!r} has no value: write NAME=VALUE, or NAME= for an empty one", Exit.USAGE)
        if name in labels:
            raise fail(f"--label {name} is given twice", Exit.USAGE)
        labels[name] = value
    return labels


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
@filtered
def list_(
    service: Connection,
    key_filter: pb.KeyFilter,
    workspace: WorkspaceId,
    sort: Sort = KeySort.NEWEST,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Show this many keys at most, the first in order [default: all].")
    ] = None,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """List the keys of a workspace, and mark those that need attention."""
    request = pb.ListKeysRequest(workspace_id=workspace, filter=key_filter, order_by=_ORDERS[sort], actor=actor)
    with service.stub(KeyServiceStub) as stub:
        found = pages(stub.ListKeys, request, "keys", limit)
        output.print_list("keys", output.KEY_COLUMNS, output.key_row, found, json=json)


@app.command()
@connected
@filtered
def count(
    service: Connection,
    key_filter: pb.KeyFilter,
    workspace: WorkspaceId,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Count the keys of a workspace by type and state."""
    request = pb.CountKeysRequest(workspace_id=workspace, filter=key_filter, actor=actor)
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
@filtered
def revoke(
    service: Connection,
    key_filter: pb.KeyFilter,
    key: KeyName = "",
    workspace: WorkspaceOfKey = "",
    token: Annotated[
        bool, typer.Option("--token", help="Instead of KEY: read the key's token from standard input or a prompt.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, as a text for the record.")] = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    max_keys: MaxKeys = None,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Revoke a key, immediately and permanently. Show it and ask first.

    Instead of KEY, options such as --unused-since 90d choose the keys of a workspace. Then show some of them, and ask.
    """
    many = bool(key_filter.ListFields())
    if token + bool(key) + many != 1:
        raise fail("give KEY, --token, or options that choose the keys of a --workspace", Exit.USAGE)
    if not many and (dry_run or max_keys is not None):
        raise fail("--dry-run and --max-keys are for options that choose keys, such as --unused-since", Exit.USAGE)
    if many:
        if not workspace:
            raise fail("set --workspace, the workspace whose keys to revoke", Exit.USAGE)
        wanted = pb.RevokeKeysRequest(
            workspace_id=workspace, filter=key_filter, reason=reason, max_keys=max_keys, actor=actor
        )
        if dry_run:
            show_matching(service, wanted, json=json)
        else:
            revoke_matching(service, wanted, yes=yes, json=json)
        return
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
