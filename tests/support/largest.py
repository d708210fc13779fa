"""The largest workspace that is allowed."""

from __future__ import annotations

from skilder.keys.v1.workspace_pb2 import HAT_AUDIENCE_TEAMS, Hat, Member, MemberRole, Skill, Team, Tool, Workspace
from skilder_keys.domain.workspace_checks import (
    MAX_BYTES,
    MAX_HATS,
    MAX_MEMBERS,
    MAX_SKILLS,
    MAX_TEAMS,
    MAX_TOOL_PATHS,
    MAX_TOOLS,
)


def largest_workspace(id_: str, version: int = 0, *, share: int = 1) -> Workspace:
    """Return a workspace with every list at its limit, and as many bytes as allowed. Each part differs by version.

    Args:
        id_: Its id.
        version: Another number gives other parts.
        share: Divides the numbers of members, teams, skills and tools. The bytes stay: the hats have longer texts.
    """
    members, teams, skills, tools = (each // share for each in (MAX_MEMBERS, MAX_TEAMS, MAX_SKILLS, MAX_TOOLS))
    tools_of_skill = MAX_TOOL_PATHS // (10 * MAX_HATS)
    instructions = "i" * 9_000 if share == 1 else "\N{LATIN SMALL LETTER E WITH ACUTE}" * 6_800
    workspace = Workspace(
        id=id_,
        name="Largest",
        members=[
            Member(
                user_id=f"user-{number:06}",
                role=MemberRole.MEMBER_ROLE_ADMIN,
                team_ids=[f"team-{(number + version + each) % teams:04}" for each in range(3)],
            )
            for number in range(members)
        ],
        teams=[Team(id=f"team-{number:04}", name=f"Team {number} {version}") for number in range(teams)],
        hats=[
            Hat(
                id=f"hat-{number:04}",
                name=f"Hat {number} {version}",
                description="d" * 500,
                instructions=instructions,
                audience=HAT_AUDIENCE_TEAMS,
                team_ids=[f"team-{number % teams:04}"],
                skill_ids=[f"skill-{(10 * number + each) % skills:05}" for each in range(10)],
            )
            for number in range(MAX_HATS)
        ],
        skills=[
            Skill(
                id=f"skill-{number:05}",
                name=f"Skill {number} {version}",
                description="s" * 490,
                tool_ids=[f"tool-{(4 * number + each) % tools:05}" for each in range(tools_of_skill)],
            )
            for number in range(skills)
        ],
        tools=[
            Tool(id=f"tool-{number:05}", name=f"tool_{number}_{version}_{'t' * 100}", mcp_server="server")
            for number in range(tools)
        ],
    )
    _fill(workspace)
    return workspace


def full_workspace(id_: str) -> Workspace:
    """Return a workspace with as many bytes as allowed, of hats alone, which is quick to apply."""
    text = "\N{LATIN SMALL LETTER E WITH ACUTE}" * 8_200
    hats = [
        Hat(id=f"hat-{number:04}", name="Hat", audience=HAT_AUDIENCE_TEAMS, instructions=text)
        for number in range(MAX_HATS)
    ]
    workspace = Workspace(id=id_, name="Full", hats=hats)
    _fill(workspace)
    return workspace


def _fill(workspace: Workspace) -> None:
    left, rest = divmod(MAX_BYTES - workspace.ByteSize(), MAX_HATS)
    for number, hat in enumerate(workspace.hats):
        hat.instructions += "i" * (left + (number < rest))
