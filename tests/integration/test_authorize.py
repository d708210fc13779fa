"""Authorize: verdicts on tokens, and what they reach."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from skilder.keys.v1 import key_pb2

if TYPE_CHECKING:
    from skilder.keys.v1 import authorization_service_pb2 as pb
    from tests.support.service import Service


def hats(response: pb.AuthorizeResponse) -> list[str]:
    """Answers the ids of the hats a granted response reaches."""
    return [hat.id for hat in response.granted.tool_set.hats]


async def test_a_workspace_key_reaches_every_hat_and_every_active_tool_once(service: Service) -> None:
    """The whole way from key to tools, with skills and tools that are shared told once."""
    issued = await service.console.issue()
    response = await service.service.authorize(issued.token)
    assert response.granted.key.id == issued.key.id
    assert response.granted.key.type == key_pb2.KEY_TYPE_WORKSPACE
    assert response.granted.key.workspace_id == "acme"
    assert response.granted.key.description == "Slack Support Bot"
    assert hats(response) == ["customer-care", "engineer", "everyone", "support-desk"]
    tools = [(tool.id, tool.name, tool.mcp_server) for tool in response.granted.tool_set.tools]
    assert tools == [
        ("git.commit", "git_commit", "git"),
        ("slack.history", "slack_get_channel_history", "slack"),
        ("slack.post", "slack_post_message", "slack"),
        ("web.search", "web_search", "web"),
    ]
    (engineer,) = [hat for hat in response.granted.tool_set.hats if hat.id == "engineer"]
    assert [(skill.id, list(skill.tool_ids)) for skill in engineer.skills] == [
        ("code", ["git.commit"]),
        ("search", ["web.search"]),
    ]


@pytest.mark.parametrize(
    ("user", "reached"),
    [
        ("ada", ["everyone"]),
        ("bob", ["customer-care", "everyone", "support-desk"]),
        ("cyd", ["engineer", "everyone"]),
    ],
)
async def test_a_user_key_reaches_the_hats_of_its_user(service: Service, user: str, reached: list[str]) -> None:
    """Hats with no team, of the user's teams, and of the teams above those."""
    issued = await service.console.issue(type=key_pb2.KEY_TYPE_USER, user_id=user, actor=user)
    response = await service.service.authorize(issued.token)
    assert hats(response) == reached
    assert response.granted.key.user_id == user
