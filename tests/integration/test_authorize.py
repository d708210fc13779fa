"""Authorize: decisions about tokens, and what the keys reach."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import pytest

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2, workspace_pb2
from skilder_keys.domain.ids import KeyId
from skilder_keys.domain.token import KeyType, Token
from tests.support.calls import call, delete_workspace, get_key, part, remove
from tests.support.fence import until_true
from tests.support.ids import new_key_id
from tests.support.service import Service, refusal, serving
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

ALL_HATS = ["customer-care", "engineer", "everyone", "support-desk"]


def hats(response: pb.AuthorizeResponse) -> list[str]:
    """Return the ids of the hats in a granted response."""
    assert response.granted.WhichOneof("reach") == "tool_set", response
    return [hat.id for hat in response.granted.tool_set.hats]


def tools(response: pb.AuthorizeResponse) -> list[str]:
    """Return the ids of the tools in a granted response."""
    assert response.granted.WhichOneof("reach") == "tool_set", response
    return [tool.id for tool in response.granted.tool_set.tools]


def workspace_without(list_name: str, *ids: str) -> workspace_pb2.Workspace:
    """Return `acme` without some members, hats or tools, and without links to them."""
    workspace = small_workspace()
    remove(getattr(workspace, list_name), *ids)
    return workspace


async def test_a_workspace_key_reaches_every_hat_and_every_active_tool_once(service: Service) -> None:
    """The whole way from key to tools; skills and tools that are shared appear once."""
    issued = await service.operator.issue()
    response = await service.service.authorize(issued.token)
    assert response.granted.key.id == issued.key.id
    assert response.granted.key.type == key_pb2.KEY_TYPE_WORKSPACE
    assert response.granted.key.workspace_id == "acme"
    assert response.granted.key.description == "Slack Support Bot"
    assert hats(response) == ALL_HATS
    assert [(tool.id, tool.name, tool.mcp_server) for tool in response.granted.tool_set.tools] == [
        ("git.commit", "git_commit", "git"),
        ("slack.history", "slack_get_channel_history", "slack"),
        ("slack.post", "slack_post_message", "slack"),
        ("web.search", "web_search", "web"),
    ]
    assert [(hat.id, list(hat.skill_ids)) for hat in response.granted.tool_set.hats] == [
        ("customer-care", ["slack-reading"]),
        ("engineer", ["code", "search"]),
        ("everyone", ["search"]),
        ("support-desk", ["slack-reading", "slack-replies"]),
    ]
    assert [(skill.id, list(skill.tool_ids)) for skill in response.granted.tool_set.skills] == [
        ("code", ["git.commit"]),
        ("search", ["web.search"]),
        ("slack-reading", ["slack.history"]),
        ("slack-replies", ["slack.history", "slack.post"]),
    ]


@pytest.mark.parametrize(
    ("user", "reached"),
    [
        ("ada", ["everyone"]),
        ("bob", ["customer-care", "everyone", "support-desk"]),
        ("cyd", ["engineer", "everyone"]),
    ],
)
@GRPCIO_IF_SHORT
async def test_a_user_key_reaches_the_hats_of_its_user(service: Service, user: str, reached: list[str]) -> None:
    """Hats for the whole workspace, of the user's teams, and of the teams above those."""
    issued = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id=user, actor=user)
    response = await service.service.authorize(issued.token)
    assert hats(response) == reached
    assert response.granted.key.user_id == user


@GRPCIO_IF_SHORT
async def test_a_runtime_key_is_granted_and_reaches_nothing(service: Service) -> None:
    """It authenticates an instance, not an agent: it has no hats and no tools, and is denied every single tool."""
    issued = await service.operator.issue(type=key_pb2.KEY_TYPE_RUNTIME, runtime_id="runtime-7")
    response = await service.service.authorize(issued.token)
    assert response.granted.key == pb.KeyIdentity(
        id=issued.key.id,
        type=key_pb2.KEY_TYPE_RUNTIME,
        workspace_id="acme",
        runtime_id="runtime-7",
        description="Slack Support Bot",
        expires_at=issued.key.expires_at,
        family_id=issued.key.id,
    )
    assert (hats(response), tools(response)) == ([], [])
    assert await service.service.denial(issued.token, tool_id="web.search") == "TOOL_NOT_ALLOWED"


@GRPCIO_IF_SHORT
async def test_a_limited_key_reaches_the_named_hats_only(service: Service) -> None:
    """And of those only the ones that its user would reach anyway."""
    workspace_key = await service.operator.issue(hat_limit={"hat_ids": ["everyone", "engineer"]})
    user_key = await service.operator.issue(
        type=key_pb2.KEY_TYPE_USER, user_id="bob", hat_limit={"hat_ids": ["engineer", "support-desk"]}
    )
    assert hats(await service.service.authorize(workspace_key.token)) == ["engineer", "everyone"]
    assert hats(await service.service.authorize(user_key.token)) == ["support-desk"]


@GRPCIO_IF_SHORT
async def test_a_removed_hat_narrows_a_limited_key_until_it_comes_back(service: Service) -> None:
    """The limit keeps the hat's id, and the next call after each apply sees the new state."""
    issued = await service.operator.issue(hat_limit={"hat_ids": ["everyone", "engineer"]})
    for _ in range(3):
        await service.operator.apply(workspace_without("hats", "engineer"))
        assert hats(await service.service.authorize(issued.token)) == ["everyone"]
        assert await service.service.denial(issued.token, tool_id="git.commit") == "TOOL_NOT_ALLOWED"
        await service.operator.apply(small_workspace())
        assert hats(await service.service.authorize(issued.token)) == ["engineer", "everyone"]
        assert (
            await service.service.authorize(issued.token, tool_id="git.commit")
        ).granted.tool.tool.id == "git.commit"
    key = await get_key(service.operator, issued.key.id)
    assert list(key.hat_limit.hat_ids) == ["engineer", "everyone"]


@GRPCIO_IF_SHORT
async def test_a_limited_key_that_lost_all_its_hats_reaches_nothing(service: Service) -> None:
    """It is still limited: to nothing, not to everything. It still shows the ids of its limit."""
    issued = await service.operator.issue(hat_limit={"hat_ids": ["engineer"]})
    await service.operator.apply(workspace_without("hats", "engineer"))
    response = await service.service.authorize(issued.token)
    assert (hats(response), tools(response)) == ([], [])
    key = await get_key(service.operator, issued.key.id)
    assert list(key.hat_limit.hat_ids) == ["engineer"]
    await service.operator.apply(small_workspace())
    assert hats(await service.service.authorize(issued.token)) == ["engineer"]


@GRPCIO_IF_SHORT
async def test_a_changed_hat_stays_with_a_limited_key(service: Service) -> None:
    """The limit is by hat id, whatever else about the hat changes."""
    issued = await service.operator.issue(hat_limit={"hat_ids": ["engineer"]})
    workspace = small_workspace()
    engineer = part(workspace.hats, "engineer")
    engineer.name = "Engineer, renamed"
    engineer.skill_ids[:] = ["search"]
    await service.operator.apply(workspace)
    response = await service.service.authorize(issued.token)
    assert [hat.name for hat in response.granted.tool_set.hats] == ["Engineer, renamed"]
    assert tools(response) == ["web.search"]


async def test_a_granted_tool_comes_with_every_way_in_order(service: Service) -> None:
    """A query about one tool returns that tool and all ways to it, and no tool set, whatever version the caller has."""
    issued = await service.operator.issue()
    response = await service.service.authorize(issued.token, tool_id="slack.history", tool_set_version="any")
    assert response.granted.key.id == issued.key.id
    assert response.granted.WhichOneof("reach") == "tool"
    assert response.granted.tool == pb.ToolGrant(
        tool=pb.ReachedTool(id="slack.history", name="slack_get_channel_history", mcp_server="slack"),
        paths=[
            pb.ToolPath(hat_id="customer-care", skill_id="slack-reading"),
            pb.ToolPath(hat_id="support-desk", skill_id="slack-reading"),
            pb.ToolPath(hat_id="support-desk", skill_id="slack-replies"),
        ],
        path_count=3,
        tool_set_version=(await service.service.authorize(issued.token)).granted.tool_set.version,
    )


@GRPCIO_IF_SHORT
async def test_a_granted_tool_comes_with_ten_paths_at_most(service: Service) -> None:
    """The first ones, and the number of all."""
    workspace = small_workspace()
    for number in range(12):
        workspace.hats.add(id=f"hat-{number:02}", name="Searcher", skill_ids=["search"], team_ids=["customer"])
    await service.operator.apply(workspace)
    issued = await service.operator.issue()
    tool = (await service.service.authorize(issued.token, tool_id="web.search")).granted.tool
    assert [path.hat_id for path in tool.paths] == ["engineer", "everyone", *(f"hat-{each:02}" for each in range(8))]
    assert {path.skill_id for path in tool.paths} == {"search"}
    assert tool.path_count == 14


async def test_a_tool_id_that_is_set_but_empty_is_refused(service: Service) -> None:
    """Whether the key is in memory, is not yet, or does not exist: it never means the whole tool set."""
    issued = await service.operator.issue()
    revoked = await service.operator.issue()
    await service.operator.revoke(key_id=revoked.key.id)
    for token in (issued.token, issued.token, revoked.token, "no token"):
        refused = await refusal(service.service.authorize(token, tool_id=""))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert list(refused.fields) == ["tool_id"]
        await service.service.authorize(token)


@pytest.mark.parametrize(
    "tool_id",
    [
        pytest.param("slack.post", id="of a hat the key does not reach"),
        pytest.param("git.push", id="disabled"),
        pytest.param("no.such.tool", id="unknown"),
    ],
)
async def test_a_tool_out_of_reach_is_denied(service: Service, tool_id: str) -> None:
    """The response names the key, since its token verified, but not the tools that it does reach."""
    issued = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="cyd")
    response = await service.service.authorize(issued.token, tool_id=tool_id)
    assert response == pb.AuthorizeResponse(
        denied=pb.Denied(
            reason=pb.DENIAL_REASON_TOOL_NOT_ALLOWED,
            message="The key does not reach this tool.",
            key_id=issued.key.id,
            tool_id=tool_id,
        )
    )


async def test_a_caller_with_the_current_version_gets_no_tools_again(service: Service) -> None:
    """The response has the version only; all else is as before."""
    issued = await service.operator.issue()
    first = await service.service.authorize(issued.token)
    version = first.granted.tool_set.version
    again = await service.service.authorize(issued.token, tool_set_version=version)
    assert again == pb.AuthorizeResponse(granted=pb.Granted(key=first.granted.key, tool_set_version=version))


async def test_a_caller_with_a_stale_version_gets_the_tools(service: Service) -> None:
    """A change that affects the key gives a new version; any other change does not."""
    issued = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob")
    first = await service.service.authorize(issued.token)
    version = first.granted.tool_set.version

    workspace = small_workspace()
    part(workspace.members, "bob").role = workspace_pb2.MEMBER_ROLE_ADMIN
    part(workspace.hats, "engineer").skill_ids.append("slack-replies")
    await service.operator.apply(workspace)
    same = await service.service.authorize(issued.token, tool_set_version=version)
    assert same.granted.WhichOneof("reach") == "tool_set_version"
    assert same.granted.tool_set_version == version

    part(workspace.tools, "slack.post").disabled = True
    await service.operator.apply(workspace)
    other = await service.service.authorize(issued.token, tool_set_version=version)
    assert tools(other) == ["slack.history", "web.search"]
    assert other.granted.tool_set.version != version


@GRPCIO_IF_SHORT
async def test_keys_of_equal_reach_share_a_version(transport: str, service: Service, tmp_path: Path) -> None:
    """On every server of the fleet. Keys of another reach have another version, and so get their own tools."""
    shared = [
        await service.operator.issue(),
        await service.operator.issue(description="Another agent"),
        await service.operator.issue(hat_limit={"hat_ids": ALL_HATS}),
    ]
    other = await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})
    versions = {(await service.service.authorize(each.token)).granted.tool_set.version for each in shared}
    (version,) = versions
    response = await service.service.authorize(other.token, tool_set_version=version)
    assert hats(response) == ["everyone"]
    assert response.granted.tool_set.version != version
    async with serving(service.database_url, tmp_path, transport=transport) as second:
        elsewhere = await second.service.authorize(shared[0].token)
    assert elsewhere.granted.tool_set.version == version


async def test_a_text_that_is_no_token_is_malformed(service: Service) -> None:
    """Whatever differs from the one valid spelling; no key is named."""
    token = (await service.operator.issue()).token
    other = "1" if token[40] == "0" else "0"
    spellings = [
        "",
        "WSK_",
        "hello",
        token[:-1],
        token + "0",
        f" {token}",
        f"{token}\n",
        f"{token}\x00",
        token.lower(),
        token.removeprefix("WSK_"),
        f"XSK_{token[4:]}",
        f"WSK-{token[4:]}",
        token[:40] + other + token[41:],
        token[:-1] + ("1" if token[-1] == "0" else "0"),
        "WSK_" + "z" * 71,
        "WSK_" + "\N{FULLWIDTH DIGIT ONE}" * 71,
        "\N{KEY}" * 75,
        "x" * 60_000,
    ]
    for spelling in spellings:
        response = await service.service.authorize(spelling, tool_id="web.search")
        assert response.denied == pb.Denied(
            reason=pb.DENIAL_REASON_MALFORMED,
            message="This is not a token: its length, characters, prefix or checksum are wrong.",
        ), repr(spelling[:100])


async def test_every_unknown_token_gets_the_same_bytes(service: Service) -> None:
    """An unknown id, a wrong secret and a wrong prefix look the same to the caller, even if the key was revoked."""
    issued = await service.operator.issue()
    revoked = await service.operator.issue()
    await service.operator.revoke(key_id=revoked.key.id)
    right = Token.parse(issued.token)
    unknown = [
        Token.mint(KeyType.WORKSPACE, new_key_id()),
        Token.mint(KeyType.WORKSPACE, right.key_id),
        Token.mint(KeyType.WORKSPACE, KeyId(UUID(revoked.key.id))),
        replace(right, type=KeyType.USER),
        replace(right, type=KeyType.RUNTIME),
    ]
    responses = {
        await call(service.service, "AuthorizationService/Authorize", pb.AuthorizeRequest(token=token.reveal()))
        for token in unknown
    }
    expected = pb.Denied(reason=pb.DENIAL_REASON_UNKNOWN, message="No key has this token.")
    assert responses == {pb.AuthorizeResponse(denied=expected).SerializeToString()}


async def test_a_revoked_key_is_denied_and_named(service: Service) -> None:
    """The response names the key, since its token verified."""
    issued = await service.operator.issue()
    await service.operator.revoke(key_id=issued.key.id)
    response = await service.service.authorize(issued.token)
    assert response.denied == pb.Denied(
        reason=pb.DENIAL_REASON_REVOKED, message="The key was revoked.", key_id=issued.key.id
    )


@GRPCIO_IF_SHORT
async def test_a_user_key_works_only_while_its_user_is_a_member(service: Service) -> None:
    """After a return it has the teams of the returned user. Other keys are not affected."""
    users = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob")
    workspaces = await service.operator.issue()
    await service.operator.apply(workspace_without("members", "bob"))
    response = await service.service.authorize(users.token, tool_id="web.search")
    assert response.denied == pb.Denied(
        reason=pb.DENIAL_REASON_MEMBER_REMOVED,
        message="The key's user is no longer a member of the workspace.",
        key_id=users.key.id,
    )
    assert hats(await service.service.authorize(workspaces.token)) == ALL_HATS
    returned = small_workspace()
    part(returned.members, "bob").team_ids[:] = ["engineering"]
    await service.operator.apply(returned)
    assert hats(await service.service.authorize(users.token)) == ["engineer", "everyone"]


@GRPCIO_IF_SHORT
async def test_a_key_of_a_deleted_workspace_is_denied(service: Service) -> None:
    """For every key type, and also where its user was removed with the workspace."""
    orders: list[dict[str, Any]] = [
        {},
        {"type": key_pb2.KEY_TYPE_USER, "user_id": "bob"},
        {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"},
    ]
    issued = [await service.operator.issue(**order) for order in orders]
    await delete_workspace(service.operator)
    for each in issued:
        response = await service.service.authorize(each.token, tool_id="web.search")
        assert response.denied == pb.Denied(
            reason=pb.DENIAL_REASON_WORKSPACE_GONE, message="The key's workspace was deleted.", key_id=each.key.id
        )


@GRPCIO_IF_SHORT
async def test_a_revocation_outranks_every_other_reason(service: Service) -> None:
    """A key that was revoked before or after its user or workspace went is denied as revoked."""
    before, after = [await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob") for _ in range(2)]
    await service.operator.revoke(key_id=before.key.id)
    await service.operator.apply(workspace_without("members", "bob"))
    assert await service.service.denial(before.token) == "REVOKED"
    await delete_workspace(service.operator)
    assert await service.service.denial(after.token) == "WORKSPACE_GONE"
    await service.operator.revoke(key_id=after.key.id)
    assert [await service.service.denial(each.token) for each in (before, after)] == ["REVOKED", "REVOKED"]


async def test_a_change_is_seen_by_the_very_next_call(service: Service) -> None:
    """Changed teams, tools and skills decide the next Authorize."""
    issued = await service.operator.issue(type=key_pb2.KEY_TYPE_USER, user_id="bob")
    workspace = small_workspace()
    for _ in range(5):
        part(workspace.members, "bob").team_ids[:] = ["engineering"]
        part(workspace.tools, "git.push").disabled = False
        await service.operator.apply(workspace)
        assert tools(await service.service.authorize(issued.token)) == ["git.commit", "git.push", "web.search"]
        part(workspace.tools, "git.push").disabled = True
        await service.operator.apply(workspace)
        assert await service.service.denial(issued.token, tool_id="git.push") == "TOOL_NOT_ALLOWED"
        part(workspace.members, "bob").team_ids[:] = []
        await service.operator.apply(workspace)
        assert hats(await service.service.authorize(issued.token)) == ["everyone"]


@GRPCIO_IF_SHORT
async def test_a_hash_is_renewed_when_the_parameters_changed(
    transport: str, service: Service, sql: asyncpg.Connection[Any], tmp_path: Path
) -> None:
    """Soon after the next success, on any server. The token stays valid everywhere; a current hash is left alone."""
    issued = await service.operator.issue()

    async def secret_hash() -> str:
        return str(await sql.fetchval("SELECT secret_hash FROM key WHERE id = $1", UUID(issued.key.id)))

    first = await secret_hash()
    assert first.startswith("$argon2id$v=19$m=256,t=1,p=1$")
    assert hats(await service.service.authorize(issued.token)) == ALL_HATS
    assert await secret_hash() == first
    async with serving(service.database_url, tmp_path, transport=transport, argon2_memory_kib=2048) as second:
        wrong = Token.mint(KeyType.WORKSPACE, Token.parse(issued.token).key_id)
        assert await second.service.denial(wrong.reveal()) == "UNKNOWN"
        assert await secret_hash() == first
        assert hats(await second.service.authorize(issued.token)) == ALL_HATS
        await until_true(sql, "SELECT secret_hash <> $1 FROM key", first)
        renewed = await secret_hash()
        assert renewed.startswith("$argon2id$v=19$m=2048,t=1,p=1$")
        assert hats(await second.service.authorize(issued.token)) == ALL_HATS
        assert await secret_hash() == renewed
    assert hats(await service.service.authorize(issued.token)) == ALL_HATS
