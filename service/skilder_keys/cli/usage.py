"""skilder-keys usage."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any

import grpc
import typer

from skilder.keys.v1 import activity_service_pb2 as pb
from skilder.keys.v1.activity_service_pb2_grpc import ActivityServiceStub
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.activity_options import KeyNames, filtered
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.find_key import find_key_id
from skilder_keys.cli.key_options import Actor, WorkspaceId
from skilder_keys.cli.plots import chart, sparkline
from skilder_keys.cli.table import Column
from skilder_keys.cli.text import broken, terminal_width
from skilder_keys.domain.activity import Span, UsageGroup

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from skilder.keys.v1 import key_pb2

LINE = 31
"""The characters of a sparkline: as many as 30 days have, if both ends count."""
_PIPE_WIDTH = 80
_DEFAULT = timedelta(days=30)
_GROUPS = {
    UsageGroup.KEY: pb.USAGE_GROUP_KEY,
    UsageGroup.USER: pb.USAGE_GROUP_USER,
    UsageGroup.TOOL: pb.USAGE_GROUP_TOOL,
    UsageGroup.CALLER: pb.USAGE_GROUP_CALLER,
}
_NONE = {UsageGroup.KEY: "(purged)", UsageGroup.USER: "(no user)", UsageGroup.TOOL: "(no tool)"}
_REST = "(others)"


class Step(Enum):
    """The lengths of time of a point, as people write them."""

    MINUTE = "minute"
    HOUR = "hour"
    DAY = "day"


@dataclass(frozen=True, slots=True)
class Points:
    """Calls at each step, also where there are none.

    Attributes:
        granted: By step.
        denied: By step.
    """

    granted: Sequence[int]
    denied: Sequence[int]

    @property
    def all(self) -> list[int]:
        """The calls of each step."""
        return [sum(each) for each in zip(self.granted, self.denied, strict=True)]


@connected
@filtered
def usage(
    service: Connection,
    wanted: pb.ActivityFilter,
    workspace: WorkspaceId,
    key: Annotated[str, typer.Option("--key", help="Only that of this key, by its id or hint.")] = "",
    by: Annotated[UsageGroup, typer.Option("--by", help="What each line is of.")] = UsageGroup.KEY,
    step: Annotated[
        Step | None, typer.Option(help="The length of time of a point [default: fitting].", show_default=False)
    ] = None,
    top: Annotated[int, typer.Option(min=1, max=50, help="Show this many, those with the most calls.")] = 10,
    in_chart: Annotated[
        bool, typer.Option("--chart", help="Draw everything that matches as one chart instead.")
    ] = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Show how much the keys of a workspace were used: the last 30 days, unless --since says otherwise."""
    now = datetime.now(UTC)
    if not wanted.HasField("after"):
        wanted.after.FromDatetime(
            (wanted.before.ToDatetime(tzinfo=UTC) if wanted.HasField("before") else now) - _DEFAULT
        )
    after = wanted.after.ToDatetime(tzinfo=UTC)
    before = min(now, wanted.before.ToDatetime(tzinfo=UTC)) if wanted.HasField("before") else now
    span = Span[step.name] if step is not None else fitting(before - after)
    request = pb.GetUsageRequest(workspace_id=workspace, filter=wanted, top=top, actor=actor)
    request.step.FromTimedelta(span.value)
    if not in_chart:
        request.group_by = _GROUPS[by]
    with service.stub(KeyServiceStub) as keys, service.stub(ActivityServiceStub) as stub:
        if key:
            request.filter.key_id = find_key_id(keys, key, workspace, actor)
        found = stub.GetUsage(request)
        if json:
            output.print_json(output.as_dict(found))
        elif in_chart:
            _print_chart(found.series[0], span, after, before)
        else:
            _print_lines(found, by, KeyNames(keys, actor), (span, after, before))


def usage_of(stub: Any, key: key_pb2.Key, actor: str) -> str:  # noqa: ANN401 - stubs have no types
    """Return how much a key was used in the last 30 days, in one line; empty if the service does not know."""
    now = datetime.now(UTC)
    request = pb.GetUsageRequest(workspace_id=key.workspace_id, filter=pb.ActivityFilter(key_id=key.id), actor=actor)
    request.filter.after.FromDatetime(now - _DEFAULT)
    request.step.FromTimedelta(Span.DAY.value)
    try:
        found = stub.GetUsage(request)
    except grpc.RpcError as error:
        if error.code() is not grpc.StatusCode.UNIMPLEMENTED:  # by an older service
            raise
        return ""
    points = points_of(found.series[0], Span.DAY, now - _DEFAULT, now)
    line = sparkline(points.all, len(points.all), sys.stdout)
    return f"{line} {sum(points.all):,} calls, {sum(points.denied):,} of them denied"


def fitting(length: timedelta) -> Span:
    """Return the step by which a length of time has enough points to see something, and not too many."""
    if length > timedelta(days=7):
        return Span.DAY
    return Span.HOUR if length > timedelta(hours=3) else Span.MINUTE


def points_of(series: pb.UsageSeries, span: Span, after: datetime, before: datetime) -> Points:
    """Return the calls of each step from one time to another."""
    steps = range(span.number(after), span.number(span.ceiling(before)))
    by_step = {span.number(point.at.ToDatetime(tzinfo=UTC)): point for point in series.points}
    found = [by_step.get(each, pb.UsagePoint()) for each in steps]
    return Points([each.granted for each in found], [each.denied for each in found])


def _print_chart(series: pb.UsageSeries, span: Span, after: datetime, before: datetime) -> None:
    points = points_of(series, span, after, before)
    width = terminal_width(sys.stdout) or _PIPE_WIDTH
    form = "%Y-%m-%d" if span is Span.DAY else "%Y-%m-%d %H:%M"
    first, last = span.floor(after).strftime(form), span.floor(before - timedelta(microseconds=1)).strftime(form)
    for line in chart(points.granted, points.denied, first, last, width, sys.stdout):
        output.print_line(line)
    summary = f"{sum(points.granted):,} granted, {sum(points.denied):,} denied, by {span.name.lower()} (UTC)"
    for line in broken(summary, width, cut=True):
        output.print_line(line)


def _print_lines(
    found: pb.GetUsageResponse, by: UsageGroup, keys: KeyNames, window: tuple[Span, datetime, datetime]
) -> None:
    numbers = (Column("calls", whole=True), Column("denied", whole=True), Column("usage", whole=True))
    rest = [found.rest] if found.HasField("rest") else []
    if by is not UsageGroup.KEY:
        rows = [(each.id or _NONE.get(by, "-"), *_numbers(each, window)) for each in found.series]
        rows += [(_REST, *_numbers(each, window)) for each in rest]
        output.print_table((by.value, *numbers), rows)
        return
    of_keys: Iterable[tuple[str, ...]] = [
        (each.id or _NONE[by], keys.hint(each.id), keys.description(each.id), *_numbers(each, window))
        for each in found.series
    ]
    of_rest = [(_REST, "-", "-", *_numbers(each, window)) for each in rest]
    columns = (Column("key", whole=True, drop=2), Column("hint", whole=True), Column("description", drop=1), *numbers)
    output.print_table(columns, [*of_keys, *of_rest])


def _numbers(series: pb.UsageSeries, window: tuple[Span, datetime, datetime]) -> tuple[str, ...]:
    points = points_of(series, *window)
    return str(sum(points.all)), str(sum(points.denied)), sparkline(points.all, LINE, sys.stdout)
