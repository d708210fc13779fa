"""protobuf <-> domain, for activity and usage."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1 import activity_service_pb2 as pb
from skilder_keys.app.enums import DENIAL_REASONS, USAGE_GROUPS, VERDICTS
from skilder_keys.domain.activity import Activity, ActivityFilter, ActivityListing, Span, UsageQuery, Verdict
from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.rpc.convert import duration, each, list_response, moment, optional, timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.timestamp_pb2 import Timestamp

    from skilder_keys.app.page import Page
    from skilder_keys.domain.activity import Usage, UsageSeries

_SPANS = {span.value: span for span in Span}


def activity_listing(request: pb.ListActivityRequest) -> ActivityListing:
    """Return what to list.

    Raises:
        InvalidRequestError: A time, or a value of an enum, is invalid.
    """
    return ActivityListing(_activity_filter(request.workspace_id, request.filter), request.unproven)


def usage_query(request: pb.GetUsageRequest) -> UsageQuery:
    """Return which usage to sum up.

    Raises:
        InvalidRequestError: A time, or a value of an enum, is invalid; or `step` is no step.
    """
    step = _SPANS.get(duration("step", request.step))
    if step is None or request.step.nanos:
        raise InvalidRequestError(FieldViolation("step", "is required: 60 s, 3,600 s or 86,400 s"))
    return UsageQuery(
        _activity_filter(request.workspace_id, request.filter),
        step,
        optional("group_by", request.group_by, USAGE_GROUPS),
        request.top,
    )


def _activity_filter(workspace_id: str, message: pb.ActivityFilter) -> ActivityFilter:
    return ActivityFilter(
        workspace_id=WorkspaceId(workspace_id),
        key_id=message.key_id or None,
        family_id=message.family_id or None,
        user_id=UserId(message.user_id) if message.user_id else None,
        tool_id=message.tool_id or None,
        caller=message.caller or None,
        verdict=optional("filter.verdict", message.verdict, VERDICTS),
        denial_reasons=tuple(dict.fromkeys(each("filter.denial_reasons", message.denial_reasons, DENIAL_REASONS)))
        or None,
        after=_time("filter.after", message.after) if message.HasField("after") else None,
        before=_time("filter.before", message.before) if message.HasField("before") else None,
    )


def _time(field: str, timestamp: Timestamp) -> datetime:
    """Return a time. A part of a microsecond is rounded up, as it is compared by "before" and "at or after"."""
    time = moment(field, timestamp)
    is_exact = timestamp.nanos % 1000 == 0 or time == datetime.max.replace(tzinfo=UTC)
    return time if is_exact else time + timedelta(microseconds=1)


def list_activity_response(page: Page[Activity], counted_until: datetime) -> bytes:
    """Return a ListActivityResponse, serialised."""
    listed = list_response(
        page,
        lambda activities, token: pb.ListActivityResponse(activities=map(_activity, activities), next_page_token=token),
    )
    return listed + pb.ListActivityResponse(counted_until=timestamp(counted_until)).SerializeToString()


def _activity(activity: Activity) -> pb.Activity:
    reason = activity.denial_reason
    return pb.Activity(
        start_at=timestamp(activity.start_at),
        span=_duration(activity.span),
        workspace_id=activity.workspace_id or "",
        key_id=str(activity.key_id or ""),
        user_id=activity.user_id or "",
        tool_id=activity.tool_id or "",
        caller=activity.caller,
        verdict=VERDICTS[Verdict.GRANTED if reason is None else Verdict.DENIED],
        denial_reason=0 if reason is None else DENIAL_REASONS[reason],  # type: ignore[arg-type]  # a plain number
        count=activity.count,
        first_at=timestamp(activity.first_at),
        last_at=timestamp(activity.last_at),
        last_source_ip=activity.last_source_ip,
        hint=activity.hint,
    )


def usage_response(usage: Usage) -> bytes:
    """Return a GetUsageResponse, serialised."""
    return pb.GetUsageResponse(
        series=map(_series, usage.series),
        rest=None if usage.rest is None else _series(usage.rest),
        counted_until=timestamp(usage.counted_until),
    ).SerializeToString()


def _series(series: UsageSeries) -> pb.UsageSeries:
    points: Sequence[pb.UsagePoint] = [
        pb.UsagePoint(at=timestamp(point.at), granted=point.granted, denied=point.denied) for point in series.points
    ]
    return pb.UsageSeries(id=series.id, points=points)


def _duration(span: Span) -> Duration:
    message = Duration()
    message.FromTimedelta(span.value)
    return message
