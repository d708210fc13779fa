"""What a caller asks about a token."""

from __future__ import annotations

from dataclasses import dataclass, field

from skilder_keys_client.v1.authorization_service_pb2 import TOOL_SET_VIEW_UNSPECIFIED, AuthorizeRequest, ToolSetView
from skilder_keys_client.v1.common_pb2 import ToolName

MAX_TOKEN_BYTES = 64 * 1024
"""A longer text fits in no request, so it is no token."""


@dataclass(frozen=True, slots=True)
class Query:
    """A token, and what it should be good for: one tool, one MCP server's tools, or everything if none is given.

    A value that is given counts, also if it is empty: the service rejects it, so that a tool id that was not found does
    not ask about everything.

    Attributes:
        token: As its holder presented it.
        tool_id: The id of a tool.
        tool: A tool, as its MCP server and its name there.
        mcp_server: An MCP server.
        tool_set_version: The version of the tool set that you have. If it is still current, it is not sent again.
        view: How much of a tool set to send, a TOOL_SET_VIEW_… .
        source_ip: The address from which the token was presented to you, without a port.
    """

    token: str = field(repr=False)
    tool_id: str | None = None
    tool: tuple[str, str] | None = None
    mcp_server: str | None = None
    tool_set_version: str = ""
    view: ToolSetView.ValueType = TOOL_SET_VIEW_UNSPECIFIED
    source_ip: str = ""

    def __post_init__(self) -> None:
        if sum(each is not None for each in (self.tool_id, self.tool, self.mcp_server)) > 1:
            raise ValueError("give at most one of tool_id, tool and mcp_server")

    def is_sendable(self) -> bool:
        """Return whether the token is text that fits in a request. All others are malformed."""
        try:
            return len(self.token.encode()) <= MAX_TOKEN_BYTES - 1024
        except UnicodeEncodeError:
            return False

    def request(self) -> AuthorizeRequest:
        """Return the request."""
        request = AuthorizeRequest(
            token=self.token, tool_set_version=self.tool_set_version, view=self.view, source_ip=self.source_ip
        )
        if self.tool_id is not None:
            request.tool_id = self.tool_id
        if self.tool is not None:
            request.tool_name.CopyFrom(ToolName(mcp_server=self.tool[0], name=self.tool[1]))
        if self.mcp_server is not None:
            request.mcp_server = self.mcp_server
        return request
