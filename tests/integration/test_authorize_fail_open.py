"""A field that is left out, empty or unknown never makes a caller let more through."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1.common_pb2 import ToolName
from skilder_keys.cli.exits import Exit
from tests.support.calls import call
from tests.support.process import run_command
from tests.support.service import TOKENS, refusal

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Service

KEY = pb.KeyIdentity(id="k", workspace_id="acme")
COMMIT = ToolName(mcp_server="git", name="git_commit")
TOOL = pb.ToolGrant(tool=pb.ReachedTool(id="web.search"))
UNKNOWN = b"\xfa\x01\x01x"
"""A field with the number 31."""


async def test_no_field_of_authorize_that_is_left_out_or_empty_grants_more(service: Service) -> None:
    """A request about one tool, by a key that does not reach it, is never granted that tool or refused by accident."""
    issued = await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})
    token, tool_id = issued.token, "git.commit"
    version = (await service.service.authorize(token)).granted.tool_set.version
    whole = pb.AuthorizeRequest(token=token, tool_id=tool_id, tool_set_version=version)
    assert await _outcomes(service, whole) == {"TOOL_NOT_ALLOWED"}
    for request, outcomes in (
        (pb.AuthorizeRequest(tool_id=tool_id, tool_set_version=version), {"MALFORMED"}),
        (pb.AuthorizeRequest(token="", tool_id=tool_id, tool_set_version=version), {"MALFORMED"}),
        (pb.AuthorizeRequest(token=token, tool_id="", tool_set_version=version), {"INVALID_REQUEST"}),
        (pb.AuthorizeRequest(token=token, tool_id=tool_id), {"TOOL_NOT_ALLOWED"}),
        (pb.AuthorizeRequest(token=token, tool_id=tool_id, tool_set_version=""), {"TOOL_NOT_ALLOWED"}),
        (pb.AuthorizeRequest(token=token, tool_id=tool_id, tool_set_version="unknown"), {"TOOL_NOT_ALLOWED"}),
        # It asks for everything, and the answer is of another kind than that about a tool.
        (pb.AuthorizeRequest(token=token, tool_set_version=version), {"tool_set_version"}),
        (pb.AuthorizeRequest(token=token), {"tool_set", "tool_set_version"}),
        (pb.AuthorizeRequest(token=token, tool_set_version=""), {"tool_set", "tool_set_version"}),
        (pb.AuthorizeRequest(token=token, tool_set_version="unknown"), {"tool_set", "tool_set_version"}),
        (pb.AuthorizeRequest(), {"MALFORMED"}),
        (pb.AuthorizeRequest(token=token, tool_name=COMMIT), {"TOOL_NOT_ALLOWED"}),
        (pb.AuthorizeRequest(token=token, tool_name=ToolName()), {"INVALID_REQUEST"}),
        (pb.AuthorizeRequest(token=token, tool_name=ToolName(name="web_search")), {"INVALID_REQUEST"}),
        (pb.AuthorizeRequest(token=token, tool_name=ToolName(mcp_server="web")), {"INVALID_REQUEST"}),
        (pb.AuthorizeRequest(token=token, mcp_server=""), {"INVALID_REQUEST"}),
        (
            pb.AuthorizeRequest(token=token, mcp_server="git", tool_set_version=version),
            {"tool_set", "tool_set_version"},
        ),
        (pb.AuthorizeRequest(token=token, view=pb.TOOL_SET_VIEW_NONE), {"None"}),
        (
            pb.AuthorizeRequest.FromString(pb.AuthorizeRequest(token=token).SerializeToString() + b"\x38\x07"),
            {"UNKNOWN_FIELD"},
        ),
        *(
            (pb.AuthorizeRequest(token=token, view=view, **scope), {"INVALID_REQUEST"})
            for view in (pb.TOOL_SET_VIEW_NONE, pb.TOOL_SET_VIEW_FULL)
            for scope in ({"tool_id": "web.search"}, {"tool_name": COMMIT})
        ),
        (pb.AuthorizeRequest(token=token, tool_id=tool_id, view=pb.TOOL_SET_VIEW_BASIC), {"TOOL_NOT_ALLOWED"}),
        (
            pb.AuthorizeRequest.FromString(
                pb.AuthorizeRequest(token=token, tool_name=COMMIT).SerializeToString() + b"\x22\x04" + UNKNOWN
            ),
            {"UNKNOWN_FIELD"},
        ),
        (pb.AuthorizeRequest.FromString(whole.SerializeToString() + UNKNOWN), {"UNKNOWN_FIELD"}),
        (
            pb.AuthorizeRequest.FromString(pb.AuthorizeRequest(token=token).SerializeToString() + UNKNOWN),
            {"UNKNOWN_FIELD"},
        ),
    ):
        for _ in range(2):
            assert await _outcomes(service, request) == outcomes, request
    reached = (await service.service.authorize(token)).granted.tool_set
    assert tool_id not in {tool.id for tool in reached.tools}


async def test_a_read_without_a_field_sends_no_more(service: Service) -> None:
    """Without the request, or with another one than for everything, nothing is sent."""
    token = (await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})).token
    good = pb.ReadToolSetRequest(request=pb.AuthorizeRequest(token=token)).SerializeToString()
    for body, expected in (
        (b"", "INVALID_REQUEST"),
        (good + UNKNOWN, "UNKNOWN_FIELD"),
        (good + pb.ReadToolSetRequest(request=pb.AuthorizeRequest(tool_id="")).SerializeToString(), "INVALID_REQUEST"),
    ):
        assert (await refusal(call(service.service, "AuthorizationService/ReadToolSet", body))).reason == expected
    body = await call(service.service, "AuthorizationService/ReadToolSet", b"\x0a\x00")
    assert pb.ReadToolSetResponse.FromString(body).denied.reason == pb.DENIAL_REASON_MALFORMED


@pytest.mark.parametrize(
    ("arguments", "response"),
    [
        ((), b""),
        ((), UNKNOWN),
        ((), pb.AuthorizeResponse(granted=pb.Granted()).SerializeToString()),
        ((), pb.AuthorizeResponse(granted=pb.Granted(key=KEY)).SerializeToString()),
        ((), b"\x0a\x04" + UNKNOWN),
        ((), pb.AuthorizeResponse(granted=pb.Granted(key=KEY, tool=TOOL)).SerializeToString()),
        (("--tool", "a"), b""),
        (("--tool", "a"), pb.AuthorizeResponse(granted=pb.Granted(key=KEY)).SerializeToString()),
        (("--tool", "a"), pb.AuthorizeResponse(granted=pb.Granted(key=KEY, tool_set=pb.ToolSet())).SerializeToString()),
        (("--tool", "a"), pb.AuthorizeResponse(granted=pb.Granted(tool_set_version="x")).SerializeToString()),
        (("--tool-name", "a/b"), pb.AuthorizeResponse(granted=pb.Granted(key=KEY)).SerializeToString()),
        (("--mcp-server", "a"), pb.AuthorizeResponse(granted=pb.Granted(key=KEY, tool=TOOL)).SerializeToString()),
        (("--view", "none"), b""),
        (("--view", "none"), pb.AuthorizeResponse(granted=pb.Granted()).SerializeToString()),
        (("--view", "none"), pb.AuthorizeResponse(granted=pb.Granted(key=KEY, tool=TOOL)).SerializeToString()),
    ],
)
async def test_the_command_reports_only_what_was_asked_as_granted(
    tmp_path: Path, arguments: tuple[str, ...], response: bytes
) -> None:
    """An unset, unknown or other kind of response is a failure, whatever a server sends."""
    done = await _authorized(tmp_path, arguments, response)
    assert done.returncode == Exit.FAILED, done.stderr
    assert "granted" not in done.stdout
    assert "neither a denial nor a grant of what was asked" in done.stderr


@pytest.mark.parametrize(
    "arguments", [(), ("--mcp-server", "web"), ("--tool", "web.search"), ("--tool-name", "web/web_search")]
)
async def test_the_command_reports_what_was_asked(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """The same server, with the right kind of response."""
    reach: Any = (
        {"tool": TOOL} if arguments and arguments[0].startswith("--tool") else {"tool_set": pb.ToolSet(version="1")}
    )
    response = pb.AuthorizeResponse(granted=pb.Granted(key=KEY, **reach)).SerializeToString()
    done = await _authorized(tmp_path, arguments, response)
    assert (done.returncode, done.stdout.split()[0]) == (0, "granted"), done.stderr


async def test_an_empty_tool_is_not_everything(service: Service, tmp_path: Path) -> None:
    """As in `--tool "$TOOL"` where the variable is not set."""
    token = (await service.operator.issue()).token
    (tmp_path / "token").write_text(TOKENS["operator"])
    variables = {"SKILDER_KEYS_SERVER": service.address, "SKILDER_KEYS_TOKEN_FILE": "token"}
    done = await asyncio.to_thread(run_command, "authorize", "--tool", "", folder=tmp_path, stdin=token, **variables)
    assert (done.returncode, done.stdout) == (Exit.USAGE, "")
    assert "--tool is set but empty" in done.stderr


async def _outcomes(service: Service, request: pb.AuthorizeRequest) -> set[str]:
    """Return the outcomes of a request, alone and in a batch: the kind of reach, or why there is none."""
    found = set()
    for method, body in (
        ("Authorize", request.SerializeToString()),
        ("BatchAuthorize", pb.BatchAuthorizeRequest(requests=[request]).SerializeToString()),
    ):
        try:
            response = await call(service.service, f"AuthorizationService/{method}", body)
        except grpc.aio.AioRpcError as error:
            found.add((await refusal(_raise(error))).reason)
            continue
        if method == "BatchAuthorize":
            (decision,) = pb.BatchAuthorizeResponse.FromString(response).responses
        else:
            decision = pb.AuthorizeResponse.FromString(response)
        if decision.HasField("granted"):
            found.add(str(decision.granted.WhichOneof("reach")))
        else:
            found.add(pb.DenialReason.Name(decision.denied.reason).removeprefix("DENIAL_REASON_"))
    return found


async def _raise(error: BaseException) -> None:
    raise error


async def _authorized(folder: Path, arguments: tuple[str, ...], response: bytes) -> Any:
    """Run `authorize` against a server that sends these bytes to every call."""

    async def respond(_request: bytes, _context: object) -> bytes:
        return response

    class Always(grpc.GenericRpcHandler):
        def service(self, handler_call_details: object) -> Any:
            assert handler_call_details
            return grpc.unary_unary_rpc_method_handler(respond)

    server = grpc.aio.server()
    server.add_generic_rpc_handlers((Always(),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    (folder / "token").write_text("t" * 32)
    variables = {"SKILDER_KEYS_SERVER": address, "SKILDER_KEYS_TOKEN_FILE": "token"}
    try:
        return await asyncio.to_thread(run_command, "authorize", *arguments, folder=folder, stdin="x", **variables)
    finally:
        await server.stop(0)
