"""skilder-keys keys: list, count, show, revoke; `cli.new_keys` and `cli.key_changes` have the others."""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Any

import grpc
import typer

from skilder.keys.v1 import key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder.keys.v1.activity_service_pb2_grpc import ActivityServiceStub
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.audit_events import last_events
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.exits import Exit, fail, say
from skilder_keys.cli.explain import explain
from skilder_keys.cli.find_key import KeyName, WorkspaceOfKey, find_key_id
from skilder_keys.cli.key_changes import resume, suspend, update
from skilder_keys.cli.key_filters import filtered
from skilder_keys.cli.key_options import Actor, WorkspaceId
from skilder_keys.cli.key_revocations import DryRun, MaxKeys, revoke_matching, show_matching
from skilder_keys.cli.new_keys import issue, rotate
from skilder_keys.cli.paging import pages
from skilder_keys.cli.prompts import Yes, confirm, require_terminal
from skilder_keys.cli.secrets import read_token
from skilder_keys.cli.usage import usage_of
from skilder_keys.domain.token import MalformedTokenError, Token

app = typer.Typer(help="Issue, rotate, find, explain, suspend and revoke keys.", no_args_is_help=True)
for _command in (issue, rotate):
    app.command()(_command)


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
    """Show one key, how much it was used in the last 30 days, and who changed it last."""
    with service.stub(KeyServiceStub) as stub, service.stub(ActivityServiceStub) as activity:
        key_id = find_key_id(stub, key, workspace, actor)
        found = stub.GetKey(pb.GetKeyRequest(key_id=key_id, actor=actor)).key
        if json:
            output.print_json(output.as_dict(found))
        else:
            more = [("30 days", usage_of(activity, found, actor)), *last_events(service, found, actor)]
            output.print_fields([*output.key_fields(found), *more])


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
    family: Annotated[
        bool, typer.Option("--family", help="Revoke also the keys that came before and after it by rotation.")
    ] = False,
    reason: Annotated[str, typer.Option(help="Why, as a text for the record.")] = "",
    yes: Yes = False,
    dry_run: DryRun = False,
    max_keys: MaxKeys = None,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Revoke a key, or its whole family, immediately and permanently. Show it and ask first.

    Instead of KEY, options such as --unused-since 90d choose the keys of a workspace. Then show some of them, and ask.
    """
    many = bool(key_filter.ListFields())
    if token + bool(key) + many != 1:
        raise fail("give KEY, --token, or options that choose the keys of a --workspace", Exit.USAGE)
    if not many and (dry_run or max_keys is not None):
        raise fail("--dry-run and --max-keys are for options that choose keys, such as --unused-since", Exit.USAGE)
    if many and family:
        raise fail("--family is for one key: give KEY or --token", Exit.USAGE)
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
    request = pb.RevokeKeyRequest(
        reason=reason, actor=actor, scope=pb.REVOKE_SCOPE_FAMILY if family else pb.REVOKE_SCOPE_KEY
    )
    with service.stub(KeyServiceStub) as stub:
        if token:
            request.token = read_token()
        else:
            request.key_id = find_key_id(stub, key, workspace, actor)
        if not yes:
            _show_before(stub, request)
        response = stub.RevokeKey(request)
    output.print_key(response.key, json=json)
    if response.other_key_ids:
        say(f"Revoked with it: {', '.join(response.other_key_ids)}")


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
        if key.state == key_pb2.KEY_STATE_REVOKED and request.scope != pb.REVOKE_SCOPE_FAMILY:
            return
    which = "this key" if request.scope != pb.REVOKE_SCOPE_FAMILY else "this key or another of its family"
    confirm(f"Everything that uses {which} stops working at once. This cannot be undone. Go on?", yes=False)


app.command()(explain)
app.command()(update)
app.command()(suspend)
app.command()(resume)
