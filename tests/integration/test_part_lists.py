"""ListMembers, ListHats and ListTools: what they list, by which filter, and for whom."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1.workspace_pb2 import (
    HAT_AUDIENCE_WORKSPACE,
    MEMBER_ROLE_EDITOR,
    MEMBER_ROLE_VIEWER,
    Hat,
    HatSummary,
    Member,
    Tool,
    Workspace,
)
from tests.support.calls import delete_workspace, get_workspace, id_of, list_parts
from tests.support.effects import whole_workspace
from tests.support.service import refusal
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import example_workspace, small_workspace

if TYPE_CHECKING:
    from tests.support.service import Client, Service

pytestmark = GRPCIO_IF_SHORT
PARTS = ("members", "hats", "tools")


async def pages(client: Client, parts: str, **fields: Any) -> list[list[str]]:
    """Return the ids on each page."""
    found: list[list[str]] = []
    while True:
        page = await list_parts(client, parts, **fields)
        found.append([id_of(each) for each in getattr(page, parts)])
        if not page.next_page_token:
            return found
        fields["page_token"] = page.next_page_token


async def ids(client: Client, parts: str, **fields: Any) -> list[str]:
    """Return the ids on all pages."""
    return [each for page in await pages(client, parts, **fields) for each in page]


@pytest.mark.parametrize("parts", PARTS)
async def test_a_list_has_what_the_workspace_has(service: Service, parts: str) -> None:
    """In the same order, with the same fields, but for the instructions of hats."""
    workspace = whole_workspace()
    workspace.hats.extend(Hat(id=f"a:@/+|{n}", name="N" * 128, description="D") for n in range(3))
    workspace.tools.extend(
        Tool(id=f"{n} | o'brien 100%_x {'工' * 230}", name=f"工{n}", mcp_server="m") for n in range(3)
    )
    await service.operator.apply(workspace)
    whole = (await get_workspace(service.operator)).workspace
    expected = list(getattr(whole, parts))
    if parts == "hats":
        for hat in expected:
            hat.instructions = ""
        expected = [HatSummary.FromString(hat.SerializeToString()) for hat in expected]
    assert list(getattr(await list_parts(service.operator, parts), parts)) == expected
    for size in (1, 2, 7):
        assert await ids(service.operator, parts, page_size=size) == [id_of(each) for each in expected]


async def test_members_are_chosen(service: Service) -> None:
    """By words in the user id, by their own team, and by role; each condition narrows."""
    workspace = small_workspace()
    workspace.members.add(user_id="Bob.Müller@acme.example", role=MEMBER_ROLE_VIEWER, team_ids=["customer", "support"])
    await service.operator.apply(workspace)
    client = service.operator
    assert await ids(client, "members", text="BOB") == ["Bob.Müller@acme.example", "bob"]
    assert await ids(client, "members", text="example mu\u0308LL") == ["Bob.Müller@acme.example"]
    assert await ids(client, "members", team_id="support") == ["Bob.Müller@acme.example", "bob"]
    assert await ids(client, "members", team_id="customer") == ["Bob.Müller@acme.example"]
    assert await ids(client, "members", team_id="nowhere") == []
    assert await ids(client, "members", role=MEMBER_ROLE_VIEWER) == ["Bob.Müller@acme.example", "cyd"]
    assert await ids(client, "members", role=MEMBER_ROLE_EDITOR, team_id="support", text="b") == ["bob"]
    assert await ids(client, "members", role=MEMBER_ROLE_EDITOR, team_id="support", text="m") == []
    assert await ids(client, "members", team_id="support", page_size=1) == ["Bob.Müller@acme.example", "bob"]


async def test_hats_are_chosen_by_words(service: Service) -> None:
    """In the id or the name, not in the description."""
    assert await ids(service.operator, "hats", text="CARE") == ["customer-care"]
    assert await ids(service.operator, "hats", text="desk support") == ["support-desk"]
    assert await ids(service.operator, "hats", text="e", page_size=1) == [
        "customer-care",
        "engineer",
        "everyone",
        "support-desk",
    ]
    assert await ids(service.operator, "hats", text="What it is for") == []


async def test_tools_are_chosen(service: Service) -> None:
    """By words in the id or the name, by MCP server, and by skill; disabled ones are listed too."""
    client = service.operator
    assert await ids(client, "tools", text="Channel history") == ["slack.history"]
    assert await ids(client, "tools", mcp_server="git") == ["git.commit", "git.push"]
    assert await ids(client, "tools", mcp_server="GIT") == []
    assert await ids(client, "tools", skill_id="slack-replies") == ["slack.history", "slack.post"]
    assert await ids(client, "tools", skill_id="slack-replies", page_size=1) == ["slack.history", "slack.post"]
    assert await ids(client, "tools", skill_id="slack-replies", text="post", mcp_server="slack") == ["slack.post"]
    assert await ids(client, "tools", skill_id="slack-replies", mcp_server="web") == []
    assert await ids(client, "tools", text="%") == await ids(client, "tools", text="git%push") == []


async def reached(service: Service, user: str) -> list[str]:
    """Return the hats that a key of a user reaches, as Authorize says."""
    issued = await service.operator.issue(type="KEY_TYPE_USER", user_id=user)
    granted = (await service.service.authorize(issued.token)).granted
    return [hat.id for hat in granted.tool_set.hats]


async def test_the_hats_of_a_user_are_those_that_their_keys_reach(service: Service) -> None:
    """Also in a tree of ten teams, and of whom is in no team; of nobody else there are any."""
    workspace = small_workspace()
    for level in range(10):
        workspace.teams.add(id=f"l{level}", name="L", parent_id=f"l{level - 1}" if level else "")
        workspace.hats.add(id=f"hat-{level}", name="H", team_ids=[f"l{level}"], skill_ids=["search"])
    workspace.hats.add(id="nobody", name="Nobody")
    workspace.members.extend(
        Member(user_id=f"user-{level}", role=MEMBER_ROLE_VIEWER, team_ids=[f"l{level}"]) for level in (0, 4, 9)
    )
    workspace.members.add(user_id="both", role=MEMBER_ROLE_VIEWER, team_ids=["l3", "support"])
    await service.operator.apply(workspace)
    for user in ("ada", "bob", "cyd", "user-0", "user-4", "user-9", "both"):
        assert await ids(service.operator, "hats", user_id=user, page_size=3) == await reached(service, user), user
    assert await ids(service.operator, "hats", user_id="nobody") == []
    assert await ids(service.operator, "hats", user_id="both", text="hat") == [f"hat-{level}" for level in range(4)]
    assert "everyone" in await ids(service.operator, "hats", user_id="ada")


async def test_a_hat_for_everybody_is_for_members_only(service: Service) -> None:
    """A key of somebody who left reaches nothing."""
    workspace = small_workspace()
    workspace.hats.add(id="public", name="Public", audience=HAT_AUDIENCE_WORKSPACE)
    await service.operator.apply(workspace)
    assert await ids(service.operator, "hats", user_id="mallory") == []
    assert await ids(service.operator, "hats", user_id="ada") == ["everyone", "public"]


@pytest.mark.parametrize("parts", PARTS)
async def test_only_members_see_the_parts(service: Service, parts: str) -> None:
    """All of them, whatever their role, of one workspace only."""
    await service.operator.apply(Workspace(id="empty", name="Empty"))
    everything = await ids(service.operator, parts)
    assert len(everything) > 2
    for actor in ("ada", "bob", "cyd"):
        assert await ids(service.console, parts, actor=actor) == everything
    assert await ids(service.auditor, parts) == everything
    assert (await refusal(list_parts(service.console, parts, actor="mallory"))).reason == "ACTOR_NOT_MEMBER"
    assert (await refusal(list_parts(service.console, parts))).reason == "ACTOR_REQUIRED"
    assert (await refusal(list_parts(service.service, parts))).reason == "CALLER_NOT_ALLOWED"
    assert await ids(service.operator, parts, workspace_id="empty") == []
    assert (await refusal(list_parts(service.operator, parts, workspace_id="no"))).reason == "WORKSPACE_NOT_FOUND"
    await delete_workspace(service.operator)
    assert (await refusal(list_parts(service.operator, parts))).reason == "WORKSPACE_NOT_FOUND"


@pytest.mark.parametrize(
    ("parts", "field", "value"),
    [
        *((parts, "text", value) for parts in PARTS for value in ("x" * 256, " ", "a\nb")),
        *((parts, "workspace_id", "a b") for parts in PARTS),
        ("members", "team_id", "a b"),
        ("hats", "user_id", " ada"),
        ("tools", "mcp_server", " slack"),
        ("tools", "skill_id", "a b"),
    ],
)
@TOGETHER_IF_SHORT
async def test_an_invalid_condition_is_refused_by_its_field(
    service: Service, parts: str, field: str, value: str
) -> None:
    """It never means no condition."""
    refused = await refusal(list_parts(service.operator, parts, **{field: value}))
    assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, [field])


async def test_a_search_finds_a_few_of_very_many(service: Service) -> None:
    """A page ends after 2,000 tools that were looked at, with those found among them; the next one goes on there."""
    workspace = small_workspace()
    workspace.tools.extend(Tool(id=f"t{n:05}", name=f"n{n}", mcp_server="m") for n in range(9000))
    await service.operator.apply(workspace)
    tools = sorted(each.id for each in workspace.tools)
    for text, size in (("T0 777", 3), ("777", 5), ("777", 1), ("web_SEARCH", 1), ("nowhere", 1000)):
        expected = [each for each in tools if all(word in each.upper() for word in text.upper().split())]
        if text == "web_SEARCH":
            expected = ["web.search"]
        by_page = await pages(service.operator, "tools", text=text, page_size=size)
        assert [each for page in by_page for each in page] == expected
        assert all(len(page) <= size for page in by_page)
        assert len(by_page) <= len(tools) // 2000 + 1 + len(expected) // size
    assert await pages(service.operator, "tools", text="nowhere") == [[]] * 5
    assert len(await pages(service.operator, "tools", page_size=1000)) == 10


async def test_the_example_is_searched_as_people_do(service: Service) -> None:
    """Its hats and tools by words of their names."""
    workspace = example_workspace()
    workspace.id = "example"
    await service.operator.apply(workspace)
    for tool in workspace.tools:
        assert tool.id in await ids(service.operator, "tools", workspace_id="example", text=tool.name.upper())
    for hat in workspace.hats:
        words = " ".join(reversed(hat.name.swapcase().split()))
        assert hat.id in await ids(service.operator, "hats", workspace_id="example", text=words)
