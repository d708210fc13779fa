"""The options that name one tool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from skilder.keys.v1 import common_pb2
from skilder_keys.cli.exits import Exit, fail

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skilder.keys.v1.authorization_service_pb2 import ToolPath

ToolId = Annotated[str | None, typer.Option("--tool", help="Only about this tool, by its id.")]
ToolName = Annotated[
    str | None,
    typer.Option(
        "--tool-name",
        metavar="<server>/<name>",
        help="Only about this tool, by its MCP server and its name after the last slash.",
    ),
]


def put_tool(request: Any, tool: str | None, tool_name: str | None) -> None:  # noqa: ANN401 - of several methods
    """Put the tool that the options name into a request. End the command if both are given, or the name is none."""
    if tool is not None and tool_name is not None:
        raise fail("give only one of --tool and --tool-name", Exit.USAGE)
    if tool is not None:
        request.tool_id = tool
    if tool_name is not None:
        server, slash, name = tool_name.rpartition("/")
        if not slash:
            raise fail("--tool-name is an MCP server and a name, with a slash between them", Exit.USAGE)
        request.tool_name.CopyFrom(common_pb2.ToolName(mcp_server=server, name=name))


def shown_paths(paths: Iterable[ToolPath], count: int) -> str:
    """Return paths to a tool as one text, of how many there are in all."""
    listed = [f"hat {path.hat_id}, skill {path.skill_id}" for path in paths]
    more = count - len(listed)
    return "; ".join([*listed, f"{more} more"] if more > 0 else listed)
