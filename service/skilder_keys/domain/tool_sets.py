"""What a request can ask about what a key reaches: a tool by its name, or one variant of the tool set."""

from enum import Enum
from typing import NamedTuple

from skilder_keys.domain.fields import Violations
from skilder_keys.domain.ids import ToolId


class ToolName(NamedTuple):
    """A tool, as gateways and MCP servers know it.

    Attributes:
        mcp_server: The MCP server that offers it.
        name: Its name on that server.
    """

    mcp_server: str
    name: str


class ToolSetView(Enum):
    """How much of a tool set to send."""

    # The hash of Enum is slow, and every Authorize for a variant looks it up by its view.
    __hash__ = object.__hash__

    NONE = "none"
    BASIC = "basic"
    FULL = "full"


class Variant(NamedTuple):
    """A variant of a tool set.

    Attributes:
        mcp_server: The only MCP server whose tools it has; None for all.
        view: NONE for no tool set; BASIC for ids and names; FULL for descriptions and instructions too.
    """

    mcp_server: str | None
    view: ToolSetView


WHOLE = Variant(None, ToolSetView.BASIC)
"""What a request gets that asks for no variant."""


def check_tool(violations: Violations, path: str, tool: ToolId | ToolName) -> None:
    """Check a tool that a request names by its id or by its name.

    Args:
        violations: Gets what is invalid.
        path: The path of the message with the fields `tool_id` and `tool_name`, with a dot at its end.
        tool: The tool.
    """
    if isinstance(tool, ToolName):
        violations.foreign_id(f"{path}tool_name.mcp_server", tool.mcp_server)
        violations.foreign_id(f"{path}tool_name.name", tool.name)
    elif tool:
        violations.foreign_id(f"{path}tool_id", tool)
    else:
        violations.add(f"{path}tool_id", "is set but empty: name a tool, or leave it out to ask about everything")
