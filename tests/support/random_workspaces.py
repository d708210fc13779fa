"""Workspaces made by chance, with the cases that the permission rules distinguish."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder.keys.v1.workspace_pb2 import (
    HAT_AUDIENCE_TEAMS,
    HAT_AUDIENCE_WORKSPACE,
    MEMBER_ROLE_VIEWER,
    Hat,
    Member,
    Skill,
    Team,
    Tool,
    Workspace,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence


def random_workspace(source: random.Random, id_: str) -> Workspace:
    """Return a workspace with a forest of teams, and with hats, skills and tools that may lead nowhere."""

    def some(ids: Sequence[str], most: int = 3) -> list[str]:
        return source.sample(ids, source.randint(0, min(most, len(ids))))

    teams = [f"team-{number}" for number in range(source.randint(1, 7))]
    tools = [f"tool-{number}" for number in range(source.randint(1, 8))]
    skills = [f"skill-{number}" for number in range(source.randint(0, 5))]
    workspace = Workspace(
        id=id_,
        name=id_,
        members=[
            Member(user_id=f"user-{number}", role=MEMBER_ROLE_VIEWER, team_ids=some(teams)) for number in range(6)
        ],
        teams=[
            Team(id=team, name=team, parent_id=source.choice(["", *teams[:number]]))
            for number, team in enumerate(teams)
        ],
        skills=[Skill(id=each, name=each, description="About it", tool_ids=some(tools)) for each in skills],
        tools=[
            Tool(id=each, name=f"{each}-name", mcp_server=source.choice("ab"), disabled=source.random() < 0.2)
            for each in tools
        ],
    )
    for number in range(source.randint(1, 6)):
        hat = Hat(id=f"hat-{number}", name=f"Hat {number}", instructions="Do it", skill_ids=some(skills))
        if source.random() < 0.25:
            hat.audience = HAT_AUDIENCE_WORKSPACE
        else:
            hat.audience = HAT_AUDIENCE_TEAMS
            hat.team_ids[:] = some(teams, 2)
        workspace.hats.append(hat)
    return workspace
