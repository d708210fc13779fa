"""skilder-keys authorize."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder.keys.v1.authorization_service_pb2_grpc import AuthorizationServiceStub
from skilder_keys.cli import output
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.enums import short_name
from skilder_keys.cli.exits import Exit
from skilder_keys.cli.secrets import read_token
from skilder_keys.cli.text import Style, styled


@connected
def authorize(
    service: Connection,
    tool: Annotated[str, typer.Option(help="Check only this tool, by its id.")] = "",
    json: output.Json = False,
) -> None:
    """Check whether a token is valid and which tools it may use.

    The token is read from standard input or a prompt. Exit code 0 means granted, 1 denied; all others are errors.
    """
    request = pb.AuthorizeRequest(token=read_token(), tool_id=tool)
    with service.stub(AuthorizationServiceStub) as stub:
        response = stub.Authorize(request)
    if json:
        output.print_json(output.as_dict(response))
    elif response.HasField("denied"):
        reason = short_name(pb.DenialReason.DESCRIPTOR, response.denied.reason)
        denied = styled("denied", Style.DENIED, sys.stdout)
        output.print_line(f"{denied} {reason}: {output.shown(response.denied.message)}")
    else:
        _print_granted(response.granted)
    if response.HasField("denied"):
        raise typer.Exit(Exit.DENIED)


def _print_granted(granted: pb.Granted) -> None:
    key, tool, tool_set = granted.key, granted.tool.tool, granted.tool_set
    has_one_tool = granted.HasField("tool")
    paths = "; ".join(f"hat {path.hat_id}, skill {path.skill_id}" for path in granted.tool.paths)
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
            ("through", paths),
            ("tools", "" if has_one_tool else f"{len(tool_set.tools)}, version {tool_set.version}"),
        ]
    )
    for hat in tool_set.hats:
        output.print_line(f"\n{styled(output.shown(hat.id), Style.BOLD, sys.stdout)} {output.shown(hat.name)}")
        output.print_fields((f"  {skill.id}", ", ".join(skill.tool_ids) or "-") for skill in hat.skills)
