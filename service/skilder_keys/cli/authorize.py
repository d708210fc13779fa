"""skilder-keys authorize."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder.keys.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.enums import short_name
from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.secrets import read_token
from skilder_keys.cli.text import Style, styled

if TYPE_CHECKING:
    from collections.abc import Iterable


@connected
def authorize(
    service: Connection,
    tool: Annotated[str | None, typer.Option(help="Check only this tool, by its id.")] = None,
    json: output.Json = False,
) -> None:
    """Check whether a token is valid and which tools it may use.

    The token is read from standard input or a prompt. Exit code 0 means granted, 1 denied; all others are errors.
    """
    request = pb.AuthorizeRequest(token=read_token())
    if tool is not None:
        request.tool_id = tool
    with service.stub(AuthorizationServiceStub) as stub:
        response = stub.Authorize(request)
        if tool is None and response.granted.WhichOneof("reach") == "tool_set_version":
            response = _with_tool_set(response.granted.key, stub.ReadToolSet(pb.ReadToolSetRequest(request=request)))
    denied = response.HasField("denied")
    if not denied and response.granted.WhichOneof("reach") != ("tool_set" if tool is None else "tool"):
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
    has_one_tool = granted.HasField("tool")
    paths = "; ".join(f"hat {path.hat_id}, skill {path.skill_id}" for path in granted.tool.paths)
    more = granted.tool.path_count - len(granted.tool.paths)
    skills = {skill.id: ", ".join(skill.tool_ids) or "-" for skill in tool_set.skills}
    output.print_line(styled("granted", Style.GRANTED, sys.stdout))
    output.print_fields(
        [
            ("key", key.id),
            ("type", short_name(key_pb2.KeyType.DESCRIPTOR, key.type)),
            ("workspace", key.workspace_id),
            ("user", key.user_id),
            ("runtime", key.runtime_id),
            ("description", key.description),
            ("tool", f"{tool.id} ({tool.name} of {tool.mcp_server})" if has_one_tool else ""),
            ("through", f"{paths}; {more} more" if more else paths),
            ("tools", "" if has_one_tool else f"{len(tool_set.tools)}, version {tool_set.version}"),
        ]
    )
    for hat in tool_set.hats:
        output.print_line(f"\n{styled(output.shown(hat.id), Style.BOLD, sys.stdout)} {output.shown(hat.name)}")
        output.print_fields((f"  {skill_id}", skills[skill_id]) for skill_id in hat.skill_ids)
