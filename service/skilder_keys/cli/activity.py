"""skilder-keys activity."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from skilder.keys.v1 import activity_service_pb2 as pb
from skilder.keys.v1 import authorization_service_pb2
from skilder.keys.v1.activity_service_pb2_grpc import ActivityServiceStub
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.activity_options import KeyNames, filtered
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.enums import short_name
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.find_key import find_key_id
from skilder_keys.cli.key_options import Actor
from skilder_keys.cli.paging import pages
from skilder_keys.cli.table import Column

if TYPE_CHECKING:
    from collections.abc import Callable

_SPANS = {60: "minute", 3_600: "hour", 86_400: "day"}

_CALLS = (Column("tool", drop=1), Column("caller", drop=3), "verdict", Column("calls", whole=True))
_SOURCE = Column("source", whole=True, drop=4)
COLUMNS = (
    Column("from", whole=True),
    Column("span", whole=True, drop=6),
    Column("key", whole=True, drop=7),
    Column("hint", whole=True),
    Column("user", drop=5),
    *_CALLS,
    _SOURCE,
)
UNPROVEN_COLUMNS = (
    Column("from", whole=True),
    Column("hint", whole=True),
    Column("caller", drop=1),
    "verdict",
    Column("calls", whole=True),
    _SOURCE,
)

app = typer.Typer(help="See what keys were used for.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """See what keys were used for."""


@app.command("list")
@connected
@filtered
def list_(
    service: Connection,
    wanted: pb.ActivityFilter,
    workspace: Annotated[str, typer.Option("--workspace", "-w", help="The workspace's id.")] = "",
    key: Annotated[str, typer.Option("--key", help="Only that of this key, by its id or hint.")] = "",
    unproven: Annotated[
        bool, typer.Option("--unproven", help="Instead of a workspace: denials of tokens that proved no key.")
    ] = False,
    limit: Annotated[int, typer.Option(min=1, help="Show this many at most, the newest.")] = 100,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """List what keys of a workspace were used for, newest first: how many calls of a minute, hour or day were alike."""
    if unproven == bool(workspace):
        raise fail("give either --workspace or --unproven", Exit.USAGE)
    request = pb.ListActivityRequest(workspace_id=workspace, filter=wanted, unproven=unproven, actor=actor)
    with service.stub(KeyServiceStub) as keys, service.stub(ActivityServiceStub) as stub:
        if key:
            request.filter.key_id = find_key_id(keys, key, workspace, actor)
        found = pages(stub.ListActivity, request, "activities", limit)
        columns, row = (UNPROVEN_COLUMNS, _unproven_row) if unproven else (COLUMNS, _row_of(KeyNames(keys, actor)))
        output.print_list("activities", columns, row, found, json=json)


def _row_of(keys: KeyNames) -> Callable[[pb.Activity], tuple[str, ...]]:
    def row(activity: pb.Activity) -> tuple[str, ...]:
        return (
            _start(activity),
            _SPANS.get(activity.span.seconds, "-"),
            activity.key_id or "-",
            keys.hint(activity.key_id),
            activity.user_id or "-",
            activity.tool_id or "-",
            activity.caller,
            _verdict(activity),
            str(activity.count),
            activity.last_source_ip or "-",
        )

    return row


def _unproven_row(activity: pb.Activity) -> tuple[str, ...]:
    return (
        _start(activity),
        activity.hint or "-",
        activity.caller,
        _verdict(activity),
        str(activity.count),
        activity.last_source_ip or "-",
    )


def _start(activity: pb.Activity) -> str:
    return activity.start_at.ToDatetime().strftime("%Y-%m-%d %H:%MZ")


def _verdict(activity: pb.Activity) -> str:
    if activity.verdict == pb.VERDICT_GRANTED:
        return "granted"
    return short_name(authorization_service_pb2.DenialReason.DESCRIPTOR, activity.denial_reason)
