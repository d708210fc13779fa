"""What a report is made of, as the API tells it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any

from skilder.keys.v1 import activity_service_pb2, catalog_service_pb2, key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder_keys.cli.paging import pages
from skilder_keys.cli.usage import Points, points_of
from skilder_keys.domain.activity import MAX_SERIES, Span

if TYPE_CHECKING:
    from collections.abc import Sequence

_MONTH, _QUARTER, _WEEK = timedelta(days=30), timedelta(days=90), timedelta(days=7)
_MOST_ACTIVITY = 5_000
_MOST_REACHES = 20
_MOST_TOOLS = 500
_USABLE = (key_pb2.KEY_STATE_ACTIVE, key_pb2.KEY_STATE_SUSPENDED)


@dataclass(frozen=True, slots=True)
class Reach:
    """A key that reaches more tools than it used.

    Attributes:
        tools: How many tools it reaches.
        used: The tools that it used.
        hats: Hats by which it reaches these, fewer than all of its hats.
    """

    key: key_pb2.Key
    tools: int
    used: Sequence[str]
    hats: Sequence[str]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a report is made of.

    Attributes:
        keys: The keys that can be used or are suspended.
        counts: How many keys there are of each type and state.
        usage: The calls of each of the last 30 days.
        busiest: The keys with the most calls in that time, with those of each day.
        recent: Activity of the last week, the newest.
        denied: Denied calls of 30 days by key and reason, of the newest activity.
        unused_tools: The enabled tools that nobody used in 90 days.
        reaches: Keys that reach more than they use.
    """

    workspace_id: str
    keys: Sequence[key_pb2.Key]
    counts: Sequence[pb.KeyCount]
    usage: Points
    busiest: Sequence[tuple[key_pb2.Key, Points]]
    recent: Sequence[activity_service_pb2.Activity]
    denied: Counter[tuple[str, int]]
    unused_tools: Sequence[str]
    reaches: Sequence[Reach]


class Reader:
    """Reads the facts of a workspace."""

    def __init__(self, keys: Any, catalog: Any, activity: Any, workspace_id: str, actor: str) -> None:  # noqa: ANN401 - stubs have no types
        self._keys = keys
        self._catalog = catalog
        self._activity = activity
        self._workspace_id = workspace_id
        self._actor = actor

    def read(self, now: datetime) -> Facts:
        """Read everything."""
        listed = pb.ListKeysRequest(
            workspace_id=self._workspace_id, filter=pb.KeyFilter(states=_USABLE), actor=self._actor
        )
        keys = [key for page in pages(self._keys.ListKeys, listed, "keys") for key in page]
        counted = pb.CountKeysRequest(workspace_id=self._workspace_id, actor=self._actor)
        by_id = {key.id: key for key in keys}
        window = (Span.DAY, now - _MONTH, now)
        by_key = self._usage(now - _MONTH, activity_service_pb2.USAGE_GROUP_KEY, top=_MOST_REACHES).series
        busiest = [(by_id[each.id], points_of(each, *window)) for each in by_key if each.id in by_id]
        denied: Counter[tuple[str, int]] = Counter()
        for each in self._activities(now - _MONTH, verdict=activity_service_pb2.VERDICT_DENIED):
            denied[each.key_id, each.denial_reason] += each.count
        everything = self._usage(now - _MONTH, activity_service_pb2.USAGE_GROUP_UNSPECIFIED).series[0]
        return Facts(
            workspace_id=self._workspace_id,
            keys=keys,
            counts=self._keys.CountKeys(counted).counts,
            usage=points_of(everything, *window),
            busiest=busiest,
            recent=self._activities(now - _WEEK),
            denied=denied,
            unused_tools=self._unused_tools(now - _QUARTER),
            reaches=[reach for key, _ in busiest if (reach := self._reach(key, now - _QUARTER)) is not None],
        )

    def _usage(
        self,
        after: datetime,
        group: int,
        top: int = MAX_SERIES,
        **chosen: Any,  # noqa: ANN401 - fields of the filter
    ) -> activity_service_pb2.GetUsageResponse:
        request = activity_service_pb2.GetUsageRequest(
            workspace_id=self._workspace_id,
            filter=activity_service_pb2.ActivityFilter(**chosen),
            group_by=group,  # type: ignore[arg-type]  # a plain number
            top=top,
            actor=self._actor,
        )
        request.filter.after.FromDatetime(after)
        request.step.FromTimedelta(Span.DAY.value)
        found: activity_service_pb2.GetUsageResponse = self._activity.GetUsage(request)
        return found

    def _activities(self, after: datetime, **chosen: Any) -> list[activity_service_pb2.Activity]:  # noqa: ANN401 - the same
        request = activity_service_pb2.ListActivityRequest(
            workspace_id=self._workspace_id,
            filter=activity_service_pb2.ActivityFilter(**chosen),
            actor=self._actor,
        )
        request.filter.after.FromDatetime(after)
        found = (each for page in pages(self._activity.ListActivity, request, "activities") for each in page)
        return list(islice(found, _MOST_ACTIVITY))

    def _unused_tools(self, after: datetime) -> list[str]:
        usage = self._usage(after, activity_service_pb2.USAGE_GROUP_TOOL)
        used = {each.id for each in usage.series}
        request = catalog_service_pb2.ListToolsRequest(workspace_id=self._workspace_id, actor=self._actor)
        found = (tool for page in pages(self._catalog.ListTools, request, "tools") for tool in page)
        unused = [tool.id for tool in found if not tool.disabled and tool.id not in used]
        if usage.HasField("rest"):
            # More tools were used than there are series: ask for each of the others.
            unused = [tool for tool in unused[:_MOST_TOOLS] if not self._is_used(tool, after)]
        return unused

    def _is_used(self, tool_id: str, after: datetime) -> bool:
        usage = self._usage(after, activity_service_pb2.USAGE_GROUP_UNSPECIFIED, tool_id=tool_id)
        return bool(usage.series[0].points)

    def _reach(self, key: key_pb2.Key, after: datetime) -> Reach | None:
        """Return what a key reaches and uses; None if fewer hats would not do, or it asked for whole tool sets."""
        usage = self._usage(
            after,
            activity_service_pb2.USAGE_GROUP_TOOL,
            key_id=key.id,
            verdict=activity_service_pb2.VERDICT_GRANTED,
        )
        used = [each.id for each in usage.series]
        if not used or "" in used or "*" in used or usage.HasField("rest"):
            return None
        request = pb.ExplainKeyRequest(key_id=key.id, actor=self._actor)
        hats = self._keys.ExplainKey(request).hats
        tools = sum(map(len, pages(self._keys.ExplainKey, request, "tools")))
        chosen: list[str] = []
        for tool in used:
            asked = pb.ExplainKeyRequest(key_id=key.id, tool_id=tool, actor=self._actor)
            ways = [path.hat_id for path in self._keys.ExplainKey(asked).tool.paths]
            if ways and not set(ways).intersection(chosen):
                chosen.append(ways[0])
        reached = [hat for hat in hats if hat.reach in (pb.HAT_REACH_WORKSPACE, pb.HAT_REACH_TEAM)]
        if not chosen or len(chosen) >= len(reached) or len(used) >= tools:
            return None
        return Reach(key, tools, used, sorted(chosen))
