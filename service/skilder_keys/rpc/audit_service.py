"""skilder.keys.v1.AuditService."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING

from skilder.keys.v1 import audit_service_pb2 as pb
from skilder_keys.domain.audit_events import EventSelection
from skilder_keys.domain.ids import UserId, WorkspaceId
from skilder_keys.rpc import convert_events

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from skilder_keys.app.audit_reads import AuditReads
    from skilder_keys.app.event_streams import EventStreams, Sent
    from skilder_keys.offload import Offload
    from skilder_keys.rpc.pipeline import Call

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["AuditService"]


class AuditServicer:
    """Converts requests, calls the use cases, and converts their results."""

    def __init__(self, reads: AuditReads, streams: EventStreams, offload: Offload) -> None:
        """Make the servicer.

        Args:
            reads: The use case that lists events.
            streams: The one that follows them.
            offload: Where long messages are converted.
        """
        self._reads = reads
        self._streams = streams
        self._offload = offload

    async def ListEvents(self, request: pb.ListEventsRequest, call: Call) -> bytes:  # noqa: N802
        """List the events of a workspace."""
        page = await self._reads.list(
            EventSelection(WorkspaceId(request.workspace_id), convert_events.event_filter(request.filter)),
            page_size=request.page_size,
            page_token=request.page_token,
            actor=UserId(request.actor) if request.actor else None,
        )
        call.notes["workspace"] = request.workspace_id
        return await self._offload.run(convert_events.list_events_response, page)

    async def FollowEvents(  # noqa: N802
        self, request: pb.FollowEventsRequest, call: Call
    ) -> AsyncGenerator[bytes, None]:
        """Send the events of a workspace, or of all, as they are committed."""
        start = request.WhichOneof("start")
        sent = await self._streams.follow(
            convert_events.followed(request),
            cursor=request.cursor if start == "cursor" else None,
            after_number=request.after_number if start == "after_number" else None,
            actor=UserId(request.actor) if request.actor else None,
        )
        call.notes["workspace"] = request.workspace_id or "*"
        return self._responses(sent)

    async def _responses(self, sent: AsyncGenerator[Sent, None]) -> AsyncGenerator[bytes, None]:
        async with aclosing(sent):
            async for each in sent:
                yield await self._offload.run(convert_events.follow_events_response, each)
