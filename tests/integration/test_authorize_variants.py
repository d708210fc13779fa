"""Authorize by what gateways know: a tool by its name, the tools of one MCP server, how much of a tool set to send."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1.common_pb2 import ToolName
from skilder_keys.app.authorization.query import AuthorizeQuery
from skilder_keys.cli.exits import Exit
from skilder_keys.domain.tool_sets import ToolName as Name
from skilder_keys.domain.tool_sets import ToolSetView, Variant
from tests.support.calls import part
from tests.support.command_line import CommandLine
from tests.support.fleet import process
from tests.support.service import refusal
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from pathlib import Path

    from skilder.keys.v1.workspace_pb2 import Workspace
    from tests.support.service import Service

NONE, BASIC, FULL = pb.TOOL_SET_VIEW_NONE, pb.TOOL_SET_VIEW_BASIC, pb.TOOL_SET_VIEW_FULL
POST = ToolName(mcp_server="slack", name="slack_post_message")


def described() -> Workspace:
    """Return `acme` with a text for each hat and skill."""
    workspace = small_workspace()
    for hat in workspace.hats:
        hat.description, hat.instructions = f"About {hat.id}", f"Wear {hat.id}\nwith care"
    for skill in workspace.skills:
        skill.description = f"About {skill.id}"
    return workspace


async def read(service: Service, token: str, **fields: Any) -> pb.ToolSet:
    """Read what a token reaches."""
    request = pb.ReadToolSetRequest(request=pb.AuthorizeRequest(token=token, **fields))
    (part,) = [each async for each in service.service.authorization.ReadToolSet(request)]
    return part.tool_set  # type: ignore[no-any-return]


async def ask(service: Service, token: str, **fields: Any) -> pb.AuthorizeResponse:
    """Authorize a token, cold and warm, alone and in a batch, which must all decide the same."""
    request = pb.AuthorizeRequest(token=token, **fields)
    responses = [await service.service.authorization.Authorize(request) for _ in range(3)]
    assert responses[1:] == responses[:-1]
    batch = await service.service.authorization.BatchAuthorize(pb.BatchAuthorizeRequest(requests=[request] * 2))
    assert batch.responses[0] == batch.responses[1]
    found, named = responses[0], batch.responses[0]
    kind = found.granted.WhichOneof("reach")
    if kind == "tool_set":
        assert named.granted.tool_set_version == found.granted.tool_set.version
        assert list(batch.tool_sets) == [found.granted.tool_set]
    else:
        assert named == found
        assert not batch.tool_sets or kind == "tool_set_version"
    return found  # type: ignore[no-any-return]


async def test_a_tool_is_granted_and_denied_by_its_name(service: Service) -> None:
    """As by its id; a denial names the tool as the request did."""
    token = (await service.operator.issue(hat_limit={"hat_ids": ["support-desk"]})).token
    by_name = await ask(service, token, tool_name=POST)
    assert by_name.granted.tool.tool.id == "slack.post"
    assert by_name == await ask(service, token, tool_id="slack.post")
    for name in (
        ToolName(mcp_server="git", name="git_commit"),  # out of reach
        ToolName(mcp_server="git", name="git_push"),  # disabled
        ToolName(mcp_server="slack", name="slack.post"),  # an id
        ToolName(mcp_server="git", name="slack_post_message"),  # of another server
    ):
        denied = (await ask(service, token, tool_name=name)).denied
        assert (denied.reason, denied.tool_name) == (pb.DENIAL_REASON_TOOL_NOT_ALLOWED, name)
    denied = (await ask(service, token, tool_id="git.commit")).denied
    assert (denied.WhichOneof("tool"), denied.tool_id) == ("tool_id", "git.commit")
    await service.operator.revoke(key_id=by_name.granted.key.id)
    denied = (await ask(service, token, tool_name=POST)).denied
    assert (denied.reason, denied.WhichOneof("tool")) == (pb.DENIAL_REASON_REVOKED, None)


async def test_one_server_learns_only_what_an_agent_reaches_there(service: Service) -> None:
    """Tools of no other server, nor skills and hats that lead only to those."""
    token = (await service.operator.issue()).token
    found = (await ask(service, token, mcp_server="slack")).granted.tool_set
    assert [tool.id for tool in found.tools] == ["slack.history", "slack.post"]
    assert [(skill.id, list(skill.tool_ids)) for skill in found.skills] == [
        ("slack-reading", ["slack.history"]),
        ("slack-replies", ["slack.history", "slack.post"]),
    ]
    assert [(hat.id, list(hat.skill_ids)) for hat in found.hats] == [
        ("customer-care", ["slack-reading"]),
        ("support-desk", ["slack-reading", "slack-replies"]),
    ]
    whole = (await service.service.authorize(token)).granted.tool_set
    assert found.version != whole.version
    again = await ask(service, token, mcp_server="slack", tool_set_version=found.version)
    assert again.granted.tool_set_version == found.version
    for other in (whole.version, "unknown"):
        assert (await ask(service, token, mcp_server="slack", tool_set_version=other)).granted.tool_set == found
    assert await read(service, token, mcp_server="slack") == found


@GRPCIO_IF_SHORT
async def test_a_server_without_a_reached_tool_has_an_empty_set(service: Service) -> None:
    """Whether it exists or not: a caller cannot find out which servers there are."""
    token = (await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})).token
    empty = [(await ask(service, token, mcp_server=server)).granted for server in ("slack", "nothing-like-it")]
    assert empty[0] == empty[1]
    assert empty[0].tool_set == pb.ToolSet(version=empty[0].tool_set.version)
    assert len(empty[0].tool_set.version) == 32


async def test_a_full_view_has_the_texts(service: Service) -> None:
    """Of what is reached, of all servers or one; with a version of its own, which follows the texts."""
    await service.operator.apply(described())
    token = (await service.operator.issue(hat_limit={"hat_ids": ["support-desk"]})).token
    basic = (await ask(service, token)).granted.tool_set
    assert basic == (await ask(service, token, view=BASIC)).granted.tool_set
    assert {hat.description for hat in basic.hats} | {skill.description for skill in basic.skills} == {""}
    for scope in ({}, {"mcp_server": "slack"}):
        full = (await ask(service, token, view=FULL, **scope)).granted.tool_set
        assert [(hat.description, hat.instructions) for hat in full.hats] == [
            ("About support-desk", "Wear support-desk\nwith care")
        ]
        assert [skill.description for skill in full.skills] == ["About slack-reading", "About slack-replies"]
        assert full.version != basic.version
        assert await read(service, token, view=FULL, **scope) == full
        changed = described()
        part(changed.hats, "support-desk").instructions = "Otherwise"
        await service.operator.apply(changed)
        after = (await ask(service, token, view=FULL, tool_set_version=full.version, **scope)).granted.tool_set
        assert [hat.instructions for hat in after.hats] == ["Otherwise"]
        assert (await ask(service, token, tool_set_version=basic.version)).granted.tool_set_version == basic.version
        await service.operator.apply(described())


async def test_the_key_alone(service: Service) -> None:
    """Without anything that it reaches, also of one server, and whatever version the caller has."""
    issued = await service.operator.issue()
    for fields in ({}, {"mcp_server": "slack"}, {"mcp_server": "nothing-like-it"}, {"tool_set_version": "x"}):
        granted = (await ask(service, issued.token, view=NONE, **fields)).granted
        assert (granted.key.id, granted.WhichOneof("reach")) == (issued.key.id, None)
    await service.operator.revoke(key_id=issued.key.id)
    assert (await ask(service, issued.token, view=NONE)).denied.reason == pb.DENIAL_REASON_REVOKED


@pytest.mark.parametrize(
    ("fields", "invalid"),
    [
        ({"mcp_server": ""}, "mcp_server"),
        ({"mcp_server": " slack"}, "mcp_server"),
        ({"mcp_server": "x" * 256}, "mcp_server"),
        ({"mcp_server": "", "view": NONE}, "mcp_server"),
        ({"tool_name": ToolName(mcp_server="slack")}, "tool_name.name"),
        ({"tool_name": ToolName(name="slack_post_message")}, "tool_name.mcp_server"),
        ({"tool_name": ToolName(mcp_server="slack", name="a\nb")}, "tool_name.name"),
        ({"tool_id": "slack.post", "view": NONE}, "view"),
        ({"tool_id": "slack.post", "view": FULL}, "view"),
        ({"tool_name": POST, "view": FULL}, "view"),
        ({"mcp_server": "slack", "tool_set_version": "\x00"}, "tool_set_version"),
        ({"view": NONE, "tool_set_version": "\x00"}, "tool_set_version"),
    ],
)
@TOGETHER_IF_SHORT
async def test_bad_requests_name_the_field(service: Service, fields: dict[str, Any], invalid: str) -> None:
    """Cold and warm, alone, in a batch and in a read."""
    token = (await service.operator.issue()).token
    request = pb.AuthorizeRequest(token=token, **fields)
    calls = service.service.authorization
    for warm in (False, True):
        if warm:
            await ask(service, token, view=FULL, mcp_server="slack")
        for prefix, call in (
            ("", calls.Authorize(request)),
            ("requests[0].", calls.BatchAuthorize(pb.BatchAuthorizeRequest(requests=[request]))),
        ):
            assert list((await refusal(call)).fields) == [f"{prefix}{invalid}"]


@GRPCIO_IF_SHORT
async def test_a_read_of_no_tool_set_is_refused(service: Service) -> None:
    """A tool has none, nor has the key alone."""
    token = (await service.operator.issue()).token
    for fields, invalid in (({"tool_name": POST}, "tool_name"), ({"view": NONE}, "view")):
        found = await refusal(read(service, token, **fields))
        assert list(found.fields) == [f"request.{invalid}"]


async def test_the_fast_path_grants_variants(database_url: str) -> None:
    """After the first answer the authorizer grants them at once, with the same bytes; and leaves the rest to others."""
    async with process(database_url) as one:
        await one.apply(described())
        await one.follow()
        _, token = await one.issue()
        good = [
            AuthorizeQuery(token, variant=Variant(server, view))
            for server in (None, "slack")
            for view in (ToolSetView.FULL, ToolSetView.BASIC, ToolSetView.NONE)
        ]
        good.append(AuthorizeQuery(token, tool_name=Name("slack", "slack_post_message")))
        for query in good:
            decision = await one.decide(query)
            lent = one.database.lent
            assert one.authorizer.grant(query) == decision.body
            assert one.database.lent == lent
        for query in (
            AuthorizeQuery(token, variant=Variant("", ToolSetView.BASIC)),
            AuthorizeQuery(token, variant=Variant("", ToolSetView.NONE)),
            AuthorizeQuery(token, variant=Variant("git", ToolSetView.FULL)),  # not made yet
            AuthorizeQuery(token, None, "x", variant=Variant("slack", ToolSetView.FULL)),
            AuthorizeQuery(token, tool_name=Name("", "slack_post_message")),
            AuthorizeQuery(
                token, tool_name=Name("slack", "slack_post_message"), variant=Variant(None, ToolSetView.FULL)
            ),
        ):
            assert one.authorizer.grant(query) is None, query


async def test_made_up_servers_take_no_memory(database_url: str) -> None:
    """However many a caller asks about; real ones are counted, and all is freed with the other tool sets."""
    async with process(database_url) as one:
        await one.apply(described())
        await one.follow()
        _, token = await one.issue()
        await one.decide(AuthorizeQuery(token, variant=Variant("slack", ToolSetView.FULL)))
        before = one.snapshots.weight
        for number in range(50):
            await one.decide(AuthorizeQuery(token, variant=Variant(f"s-{number}", ToolSetView.FULL)))
        assert one.snapshots.weight == before
        await one.decide(AuthorizeQuery(token, variant=Variant("git", ToolSetView.FULL)))
        assert one.snapshots.weight > before


@ONLY_GRPCIO
async def test_the_command_asks_by_name_server_and_view(service: Service, tmp_path: Path) -> None:
    """And shows texts line by line."""
    await service.operator.apply(described())
    token = (await service.operator.issue(hat_limit={"hat_ids": ["support-desk"]})).token
    command = CommandLine(service, tmp_path)
    found = await command.json("authorize", "--tool-name", "slack/slack_post_message", stdin=token)
    assert found["granted"]["tool"]["tool"]["id"] == "slack.post"
    found = await command.json("authorize", "--tool-name", "git/git_commit", stdin=token, code=1)
    assert found["denied"]["tool_name"] == {"mcp_server": "git", "name": "git_commit"}
    shown = await command("authorize", "--mcp-server", "slack", "--view", "full", stdin=token)
    assert shown.returncode == 0, shown.stderr
    lines = [line.strip() for line in shown.stdout.splitlines()]
    for text in ("About support-desk", "Wear support-desk", "with care", "About slack-replies"):
        assert text in lines
    found = await command.json("authorize", "--mcp-server", "web", stdin=token)
    assert list(found["granted"]["tool_set"]) == ["version"]
    shown = await command("authorize", "--view", "none", stdin=token)
    assert (shown.returncode, "tools" in shown.stdout) == (0, False)
    for arguments in (
        ("--tool", "a", "--tool-name", "a/b"),
        ("--tool-name", "a/b", "--mcp-server", "a"),
        ("--tool-name", "a"),
        ("--tool-name", "/a"),
        ("--mcp-server", ""),
        ("--view", "everything"),
        ("--tool", "a", "--view", "full"),
    ):
        done = await command("authorize", *arguments, stdin=token)
        assert (done.returncode, done.stdout) == (Exit.USAGE, ""), arguments
