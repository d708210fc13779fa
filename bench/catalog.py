"""Small changes of a workspace, as people make them all day: one member added, a tool switched off, a hat moved."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from skilder.keys.v1.catalog_service_pb2 import WorkspaceParts
from skilder.keys.v1.workspace_pb2 import (
    HAT_AUDIENCE_TEAMS,
    MEMBER_ROLE_VIEWER,
    Hat,
    Member,
    Skill,
    Team,
    Tool,
    Workspace,
)

if TYPE_CHECKING:
    from bench.caller import Caller
    from bench.server import Sql

Kind = Literal["a member added", "a tool switched off", "a hat moved"]
KINDS: tuple[Kind, ...] = ("a member added", "a tool switched off", "a hat moved")

LARGE_TOOLS, LARGE_USERS, LARGE_TEAM_SETS = 20_000, 2_000, 300
_LARGE_SKILLS, _LARGE_HATS, _LARGE_TEAMS = 200, 50, 25


class Catalog:
    """A workspace that changes in small steps; the next change of a tool or hat undoes the one before.

    Attributes:
        workspace: The workspace as it is now.
    """

    def __init__(self, workspace: Workspace) -> None:
        """Start with a workspace; its last tool and its last hat are those that change."""
        self.workspace = workspace
        self._added = 0
        hat = workspace.hats[-1]
        hat.audience = HAT_AUDIENCE_TEAMS
        hat.team_ids[:] = [workspace.teams[0].id]

    def change(self, kind: Kind, caller: Caller) -> None:
        """Make a change through the API."""
        put = WorkspaceParts()
        match kind:
            case "a member added":
                put.members.add(user_id=self._next_user(), role=MEMBER_ROLE_VIEWER)
                self.workspace.members.extend(put.members)
            case "a tool switched off":
                tool = self.workspace.tools[-1]
                tool.disabled = not tool.disabled
                put.tools.append(tool)
            case "a hat moved":
                hat = self.workspace.hats[-1]
                hat.team_ids[:] = [next(each.id for each in self.workspace.teams if each.id != hat.team_ids[0])]
                put.hats.append(hat)
        caller.put(self.workspace.id, put, self.workspace)

    def change_by_hand(self, kind: Kind, sql: Sql) -> None:
        """Make a change in the database, as an administrator may."""
        match kind:
            case "a member added":
                user = self._next_user()
                sql.execute("INSERT INTO member VALUES ($1, $2, 'viewer')", self.workspace.id, user)
                self.workspace.members.add(user_id=user, role=MEMBER_ROLE_VIEWER)
            case "a tool switched off":
                tool = self.workspace.tools[-1]
                tool.disabled = not tool.disabled
                statement = "UPDATE tool SET disabled = $3 WHERE (workspace_id, id) = ($1, $2)"
                sql.execute(statement, self.workspace.id, tool.id, tool.disabled)
            case "a hat moved":
                hat = self.workspace.hats[-1]
                old = hat.team_ids[0]
                hat.team_ids[:] = [next(each.id for each in self.workspace.teams if each.id != old)]
                statement = "UPDATE hat_team SET team_id = $4 WHERE (workspace_id, hat_id, team_id) = ($1, $2, $3)"
                sql.execute(statement, self.workspace.id, hat.id, old, hat.team_ids[0])

    def _next_user(self) -> str:
        self._added += 1
        return f"added-{self._added}"


def team_sets() -> list[list[str]]:
    """Return the teams of each user of the large workspace: as many different sets as there are said to be."""
    pairs = [(first, second) for first in range(_LARGE_TEAMS) for second in range(first + 1, _LARGE_TEAMS)]
    chosen = pairs[:LARGE_TEAM_SETS]
    return [[f"team-{team}" for team in chosen[user % LARGE_TEAM_SETS]] for user in range(LARGE_USERS)]


def large_workspace() -> Workspace:
    """Return a workspace of twenty thousand tools and two thousand members; each team has two hats.

    Its last tool is in no skill that a test asks about, and its last hat serves a team of its own.
    """
    tools = [Tool(id=f"t{i:05}", name=f"tool_{i}", mcp_server=f"server-{i % 7}") for i in range(LARGE_TOOLS)]
    skills = [
        Skill(id=f"s{i:03}", name="S", tool_ids=[f"t{j:05}" for j in range(i, LARGE_TOOLS, _LARGE_SKILLS)])
        for i in range(_LARGE_SKILLS)
    ]
    hats = [
        Hat(
            id=f"h{i:02}",
            name="H",
            audience=HAT_AUDIENCE_TEAMS,
            team_ids=[f"team-{i % _LARGE_TEAMS}"],
            skill_ids=[f"s{j:03}" for j in range(i, _LARGE_SKILLS, _LARGE_HATS)],
        )
        for i in range(_LARGE_HATS)
    ]
    members = [
        Member(user_id=f"user-{user}", role=MEMBER_ROLE_VIEWER, team_ids=teams)
        for user, teams in enumerate(team_sets())
    ]
    teams = [Team(id=f"team-{team}", name="T") for team in range(_LARGE_TEAMS)]
    return Workspace(id="large", name="Large", tools=tools, skills=skills, hats=hats, members=members, teams=teams)


def reached_tool(user: int) -> str:
    """Return the id of a tool that a user of the large workspace reaches, whatever changes."""
    team = int(team_sets()[user][0].removeprefix("team-"))
    return f"t{team:05}"
