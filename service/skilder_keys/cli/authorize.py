"""skilder-keys authorize."""

from __future__ import annotations

import sys
from enum import Enum
from typing import TYPE_CHECKING, Annotated

import typer

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder.keys.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.enums import short_name, short_names
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.secrets import read_token
from skilder_keys.cli.text import Style, styled
from skilder_keys.cli.tool_options import ToolId, ToolName, put_tool, shown_paths

if TYPE_CHECKING:
    from collections.abc import Iterable


_VIEWS = pb.ToolSetView.DESCRIPTOR
View = Enum("View", {name: name for name in short_names(_VIEWS)})  # type: ignore[misc]  # from the contract


@connected
def authorize(
    service: Connection,
    tool: ToolId = None,
    tool_name: ToolName = None,
    mcp_server: Annotated[str | None, typer.Option(help="Show only what is reached of this MCP server.")] = None,
    view: Annotated[
        View | None, typer.Option(help="What to show of the tools: nothing, ids and names, or texts too.")
    ] = None,
    source_ip: Annotated[
        str, typer.Option(help="From where the token was presented; keys limited to networks need it.")
    ] = "",
    json: output.Json = False,
) -> None:
    """Check whether a token is valid and which tools it may use.

    The token is read from standard input or a prompt. Exit code 0 means granted, 1 denied; all others are errors.
    """
    request = _request(tool, tool_name, mcp_server, view)
    request.source_ip = source_ip
    request.token = read_token()
    has_one_tool = request.WhichOneof("scope") in ("tool_id", "tool_name")
    expected = None if request.view == pb.TOOL_SET_VIEW_NONE else "tool" if has_one_tool else "tool_set"
    with service.stub(AuthorizationServiceStub) as stub:
        response = stub.Authorize(request)
        if expected == "tool_set" and response.granted.WhichOneof("reach") == "tool_set_version":
            response = _with_tool_set(response.granted.key, stub.ReadToolSet(pb.ReadToolSetRequest(request=request)))
    denied = response.HasField("denied")
    if not denied and not (response.granted.HasField("key") and response.granted.WhichOneof("reach") == expected):
        raise fail("the service's response is neither a denial nor a grant of what was asked", Exit.FAILED)
    if json:
        output.print_json(output.as_dict(response))
    elif denied:
        reason = short_name(pb.DenialReason.DESCRIPTOR, response.denied.reason)
        word = styled("denied", Style.DENIED, sys.stdout)
        output.print_line(f"{word} {reason}: {output.shown(response.denied.message)}")
    else:
        _print_granted(response.granted)
    if denied:
        raise typer.Exit(Exit.DENIED)


def _request(tool: str | None, tool_name: str | None, mcp_server: str | None, view: View | None) -> pb.AuthorizeRequest:
    """Return the request that the options describe, without the token."""
    if mcp_server is not None and not (tool is None and tool_name is None):
        raise fail("give only one of --tool, --tool-name and --mcp-server", Exit.USAGE)
    request = pb.AuthorizeRequest()
    put_tool(request, tool, tool_name)
    if mcp_server is not None:
        request.mcp_server = mcp_server
    if view is not None:
        request.view = short_names(_VIEWS)[view.value]  # type: ignore[assignment]  # a plain number
    return request


def _with_tool_set(key: pb.KeyIdentity, parts: Iterable[pb.ReadToolSetResponse]) -> pb.AuthorizeResponse:
    """Return a grant with a tool set in parts, or the denial in its place."""
    tool_set = pb.ToolSet()
    for part in parts:
        if part.WhichOneof("part") != "tool_set":
            return pb.AuthorizeResponse(denied=part.denied)
        tool_set.hats.extend(part.tool_set.hats)
        tool_set.tools.extend(part.tool_set.tools)
        tool_set.skills.extend(part.tool_set.skills)
        tool_set.version = part.tool_set.version
    return pb.AuthorizeResponse(granted=pb.Granted(key=key, tool_set=tool_set))


def _print_granted(granted: pb.Granted) -> None:
    key, tool, tool_set = granted.key, granted.tool.tool, granted.tool_set
    has_one_tool, has_tool_set = granted.HasField("tool"), granted.HasField("tool_set")
    skills = {skill.id: skill for skill in tool_set.skills}
    output.print_line(styled("granted", Style.GRANTED, sys.stdout))
    output.print_fields(
        [
            ("key", key.id),
            ("type", short_name(key_pb2.KeyType.DESCRIPTOR, key.type)),
            ("workspace", key.workspace_id),
            ("user", key.user_id),
            ("runtime", key.runtime_id),
            ("description", key.description),
            ("expires", output.moment(key.expires_at) if key.HasField("expires_at") else ""),
            ("tool", f"{tool.id} ({tool.name} of {tool.mcp_server})" if has_one_tool else ""),
            ("through", shown_paths(granted.tool.paths, granted.tool.path_count)),
            ("tools", f"{len(tool_set.tools)}, version {tool_set.version}" if has_tool_set else ""),
        ]
    )
    for hat in tool_set.hats:
        output.print_line(f"\n{styled(output.shown(hat.id), Style.BOLD, sys.stdout)} {output.shown(hat.name)}")
        _print_text(hat.description)
        _print_text(hat.instructions)
        output.print_fields((f"  {each}", ", ".join(skills[each].tool_ids) or "-") for each in hat.skill_ids)
    for skill in tool_set.skills:
        if skill.description:
            output.print_line(f"\n{styled(output.shown(skill.id), Style.BOLD, sys.stdout)} {output.shown(skill.name)}")
            _print_text(skill.description)


def _print_text(text: str) -> None:
    for line in text.splitlines():
        output.print_line(f"  {output.shown(line)}")
