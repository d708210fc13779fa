"""ExplainKey and ListToolUsers: what keys reach and why, and who reaches a tool; the same as Authorize decides."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1 import authorization_service_pb2, key_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder.keys.v1.common_pb2 import ToolName
from skilder_keys.app import explanations, tool_users
from tests.support.calls import delete_workspace, get_key, part, remove
from tests.support.command_line import CommandLine
from tests.support.lengths import by_form
from tests.support.random_workspaces import random_workspace
from tests.support.service import refusal, serving
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from pathlib import Path

    from skilder.keys.v1.workspace_pb2 import Tool, Workspace
    from tests.support.service import Client, Service

GRANTED = authorization_service_pb2.DENIAL_REASON_UNSPECIFIED
NOT_ALLOWED = authorization_service_pb2.DENIAL_REASON_TOOL_NOT_ALLOWED
POST = ToolName(mcp_server="slack", name="slack_post_message")


async def explain(client: Client, key_id: str, page_size: int = 0, **fields: Any) -> pb.ExplainKeyResponse:
    """Explain a key, with the tools of all pages."""
    request = pb.ExplainKeyRequest(key_id=key_id, page_size=page_size, **fields)
    whole: pb.ExplainKeyResponse = await client.keys.ExplainKey(request)
    token = whole.next_page_token
    while token:
        request.page_token = token
        page = await client.keys.ExplainKey(request)
        assert (page.key, page.denial, list(page.hats)) == (whole.key, whole.denial, [])
        whole.tools.extend(page.tools)
        token = page.next_page_token
    whole.next_page_token = ""
    return whole


async def users(client: Client, page_size: int = 0, **fields: Any) -> list[pb.ToolUser]:
    """Return the users of a tool, of all pages."""
    defaults: dict[str, Any] = {"workspace_id": "acme", "page_size": page_size}
    request = pb.ListToolUsersRequest(**defaults | fields)
    found: list[pb.ToolUser] = []
    while True:
        page = await client.keys.ListToolUsers(request)
        assert len(page.users) <= (page_size or 100)
        found += page.users
        request.page_token = page.next_page_token
        if not request.page_token:
            return found


def reaches(found: pb.ExplainKeyResponse) -> dict[str, str]:
    """Return how each hat is reached."""
    return {hat.hat_id: pb.HatReach.Name(hat.reach).removeprefix("HAT_REACH_") for hat in found.hats}


def names(found: list[pb.ToolUser]) -> list[str]:
    """Return the members and the descriptions of the keys."""
    return [user.user_id or user.key.description for user in found]


@GRPCIO_IF_SHORT
async def test_a_user_key_is_explained(service: Service) -> None:
    """By the teams of its user, from the bottom up, and by its limit."""
    issued = await service.operator.issue(
        type=key_pb2.KEY_TYPE_USER, user_id="bob", hat_limit={"hat_ids": ["customer-care", "engineer", "everyone"]}
    )
    found = await explain(service.operator, issued.key.id)
    assert found.key == issued.key
    assert found.denial == GRANTED
    assert reaches(found) == {
        "customer-care": "TEAM",
        "engineer": "NO_TEAM",
        "everyone": "WORKSPACE",
        "support-desk": "OUTSIDE_LIMIT",
    }
    assert {hat.hat_id: list(hat.team_ids) for hat in found.hats if hat.team_ids} == {
        "customer-care": ["support", "customer"]
    }
    assert [(tool.id, tool.name, tool.mcp_server) for tool in found.tools] == [
        ("slack.history", "slack_get_channel_history", "slack"),
        ("web.search", "web_search", "web"),
    ]
    assert not found.HasField("tool")


@GRPCIO_IF_SHORT
async def test_a_tool_is_explained_by_id_and_by_name(service: Service) -> None:
    """With the grant that Authorize would give, or its denial; tools are not listed then."""
    issued = await service.operator.issue(hat_limit={"hat_ids": ["support-desk"]})
    by_id = await explain(service.operator, issued.key.id, tool_id="slack.post")
    assert by_id == await explain(service.operator, issued.key.id, tool_name=POST)
    granted = (await service.service.authorize(issued.token, tool_id="slack.post")).granted.tool
    granted.tool_set_version = ""
    assert (by_id.denial, by_id.tool, list(by_id.tools)) == (GRANTED, granted, [])
    for tool in ("git.commit", "git.push", "no.such.tool"):
        found = await explain(service.operator, issued.key.id, tool_id=tool)
        assert (found.denial, found.HasField("tool")) == (NOT_ALLOWED, False)


async def until_expired(service: Service, key_id: str) -> None:
    """Wait until a key has expired."""
    async with asyncio.timeout(60):
        while (await get_key(service.operator, key_id)).state != key_pb2.KEY_STATE_EXPIRED:
            await asyncio.sleep(0.05)


@GRPCIO_IF_SHORT
async def test_what_stands_in_the_way(service: Service) -> None:
    """A key that cannot be used is denied for the same reason as by Authorize, and its hats are told all the same."""
    await service.operator.apply(small_workspace("gone"))
    revoked = await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})
    await service.operator.revoke(key_id=revoked.key.id)
    left = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="cyd")
    gone = await service.operator.issue(workspace_id="gone")
    suspended = await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})
    await service.operator.keys.SuspendKey(pb.SuspendKeyRequest(key_id=suspended.key.id))
    expired = await service.operator.issue(
        hat_limit={"hat_ids": ["everyone"]}, lifetime=Duration(seconds=1), description="expires"
    )
    await until_expired(service, expired.key.id)
    workspace = small_workspace()
    remove(workspace.members, "cyd")
    await service.operator.apply(workspace)
    await delete_workspace(service.operator, "gone")
    cases = [(each, ["web.search"]) for each in (revoked, left, suspended, expired)]
    for issued, tools in [*cases, (gone, [])]:
        denied = (await service.service.authorize(issued.token)).denied.reason
        for tool in (None, "web.search"):
            found = await explain(service.operator, issued.key.id, tool_id=tool)
            assert (found.denial, found.HasField("tool")) == (denied, False)
            assert denied != GRANTED
        found = await explain(service.operator, issued.key.id)
        assert [tool.id for tool in found.tools] == tools
    assert names(await users(service.operator, tool_id="web.search")) == ["ada", "bob"], "no key can be used"


@GRPCIO_IF_SHORT
async def test_a_runtime_key_reaches_nothing(service: Service) -> None:
    """It belongs to no agent, so no hat is explained."""
    issued = await service.operator.issue(type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="r")
    found = await explain(service.operator, issued.key.id)
    assert (list(found.hats), list(found.tools), found.denial) == ([], [], GRANTED)
    assert (await explain(service.operator, issued.key.id, tool_id="web.search")).denial == NOT_ALLOWED


@GRPCIO_IF_SHORT
async def test_tools_come_in_pages(service: Service) -> None:
    """Each once, in order; a token is good for the same key, tool and actor only."""
    issued, other = await service.operator.issue(), await service.operator.issue()
    whole = await explain(service.operator, issued.key.id)
    assert [tool.id for tool in whole.tools] == ["git.commit", "slack.history", "slack.post", "web.search"]
    for size in (1, 2, 3, 4, 1000):
        assert await explain(service.operator, issued.key.id, size) == whole
    first = await service.operator.keys.ExplainKey(pb.ExplainKeyRequest(key_id=issued.key.id, page_size=1))
    for fields in ({"key_id": other.key.id}, {"tool_id": "web.search"}, {"actor": "ada"}):
        request = pb.ExplainKeyRequest(**{"key_id": issued.key.id, "page_token": first.next_page_token} | fields)
        assert list((await refusal(service.operator.keys.ExplainKey(request))).fields) == ["page_token"]


@GRPCIO_IF_SHORT
async def test_a_person_sees_their_own(service: Service) -> None:
    """An admin everything; others their own user keys, and themselves."""
    own = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob", description="of bob")
    shared = await service.operator.issue(description="shared")
    assert (await explain(service.console, own.key.id, actor="bob")).key == own.key
    for key_id, actor, reason in (
        (own.key.id, "cyd", "ACTOR_NOT_ALLOWED"),
        (shared.key.id, "bob", "ACTOR_NOT_ALLOWED"),
        (shared.key.id, "nobody", "ACTOR_NOT_MEMBER"),
    ):
        refused = await refusal(service.console.keys.ExplainKey(pb.ExplainKeyRequest(key_id=key_id, actor=actor)))
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)
    assert names(await users(service.console, tool_id="slack.history", actor="ada")) == ["bob", "shared", "of bob"]
    for size in (0, 1):
        found = await users(service.console, size, tool_id="slack.history", actor="bob")
        assert names(found) == ["bob", "of bob"]
        assert names(await users(service.console, size, tool_id="slack.history", actor="cyd")) == []
    request = pb.ListToolUsersRequest(workspace_id="acme", tool_id="slack.history", actor="nobody")
    assert (await refusal(service.console.keys.ListToolUsers(request))).reason == "ACTOR_NOT_MEMBER"


@GRPCIO_IF_SHORT
async def test_the_users_of_a_tool_are_listed_with_their_paths(service: Service) -> None:
    """Members first; then keys that can be used, newest first."""
    for number in range(3):
        await service.operator.issue(description=f"all {number}")
    await service.operator.issue(description="limited", hat_limit={"hat_ids": ["customer-care"]})
    await service.operator.issue(description="elsewhere", hat_limit={"hat_ids": ["engineer"]})
    await service.operator.issue(description="of cyd", type=key_pb2.KEY_TYPE_USER, user_id="cyd")
    revoked = await service.operator.issue(description="revoked")
    await service.operator.revoke(key_id=revoked.key.id)
    await service.operator.issue(description="runtime", type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="r")
    whole = await users(service.operator, tool_id="slack.history")
    assert names(whole) == ["bob", "limited", "all 2", "all 1", "all 0"]
    assert [(path.hat_id, path.skill_id) for path in whole[0].paths] == [
        ("customer-care", "slack-reading"),
        ("support-desk", "slack-reading"),
        ("support-desk", "slack-replies"),
    ]
    assert [(path.hat_id, path.skill_id) for path in whole[1].paths] == [("customer-care", "slack-reading")]
    for size in range(1, 7):
        assert await users(service.operator, size, tool_id="slack.history") == whole
    name = ToolName(mcp_server="slack", name="slack_get_channel_history")
    assert await users(service.operator, tool_name=name) == whole
    assert names(await users(service.operator, tool_id="web.search"))[:3] == ["ada", "bob", "cyd"]
    assert await users(service.operator, tool_id="git.push") == [], "it is disabled"


@GRPCIO_IF_SHORT
@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"workspace_id": "nowhere"}, "WORKSPACE_NOT_FOUND"),
        ({"tool_id": "no.such.tool"}, "TOOL_NOT_FOUND"),
        ({"tool_id": None, "tool_name": ToolName(mcp_server="git", name="slack_post_message")}, "TOOL_NOT_FOUND"),
    ],
)
async def test_what_is_not_there_is_not_found(service: Service, fields: dict[str, Any], reason: str) -> None:
    """The workspace or the tool, whoever asks."""
    request = pb.ListToolUsersRequest(**{"workspace_id": "acme", "tool_id": "web.search"} | fields)
    refused = await refusal(service.operator.keys.ListToolUsers(request))
    assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, reason)


@GRPCIO_IF_SHORT
@pytest.mark.parametrize(
    ("fields", "invalid"),
    [
        ({"tool_id": ""}, "tool_id"),
        ({"tool_name": ToolName(mcp_server="slack")}, "tool_name.name"),
        ({"tool_name": ToolName(name="slack")}, "tool_name.mcp_server"),
        ({"tool_id": "web.search", "page_size": -1}, "page_size"),
        ({"tool_id": "web.search", "page_token": "abc"}, "page_token"),
    ],
)
async def test_bad_fields_are_named(service: Service, fields: dict[str, Any], invalid: str) -> None:
    """Of both methods."""
    key_id = (await service.operator.issue()).key.id
    keys = service.operator.keys
    for call in (
        keys.ExplainKey(pb.ExplainKeyRequest(key_id=key_id, **fields)),
        keys.ListToolUsers(pb.ListToolUsersRequest(workspace_id="acme", **fields)),
    ):
        assert list((await refusal(call)).fields) == [invalid]
    assert list((await refusal(keys.ListToolUsers(pb.ListToolUsersRequest(workspace_id="acme")))).fields) == ["tool"]


@GRPCIO_IF_SHORT
async def test_the_source_is_explained(service: Service) -> None:
    """As Authorize decides: before the tool, and also where the address is missing."""
    issued = await service.operator.issue(
        hat_limit={"hat_ids": ["everyone"]}, network_limit={"networks": ["10.0.0.0/8", "2001:db8::/32"]}
    )
    for source in ("", "10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1", "192.0.2.1", "2001:db9::1"):
        for tool in (None, "web.search", "git.commit"):
            decided = await service.service.authorize(issued.token, source_ip=source, tool_id=tool)
            found = await explain(service.operator, issued.key.id, source_ip=source, tool_id=tool)
            assert found.denial == decided.denied.reason, (source, tool)
            assert [each.id for each in found.tools] == ([] if tool else ["web.search"])
    for source in ("10.1.2", "10.0.0.0/8", "localhost", "10.1.2.3:80"):
        request = pb.ExplainKeyRequest(key_id=issued.key.id, source_ip=source)
        assert list((await refusal(service.operator.keys.ExplainKey(request))).fields) == ["source_ip"]


async def some_keys(service: Service, source: random.Random, workspace: Workspace) -> dict[str, str]:
    """Issue keys of every kind in a workspace, and return their tokens by their ids."""
    hats = [hat.id for hat in workspace.hats]
    tokens = {}
    for number in range(16):
        fields: dict[str, Any] = {"workspace_id": workspace.id, "description": f"{number}"}
        kind = source.choice(["workspace", "user", "user", "runtime"])
        if kind == "user":
            fields |= {"type": key_pb2.KEY_TYPE_USER, "user_id": source.choice(workspace.members).user_id}
        elif kind == "runtime":
            fields |= {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": f"r{number}"}
        if kind != "runtime" and source.random() < 0.6:
            fields["hat_limit"] = {"hat_ids": source.sample(hats, source.randint(0, len(hats)))}
        issued = await service.operator.issue(**fields)
        tokens[issued.key.id] = issued.token
        if source.random() < 0.1:
            await service.operator.revoke(key_id=issued.key.id)
        elif source.random() < 0.1:
            await service.operator.keys.SuspendKey(pb.SuspendKeyRequest(key_id=issued.key.id))
    return tokens


async def agree_about_everything(service: Service, key_id: str, token: str) -> None:
    """Compare what a key reaches."""
    decided = await service.service.authorize(token)
    found = await explain(service.operator, key_id, 2)
    assert found.denial == decided.denied.reason
    if decided.HasField("granted"):
        assert list(found.tools) == list(decided.granted.tool_set.tools)
        reached = [hat.hat_id for hat in found.hats if hat.reach in (pb.HAT_REACH_WORKSPACE, pb.HAT_REACH_TEAM)]
        assert reached == [hat.id for hat in decided.granted.tool_set.hats]


async def agree_about_a_tool(service: Service, key_id: str, token: str, tool: Tool) -> list[Any]:
    """Compare the verdicts about a tool, and return the paths of the grant; none for a denial."""
    decided = await service.service.authorize(token, tool_id=tool.id)
    if decided.HasField("granted"):
        decided.granted.tool.tool_set_version = ""
    by_id = await explain(service.operator, key_id, tool_id=tool.id)
    name = ToolName(mcp_server=tool.mcp_server, name=tool.name)
    assert by_id == await explain(service.operator, key_id, tool_name=name)
    assert by_id.denial == decided.denied.reason, (tool.id, key_id)
    assert by_id.tool == decided.granted.tool
    return list(by_id.tool.paths)


@ONLY_GRPCIO
@pytest.mark.parametrize("seed", by_form([None], [None] * 4, [None] * 10))
async def test_explanations_agree_with_authorize(service: Service, seed: int | None) -> None:
    """For random workspaces, members who left, and keys with random limits: each verdict, each tool, each path."""
    seed = random.SystemRandom().randrange(2**32) if seed is None else seed
    print(f"seed {seed}")  # noqa: T201 - pytest shows it where the test fails
    source = random.Random(seed)  # noqa: S311 - chance, not a secret
    workspace = random_workspace(source, "random")
    await service.operator.apply(workspace)
    tokens = await some_keys(service, source, workspace)
    for member in source.sample(list(workspace.members), 2):
        workspace.members.remove(member)
    for hat in source.sample(list(workspace.hats), source.randint(0, 1)):
        workspace.hats.remove(hat)
    await service.operator.apply(workspace, max_removals=10)
    probes = {}
    for member in workspace.members:
        issued = await service.operator.issue(workspace_id="random", type=key_pb2.KEY_TYPE_USER, user_id=member.user_id)
        probes[member.user_id] = tokens[issued.key.id] = issued.token

    for key_id, token in tokens.items():
        await agree_about_everything(service, key_id, token)
    for tool in workspace.tools:
        agreed = {key_id: await agree_about_a_tool(service, key_id, token, tool) for key_id, token in tokens.items()}
        grants = {key_id: paths for key_id, paths in agreed.items() if paths}
        listed = await users(service.operator, 3, workspace_id="random", tool_id=tool.id)
        assert {user.key.id: list(user.paths) for user in listed if user.HasField("key")} == grants
        granted = {
            user
            for user, token in probes.items()
            if (await service.service.authorize(token, tool_id=tool.id)).HasField("granted")
        }
        assert [user.user_id for user in listed if user.user_id] == sorted(granted)


async def test_a_page_ends_where_enough_was_looked_at(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However few of those that were looked at reach the tool, or are reached: the pages together are complete."""
    async with serving(database_url, tmp_path, transport="grpcio") as served:
        await served.operator.apply(small_workspace())
        key_ids = []
        for number in range(7):
            hat_id = "support-desk" if number % 3 == 0 else "engineer"
            issued = await served.operator.issue(description=f"{number}", hat_limit={"hat_ids": [hat_id]})
            key_ids.append(issued.key.id)
        found = [await explain(served.operator, key_id) for key_id in key_ids]
        who = await users(served.operator, tool_id="slack.post")
        assert names(who) == ["bob", "6", "3", "0"]
        for searched in (1, 2, 3):
            monkeypatch.setattr(explanations, "_SEARCHED", searched)
            monkeypatch.setattr(tool_users, "_SEARCHED", searched)
            for size in (0, 1, 2):
                assert [await explain(served.operator, key_id, size) for key_id in key_ids] == found
                assert await users(served.operator, size, tool_id="slack.post") == who
            first = await served.operator.keys.ListToolUsers(
                pb.ListToolUsersRequest(workspace_id="acme", tool_id="slack.post")
            )
            assert len(first.users) < len(who), "so that a call is short"


@ONLY_GRPCIO
async def test_it_reads_one_state_of_the_database(service: Service) -> None:
    """At once after a change, whatever the process remembers, also a change by hand."""
    issued = await service.operator.issue()
    assert len((await explain(service.operator, issued.key.id)).tools) == 4
    changed = small_workspace()
    part(changed.tools, "web.search").disabled = True
    await service.operator.apply(changed)
    assert len((await explain(service.operator, issued.key.id)).tools) == 3
    assert await users(service.operator, tool_id="web.search") == []


@ONLY_GRPCIO
async def test_the_commands(service: Service, tmp_path: Path) -> None:
    """As tables and as JSON, by the key's hint too."""
    issued = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob", description="of bob")
    command = CommandLine(service, tmp_path)
    shown = await command("keys", "explain", issued.key.hint, "-w", "acme")
    assert shown.returncode == 0, shown.stderr
    lines = [line.split("\t") for line in shown.stdout.splitlines()]
    assert ["customer-care", "Customer Care", "team", "support < customer"] in lines
    assert ["engineer", "Engineer", "no_team", "-"] in lines
    assert ["slack.post", "slack_post_message", "slack"] in lines
    assert ["denied", "-"] in lines
    about = ("keys", "explain", issued.key.id, "--tool-name")
    assert (await command.json(*about, "slack/slack_post_message"))["tool"]["path_count"] == 1
    assert (await command.json(*about, "git/git_commit"))["denial"] == "DENIAL_REASON_TOOL_NOT_ALLOWED"
    listed = await command("workspace", "tool", "users", "acme", "--tool", "slack.post")
    assert [line.split("\t")[:3] for line in listed.stdout.splitlines()] == [
        ["user", "kind", "description"],
        ["bob", "member", "-"],
        [issued.key.id, "key", "of bob"],
    ]
    found = await command.json("workspace", "tool", "users", "acme", "--tool", "slack.post", "--actor", "bob")
    assert [user.get("user_id", "key") for user in found["users"]] == ["bob", "key"]
    for arguments in ((), ("--tool", "a", "--tool-name", "a/b"), ("--tool-name", "a"), ("--tool", "")):
        done = await command("workspace", "tool", "users", "acme", *arguments)
        assert (done.returncode, done.stdout) == (2, ""), arguments
