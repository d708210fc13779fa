"""The decision log: a record of each denied token or, if that is wanted, of each decision.

A record is made for programs and auditors. The log of the service has no line for a decision, only for calls.
"""

from __future__ import annotations

import asyncio
import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from skilder_keys.domain.denial import DenialReason
from skilder_keys.domain.token import hint_of
from skilder_keys.rpc.log_limiter import SECONDS, LogLimiter

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from skilder_keys.app.authorization.query import AuthorizeQuery, Decision
    from skilder_keys.domain.ids import KeyId
    from skilder_keys.rpc.pipeline import Call

    Record = dict[str, Any]

FIRST = 10
"""How many denials of a kind are recorded one by one in a minute. One record counts the others."""

TOOLS = 20
"""How many tools of a caller and key are kinds of their own in a minute: whoever has a key can make ids of tools up."""

_MAX_KEYS = 1000
_TRACE_PARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}(?:-.*)?")
_NO_TRACE = "0" * 32


class Sink(Protocol):
    """Where the records go."""

    def put(self, record: Record) -> None:
        """Take a record, or drop it and count that. Never wait, and never fail."""


class DecisionLog:
    """Records decisions about tokens.

    Attributes:
        every: Whether grants are recorded too.
    """

    def __init__(
        self,
        sink: Sink | None,
        *,
        every: bool = False,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Make a log.

        Args:
            sink: Where the records go; None to record nothing.
            every: Whether grants are recorded too.
            now: Returns the time of day, in seconds since 1970.
        """
        self.every = every
        self._sink = sink
        self._now = now
        self._limiter = LogLimiter(self._left_out, FIRST)
        self._tools: dict[tuple[str, KeyId | None], set[str]] = {}

    def note(self, query: AuthorizeQuery, decision: Decision, call: Call) -> None:
        """Record a decision, if it is one to record.

        Denials of a kind have the same reason, caller and key and, if the tool is the reason, the same tool, or one
        after the first tools of the minute.
        """
        if self._sink is None or (decision.denied is None and not self.every):
            return
        tool = _tool(query)
        reason = decision.denied
        if reason is not None:
            kind = {"reason": reason.name, "caller": call.caller.name}
            if decision.key_id is not None:
                kind["key_id"] = str(decision.key_id)
            if decision.key is not None:
                kind["workspace_id"] = decision.key.workspace_id
                if decision.key.user_id is not None:
                    kind["user_id"] = decision.key.user_id
            if reason is DenialReason.TOOL_NOT_ALLOWED and self._is_kind(call.caller.name, decision.key_id, tool):
                kind["tool"] = tool
            if not self._limiter.admits(call.context.peer(), **kind):
                return
        record: Record = {"at": self._time(), "verdict": "granted" if reason is None else "denied"}
        if reason is not None:
            record["reason"] = reason.name
        key = decision.key
        found = {
            "key_id": None if decision.key_id is None else str(decision.key_id),
            "hint": hint_of(query.token) if decision.key_id is None else None,
            "workspace_id": None if key is None else key.workspace_id,
            "user_id": None if key is None else key.user_id,
            "tool": tool,
            "mcp_server": query.variant.mcp_server,
            "tool_set_version": decision.tool_set_version,
            "epoch": decision.epoch,
            "caller": call.caller.name,
            "peer": call.context.peer(),
            "source_ip": query.source_ip,
            "trace_id": trace_id(call.context.metadata("traceparent")),
        }
        record.update((name, value) for name, value in found.items() if value not in (None, ""))
        self._sink.put(record)

    def report(self) -> None:
        """Record how many denials of each kind were left out, and begin a new minute."""
        self._tools.clear()
        self._limiter.report()

    async def run(self) -> NoReturn:
        """Report every minute, until cancelled."""
        while True:
            await asyncio.sleep(SECONDS)
            self.report()

    def _is_kind(self, caller: str, key_id: KeyId | None, tool: str) -> bool:
        """Return whether the denials of a tool are a kind of their own."""
        tools = self._tools.get((caller, key_id))
        if tools is None:
            if len(self._tools) >= _MAX_KEYS:
                return False
            tools = self._tools[caller, key_id] = set()
        if len(tools) < TOOLS:
            tools.add(tool)
        return tool in tools

    def _left_out(self, count: int, peers: Mapping[str, int], kind: Mapping[str, str]) -> None:
        if self._sink is not None:
            self._sink.put({"at": self._time(), "verdict": "denied", **kind, "repeated": count, "peers": dict(peers)})

    def _time(self) -> str:
        return datetime.fromtimestamp(self._now(), UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def trace_id(trace_parent: str | None) -> str:
    """Return the id of the trace in the metadata `traceparent` (W3C Trace Context); empty without a valid one."""
    match = None if trace_parent is None else _TRACE_PARENT.fullmatch(trace_parent)
    return "" if match is None or match[1] == _NO_TRACE else match[1]


def _tool(query: AuthorizeQuery) -> str:
    """Return the tool that a query is about: its id, or MCP server and name with a slash between them."""
    if query.tool_name is not None:
        return f"{query.tool_name.mcp_server}/{query.tool_name.name}"
    return query.tool_id or ""
