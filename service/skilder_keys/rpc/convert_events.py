"""protobuf <-> domain, for events of the audit trail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder.keys.v1 import audit_service_pb2 as pb
from skilder_keys.app.enums import AUDIT_ACTIONS, PRINCIPAL_KINDS
from skilder_keys.domain.audit_chain import content_of, private_text
from skilder_keys.domain.audit_events import EventFilter, EventSelection
from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.domain.principal import Principal
from skilder_keys.rpc.convert import bound, each, list_response, principal_message, required, timestamp

if TYPE_CHECKING:
    from skilder_keys.app.event_streams import Sent
    from skilder_keys.app.page import Page
    from skilder_keys.domain.audit_events import AuditEvent

_ACTIONS = {action.value: number for action, number in AUDIT_ACTIONS.items()}


def followed(request: pb.FollowEventsRequest) -> EventSelection:
    """Return what to follow.

    Raises:
        InvalidRequestError: As for `event_filter`; or neither one workspace nor all were chosen, or both.
    """
    if request.all_workspaces:
        if request.workspace_id:
            raise InvalidRequestError(FieldViolation("all_workspaces", "is set, and so is workspace_id: set one"))
        return EventSelection(None, event_filter(request.filter))
    return EventSelection(WorkspaceId(request.workspace_id), event_filter(request.filter))


def event_filter(message: pb.EventFilter) -> EventFilter:
    """Return which events. An empty list or text is no condition.

    Raises:
        InvalidRequestError: A time, or a value of an enum, is invalid.
    """
    by = None
    if message.HasField("by"):
        by = Principal(required("filter.by.kind", message.by.kind, PRINCIPAL_KINDS), message.by.id)
    return EventFilter(
        key_id=message.key_id or None,
        user_id=UserId(message.user_id) if message.user_id else None,
        by=by,
        actions=tuple(dict.fromkeys(each("filter.actions", message.actions, AUDIT_ACTIONS))) or None,
        after=bound("filter.after", message.after) if message.HasField("after") else None,
        before=bound("filter.before", message.before) if message.HasField("before") else None,
    )


def event_message(event: AuditEvent) -> pb.AuditEvent:
    """Return an event as a message."""
    chained = event.chained
    reason, changes = event.about()
    return pb.AuditEvent(
        workspace_id=event.workspace_id,
        number=event.number or 0,
        at=timestamp(event.at),
        action=_ACTIONS.get(event.action, pb.AUDIT_ACTION_UNSPECIFIED),
        by=principal_message(event.by),
        caller=event.caller,
        peer=event.peer,
        key_id=str(event.key_id or ""),
        reason=reason,
        changes=[pb.FieldChange(path=each.path, before=each.before, after=each.after) for each in changes],
        content=content_of(chained).encode() if chained else b"",
        hash=event.hash or b"",
        private_content=event.salt + private_text(chained).encode() if chained and event.salt else b"",
    )


def list_events_response(page: Page[AuditEvent]) -> bytes:
    """Return a ListEventsResponse, serialised."""
    return list_response(
        page, lambda events, token: pb.ListEventsResponse(events=map(event_message, events), next_page_token=token)
    )


def follow_events_response(sent: Sent) -> bytes:
    """Return a FollowEventsResponse, serialised."""
    return pb.FollowEventsResponse(events=map(event_message, sent.events), cursor=sent.cursor).SerializeToString()
