"""Whom a hat serves: its teams or the whole workspace, as it says, and nobody where it says nothing."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import key_pb2
from skilder.keys.v1.workspace_pb2 import HAT_AUDIENCE_TEAMS, HAT_AUDIENCE_UNSPECIFIED, HAT_AUDIENCE_WORKSPACE
from skilder_keys.domain.ids import HatId, UserId
from skilder_keys.domain.token import KeyType
from tests.support.calls import part
from tests.support.changes import serve_workspace
from tests.support.fence import LONG, warm
from tests.support.service import refusal
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from skilder.keys.v1.workspace_pb2 import Hat
    from tests.support.fleet import Process
    from tests.support.service import Client, Service

pytestmark = GRPCIO_IF_SHORT

CYDS: dict[str, Any] = {"type": key_pb2.KEY_TYPE_USER, "user_id": "cyd"}
ADAS: dict[str, Any] = {"type": key_pb2.KEY_TYPE_USER, "user_id": "ada"}


def of_teams(hat: Hat, *team_ids: str, audience: Any = HAT_AUDIENCE_UNSPECIFIED) -> None:
    """Make a hat serve these teams."""
    hat.team_ids[:] = team_ids
    hat.audience = audience


async def tokens(client: Client) -> list[str]:
    """Return tokens of a workspace key, a limited one, a key of a user in `engineering`, and of one in no team."""
    issued = [
        await client.issue(),
        await client.issue(hat_limit={"hat_ids": ["engineer"]}),
        await client.issue(**CYDS),
        await client.issue(**ADAS),
    ]
    return [each.token for each in issued]


async def reached(service: Service, asked: list[str]) -> list[bool]:
    """Return for each token whether it reaches the hat `engineer`, and by it `git.commit`."""
    found = []
    for token in asked:
        granted = (await service.service.authorize(token)).granted
        reaches = "engineer" in {hat.id for hat in granted.tool_set.hats}
        assert ("git.commit" in {tool.id for tool in granted.tool_set.tools}) == reaches
        if not reaches:
            assert await service.service.denial(token, tool_id="git.commit") == "TOOL_NOT_ALLOWED"
        found.append(reaches)
    return found


STATES: dict[str, tuple[Callable[[Hat], None], list[bool]]] = {
    "its team": (lambda hat: of_teams(hat, "engineering"), [True, True, True, False]),
    "its team, said": (
        lambda hat: of_teams(hat, "engineering", audience=HAT_AUDIENCE_TEAMS),
        [True, True, True, False],
    ),
    "no team": (of_teams, [False] * 4),
    "no team, said": (lambda hat: of_teams(hat, audience=HAT_AUDIENCE_TEAMS), [False] * 4),
    "everybody": (serve_workspace, [True] * 4),
    "no team any more": (of_teams, [False] * 4),
    "another team": (lambda hat: of_teams(hat, "support"), [True, True, False, False]),
}


async def test_a_hat_serves_whom_it_says(service: Service) -> None:
    """With no team and no word it serves no key of any kind; each state follows the one before, for the same keys."""
    asked = await tokens(service.operator)
    for name, (change, expected) in STATES.items():
        workspace = small_workspace()
        change(part(workspace.hats, "engineer"))
        await service.operator.apply(workspace)
        assert await reached(service, asked) == expected, name
        # The second time from memory.
        assert await reached(service, asked) == expected, name


async def test_a_hat_with_every_field_left_out_serves_nobody(service: Service) -> None:
    """Neither does one whose audience alone was left out, beside keys that reach all there is."""
    workspace = small_workspace()
    hat = part(workspace.hats, "everyone")
    hat.ClearField("audience")
    workspace.hats.add(id="bare", name="Bare", skill_ids=["search"])
    part(workspace.hats, "engineer").skill_ids.remove("search")
    await service.operator.apply(workspace)
    for token in await tokens(service.operator):
        granted = (await service.service.authorize(token)).granted
        assert {"everyone", "bare"}.isdisjoint(hat.id for hat in granted.tool_set.hats)
        assert await service.service.denial(token, tool_id="web.search") == "TOOL_NOT_ALLOWED"


async def test_a_hat_for_everybody_has_no_teams(service: Service) -> None:
    """To say both is refused by the field, and nothing changes."""
    workspace = small_workspace()
    part(workspace.hats, "engineer").audience = HAT_AUDIENCE_WORKSPACE
    refused = await refusal(service.operator.apply(workspace))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    fault = "of 'engineer' is the whole workspace, but the hat has team_ids too: leave one out"
    assert refused.fields == {"workspace.hats[3].audience": fault}
    workspace = small_workspace()
    assert not (await service.operator.apply(workspace)).changes


@pytest.mark.parametrize("by_hand", [True, False], ids=["SQL", "apply"])
@pytest.mark.stock_too
async def test_memory_follows_the_last_team_of_a_hat(
    writer: Process, sql: asyncpg.Connection[Any], *, by_hand: bool
) -> None:
    """A workspace key, a limited one and a user's lose the hat with its last team, and get it back by its audience."""
    issued = [
        await writer.issue(),
        await writer.issue(hat_ids=(HatId("engineer"),)),
        await writer.issue(KeyType.USER, user_id=UserId("cyd")),
    ]
    asked = [token for _, token in issued]
    await writer.follow()
    for token in asked:
        await warm(writer, token)
        assert await writer.outcome(token, "git.commit") == "granted"
    workspace = small_workspace()
    hat = part(workspace.hats, "engineer")

    async def becomes(expected: str) -> None:
        async with asyncio.timeout(LONG):
            for token in asked:
                while await writer.outcome(token, "git.commit") != expected:
                    await asyncio.sleep(0.002)

    if by_hand:
        await sql.execute("DELETE FROM hat_team WHERE hat_id = 'engineer'")
    else:
        of_teams(hat)
        await writer.apply(workspace)
    await becomes("TOOL_NOT_ALLOWED")
    if by_hand:
        await sql.execute("UPDATE hat SET audience = 'workspace' WHERE id = 'engineer'")
    else:
        serve_workspace(hat)
        await writer.apply(workspace)
    await becomes("granted")
    if by_hand:
        await sql.execute("UPDATE hat SET audience = 'teams' WHERE id = 'engineer'")
    else:
        of_teams(hat)
        await writer.apply(workspace)
    await becomes("TOOL_NOT_ALLOWED")
