"""skilder-keys audit list and follow: what was changed, and what is being changed."""

from __future__ import annotations

import functools
import inspect
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import typer

from skilder.keys.v1 import audit_service_pb2 as pb
from skilder.keys.v1.audit_service_pb2_grpc import AuditServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.enums import short_name, short_names
from skilder_keys.cli.event_stream import responses
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.key_filters import past, principal
from skilder_keys.cli.key_options import Actor, WorkspaceId
from skilder_keys.cli.paging import pages
from skilder_keys.cli.table import Column, Table
from skilder_keys.domain.audit_events import AuditAction

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder.keys.v1 import key_pb2

Key = Annotated[str, typer.Option(metavar="<id>", help="Only events of the key with this id.")]
User = Annotated[str, typer.Option(metavar="<user>", help="Only events of keys of this user.")]
By = Annotated[
    str | None,
    typer.Option(
        metavar="<user>", help="Only what this user did; caller:NAME for a caller, runtime:ID for a runtime instance."
    ),
]
Actions = Annotated[
    list[AuditAction] | None,
    typer.Option(
        metavar="<action>",
        help="Only this action; repeat it for one of several. Actions:"
        f" {', '.join(each.value for each in AuditAction)}.",
    ),
]
_AGES = "a length of time ago, such as 90d, or at a date"
Since = Annotated[
    datetime | None, typer.Option(parser=past, metavar="<time>", help=f"Only events at or after: {_AGES}.")
]
Until = Annotated[datetime | None, typer.Option(parser=past, metavar="<time>", help=f"Only events before: {_AGES}.")]

_SHOWN = 5
_COLUMNS = (
    Column("number", whole=True),
    Column("time", whole=True),
    Column("action", whole=True),
    Column("by", drop=1),
    Column("key", whole=True, drop=2),
    Column("what"),
)


def filtered(function: Callable[..., None]) -> Callable[..., None]:
    """Add the options that choose events to a command, and pass it the `EventFilter` as its second argument."""
    service, _, *own = inspect.signature(function, eval_str=True).parameters.values()
    added = list(inspect.signature(_event_filter, eval_str=True).parameters.values())

    @functools.wraps(function)
    def command(connection: object, **values: Any) -> None:  # noqa: ANN401 - of as many types as there are options
        event_filter = _event_filter(**{each.name: values.pop(each.name) for each in added})
        function(connection, event_filter, **values)

    # Typer reads the options from a function's signature.
    keywords = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in (*own, *added)]
    command.__signature__ = inspect.Signature([service, *keywords])  # type: ignore[attr-defined]
    return command


def _event_filter(
    key: Key = "",
    user: User = "",
    by: By = None,
    action: Actions = None,
    since: Since = None,
    until: Until = None,
) -> pb.EventFilter:
    if by is not None and not by.strip():
        raise fail("--by is empty: give a value, or leave it out", Exit.USAGE)
    actions = short_names(pb.AuditAction.DESCRIPTOR)
    event_filter = pb.EventFilter(
        key_id=key,
        user_id=user,
        by=principal(by),
        actions=[actions[each.name.lower()] for each in action or ()],  # type: ignore[misc] # numbers of values
    )
    for name, time in (("after", since), ("before", until)):
        if time is not None:
            getattr(event_filter, name).FromDatetime(time)
    return event_filter


@connected
@filtered
def list_(
    service: Connection,
    event_filter: pb.EventFilter,
    workspace: WorkspaceId,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Show this many events at most, the newest [default: all].")
    ] = None,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """List the events of a workspace, newest first: who changed what, and when."""
    request = pb.ListEventsRequest(workspace_id=workspace, filter=event_filter, actor=actor)
    with service.stub(AuditServiceStub) as stub:
        found = pages(stub.ListEvents, request, "events", limit)
        output.print_list("events", _COLUMNS, event_row, found, json=json)


@connected
@filtered
def follow(
    service: Connection,
    event_filter: pb.EventFilter,
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="The workspace's id.")] = "",
    all_workspaces: Annotated[
        bool, typer.Option("--all-workspaces", help="Follow the events of all workspaces.")
    ] = False,
    after_number: Annotated[
        int | None, typer.Option(min=0, help="Begin after the event with this number; 0 for the first [default: now].")
    ] = None,
    cursor: Annotated[
        str, typer.Option(metavar="<cursor>", help="Go on after this cursor, which --json prints with events.")
    ] = "",
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Show events as they happen, oldest first, until Ctrl-C. Go on by itself if the connection is lost.

    With --json, print a line of JSON for each response of the service: its events, and the cursor after them.
    """
    if bool(workspace) == all_workspaces:
        raise fail("set --workspace or --all-workspaces", Exit.USAGE)
    if after_number is not None and cursor:
        raise fail("--after-number and --cursor exclude each other: set one", Exit.USAGE)
    request = pb.FollowEventsRequest(
        workspace_id=workspace, all_workspaces=all_workspaces, filter=event_filter, actor=actor
    )
    if cursor:
        request.cursor = cursor
    elif after_number is not None:
        request.after_number = after_number
    columns = (Column("workspace", whole=True), *_COLUMNS) if all_workspaces else _COLUMNS
    table = Table(columns)
    try:
        with service.stub(AuditServiceStub) as stub:
            for response in responses(stub, request):
                if json:
                    output.print_json_line(output.as_dict(response))
                    continue
                rows = map(event_row, response.events)
                table.page(
                    [(each.workspace_id, *row) for each, row in zip(response.events, rows, strict=True)]
                    if all_workspaces
                    else rows
                )
    except KeyboardInterrupt:
        raise typer.Exit(Exit.STOPPED) from None


def event_row(event: pb.AuditEvent) -> tuple[str, ...]:
    """Return an event as a row for the columns of this module."""
    return (
        str(event.number or "-"),
        output.moment(event.at),
        _action(event),
        output.principal(event.by),
        event.key_id or "-",
        _what(event),
    )


def last_events(service: Connection, key: key_pb2.Key, actor: str) -> list[tuple[str, str]]:
    """Return the last events of a key as named values; none if the caller or the actor may not see them."""
    some = pb.EventFilter(key_id=key.id)
    request = pb.ListEventsRequest(workspace_id=key.workspace_id, filter=some, page_size=_SHOWN, actor=actor)
    with service.stub(AuditServiceStub) as stub:
        try:
            found = stub.ListEvents(request).events
        except grpc.RpcError as error:
            if error.code() not in {grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNIMPLEMENTED}:
                raise
            return []
    return [("event", _line(each)) for each in found]


def _line(event: pb.AuditEvent) -> str:
    what = _what(event)
    return f"{output.moment(event.at)} {_action(event)} by {output.principal(event.by)}" + (
        f": {what}" if what != "-" else ""
    )


def _action(event: pb.AuditEvent) -> str:
    if not event.action:
        return "-"
    try:
        name = short_name(pb.AuditAction.DESCRIPTOR, event.action)
    except KeyError:  # of a service that knows more than this command
        return str(event.action)
    return name.replace("_", ".", 1)


def _what(event: pb.AuditEvent) -> str:
    return event.reason or ", ".join(each.path for each in event.changes) or "-"
