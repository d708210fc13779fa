"""The busiest keys and tools of the last minutes, by the ActivityService."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import grpc

from skilder.keys.v1 import activity_service_pb2 as pb
from skilder.keys.v1.activity_service_pb2_grpc import ActivityServiceStub
from skilder.keys.v1.catalog_service_pb2 import ListWorkspacesRequest
from skilder.keys.v1.catalog_service_pb2_grpc import CatalogServiceStub
from skilder.keys.v1.key_service_pb2 import GetKeyRequest
from skilder.keys.v1.key_service_pb2_grpc import KeyServiceStub
from skilder_keys.cli.errors import message_of
from skilder_keys.cli.top.reading import SourceError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skilder_keys.cli.client import Connection

WINDOW = timedelta(minutes=5)
MAX_WORKSPACES = 10
_SHOWN = 20
_TIMEOUT = 10.0
_MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Used:
    """A key or a tool, and how much it was used.

    Attributes:
        name: What people call it: of a key its hint and description, of a tool its id.
        workspace: The workspace of it.
        calls: The calls of the window.
        denied: How many of them were denied.
    """

    name: str
    workspace: str
    calls: int
    denied: int


@dataclass(frozen=True, slots=True)
class Busiest:
    """The busiest keys and tools, those with the most calls first.

    Attributes:
        workspaces: How many workspaces were looked at.
        counted_until: Every call before this time is counted.
    """

    workspaces: int
    keys: Sequence[Used]
    tools: Sequence[Used]
    counted_until: datetime


class BusiestSource:
    """Asks the service for the busiest keys and tools."""

    def __init__(self, service: Connection, workspaces: Sequence[str], actor: str) -> None:
        """Make a source. End the command if the options of the connection cannot work.

        Args:
            service: How to reach the service.
            workspaces: The workspaces to look at; none for all, if there are few.
            actor: The user for whom the calls are made; empty for none.
        """
        self._service = service
        self._workspaces = workspaces
        self._actor = actor
        self._channel = service.authorized_channel()
        self._names: dict[str, str] = {}

    def close(self) -> None:
        """End the connection, and the call that is running."""
        self._channel.close()

    def read(self) -> Busiest:
        """Return the busiest keys and tools now. Raises SourceError."""
        try:
            return self._read()
        except grpc.RpcError as error:
            raise SourceError(message_of(error, self._service.server, self._service.flags)[0]) from None

    def _read(self) -> Busiest:
        workspaces = self._workspaces or self._all()
        keys: list[tuple[Used, str]] = []
        tools: list[Used] = []
        untils = []
        for workspace in workspaces:
            for group in (pb.USAGE_GROUP_KEY, pb.USAGE_GROUP_TOOL):
                found = self._usage(workspace, group)
                untils.append(found.counted_until.ToDatetime(tzinfo=UTC))
                for series in found.series:
                    calls, denied = _sums(series)
                    if group == pb.USAGE_GROUP_KEY:
                        keys.append((Used("", workspace, calls, denied), series.id))
                    else:
                        tools.append(Used(series.id or "(no tool)", workspace, calls, denied))
        busiest = sorted(keys, key=lambda each: -each[0].calls)[:_SHOWN]
        self._names = {key_id: self._names.get(key_id) or self._name(key_id) for _, key_id in busiest}
        return Busiest(
            len(workspaces),
            [Used(self._names[key_id], each.workspace, each.calls, each.denied) for each, key_id in busiest],
            sorted(tools, key=lambda each: -each.calls)[:_SHOWN],
            min(untils, default=datetime.now(UTC)),
        )

    def _all(self) -> list[str]:
        request = ListWorkspacesRequest(page_size=MAX_WORKSPACES + 1, actor=self._actor)
        found = CatalogServiceStub(self._channel).ListWorkspaces(request, timeout=_TIMEOUT)
        if len(found.workspaces) > MAX_WORKSPACES or found.next_page_token:
            raise SourceError(f"there are more than {MAX_WORKSPACES} workspaces: choose some with --workspace")
        return [each.id for each in found.workspaces]

    def _usage(self, workspace: str, group: pb.UsageGroup.ValueType) -> pb.GetUsageResponse:
        request = pb.GetUsageRequest(workspace_id=workspace, group_by=group, top=_SHOWN, actor=self._actor)
        request.step.FromTimedelta(_MINUTE)
        request.filter.after.FromDatetime(datetime.now(UTC) - WINDOW)
        found: pb.GetUsageResponse = ActivityServiceStub(self._channel).GetUsage(request, timeout=_TIMEOUT)
        return found

    def _name(self, key_id: str) -> str:
        if not key_id:
            return "(purged)"
        try:
            request = GetKeyRequest(key_id=key_id, actor=self._actor)
            key = KeyServiceStub(self._channel).GetKey(request, timeout=_TIMEOUT).key
        except grpc.RpcError as error:
            if error.code() is not grpc.StatusCode.NOT_FOUND:
                raise
            return key_id
        return f"{key.hint} {key.description}".rstrip()


def _sums(series: pb.UsageSeries) -> tuple[int, int]:
    denied = sum(each.denied for each in series.points)
    return sum(each.granted for each in series.points) + denied, denied
