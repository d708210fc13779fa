"""skilder.keys.v1.ActivityService."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder.keys.v1 import activity_service_pb2 as pb
from skilder_keys.domain.ids import UserId
from skilder_keys.rpc import convert_activity

if TYPE_CHECKING:
    from skilder_keys.app.activity.reads import ActivityReads
    from skilder_keys.offload import Offload
    from skilder_keys.rpc.pipeline import Call

DESCRIPTOR = pb.DESCRIPTOR.services_by_name["ActivityService"]


class ActivityServicer:
    """Converts requests, calls the use case, and converts its results."""

    def __init__(self, reads: ActivityReads, offload: Offload) -> None:
        """Make the servicer.

        Args:
            reads: The use cases.
            offload: Where long responses are made.
        """
        self._reads = reads
        self._offload = offload

    async def ListActivity(self, request: pb.ListActivityRequest, call: Call) -> bytes:  # noqa: N802
        """List what keys of a workspace were used for."""
        page, kept = await self._reads.list(
            convert_activity.activity_listing(request),
            page_size=request.page_size,
            page_token=request.page_token,
            actor=UserId(request.actor) if request.actor else None,
        )
        call.notes["workspace"] = request.workspace_id
        return await self._offload.run(convert_activity.list_activity_response, page, kept.counted_until)

    async def GetUsage(self, request: pb.GetUsageRequest, call: Call) -> bytes:  # noqa: N802
        """Return how much keys of a workspace were used."""
        usage = await self._reads.usage(
            convert_activity.usage_query(request), UserId(request.actor) if request.actor else None
        )
        call.notes["workspace"] = request.workspace_id
        return await self._offload.run(convert_activity.usage_response, usage)
