"""What a guard asks about a call, and where the agent's key is."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Generic, TypeVar

from skilder_keys_client.queries import Query
from skilder_keys_client.v1.authorization_service_pb2 import (
    TOOL_SET_VIEW_NONE,
    TOOL_SET_VIEW_UNSPECIFIED,
    ToolSetView,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Call = TypeVar("Call")
Value = TypeVar("Value")
_BEARER = re.compile(r"bearer +(.*)", re.IGNORECASE | re.ASCII)
# Several values may have been joined with a comma, which no token has.
_TOKEN = re.compile(r"[^\s,]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asking(Generic[Call]):
    """What a key must be good for. Each part is a value, or a function that returns it for a call.

    Attributes:
        tool_id: The id of the tool that a call uses.
        tool: The tool, as its MCP server and its name there.
        mcp_server: The MCP server whose tools a call may use.
        view: How much of the tool set to ask for. Without a tool and a server, it is the key alone.
        source_ip: The agent's address; without it, that of the peer. Set it if a proxy stands before this server.
        timeout: The seconds that the decision may take.
    """

    tool_id: str | Callable[[Call], str] | None = None
    tool: tuple[str, str] | Callable[[Call], tuple[str, str]] | None = None
    mcp_server: str | Callable[[Call], str] | None = None
    view: ToolSetView.ValueType = TOOL_SET_VIEW_UNSPECIFIED
    source_ip: Callable[[Call], str] | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        given = [each for each in (self.tool_id, self.tool, self.mcp_server) if each is not None]
        if len(given) > 1:
            raise ValueError("give at most one of tool_id, tool and mcp_server")
        if not all(given):
            raise ValueError("a part of what is asked about is empty")

    def query(self, token: str, call: Call, peer: str) -> Query:
        """Return the query for a call with a token, from a peer."""
        unscoped = self.tool_id is None and self.tool is None and self.mcp_server is None
        view = TOOL_SET_VIEW_NONE if unscoped and self.view == TOOL_SET_VIEW_UNSPECIFIED else self.view
        return Query(
            token,
            tool_id=_value(self.tool_id, call),
            tool=_value(self.tool, call),
            mcp_server=_value(self.mcp_server, call),
            view=view,
            source_ip=_address(peer if self.source_ip is None else self.source_ip(call)),
        )


def _value(part: Value | Callable[[Call], Value] | None, call: Call) -> Value | None:
    if callable(part):
        if (value := part(call)) is None:
            raise ValueError("a function of the guard returned None")
        return value
    return part


def _address(text: str) -> str:
    """Return an address without its zone; empty if it is none, such as the path of a Unix socket."""
    bare = text.partition("%")[0]
    try:
        return str(ip_address(bare))
    except ValueError:
        return ""


def presented(headers: Iterable[tuple[str, str]]) -> str | None:
    """Return the agent's key; None unless it is in exactly one place, and there once.

    Where there are two, another reader of the call may take the other one.

    Args:
        headers: Names and values. Names are in lower case.
    """
    found = [(name, value.strip()) for name, value in headers if name in {"authorization", "x-api-key"}]
    if len(found) != 1:
        return None
    name, value = found[0]
    if name == "authorization":
        bearer = _BEARER.fullmatch(value)
        value = "" if bearer is None else bearer[1].strip()
    return value if _TOKEN.fullmatch(value) else None
