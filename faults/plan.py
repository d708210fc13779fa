"""The workspaces of a run: who is in which team, who reaches what, and how that changes.

The permission rule is written here again in a simpler form, so that the service is not checked by its own code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from faults.history import EVERYBODY, hat_of
from skilder.keys.v1.catalog_service_pb2 import (
    WORKSPACE_PART_MEMBER,
    PartRef,
    UpdateWorkspaceRequest,
    WorkspaceParts,
)
from skilder.keys.v1.workspace_pb2 import (
    HAT_AUDIENCE_TEAMS,
    HAT_AUDIENCE_WORKSPACE,
    MEMBER_ROLE_EDITOR,
    Hat,
    Member,
    Skill,
    Team,
    Tool,
    Workspace,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from faults.history import Reach

ABOVE = {"company": "", "left": "company", "right": "company"}
"""Each team with its parent team."""

HATS = [f"hat{number}" for number in range(5)]
TOOLS = [f"{hat}.{tool}" for hat in HATS for tool in ("read", "write")]
STAYERS = [f"user{number}" for number in range(4)]
LEAVER = "leaver"


@dataclass(frozen=True)
class Plan:
    """A workspace at one version.

    Attributes:
        hats: The team of each hat; empty for a hat that serves everybody, None for one that serves nobody.
        users: The team of each member.
        idle: The disabled tools.
        bare: The skills without tools.
    """

    id: str
    hats: Mapping[str, str | None]
    users: Mapping[str, str]
    idle: frozenset[str] = frozenset()
    bare: frozenset[str] = frozenset()

    @classmethod
    def drawn(cls, id_: str, dice: Random) -> Plan:
        """Return a random first version."""
        teams = list(ABOVE)
        return cls(
            id_,
            hats={hat: dice.choice([None, "", *teams]) for hat in HATS},
            users={user: dice.choice(teams) for user in (*STAYERS, LEAVER)},
        )

    def moved(self, dice: Random) -> Plan:
        """Return the next version, with one difference: most often a hat is in another team."""
        teams = list(ABOVE)
        move = dice.random()
        if move < 0.4:
            hat = dice.choice(HATS)
            place = dice.choice([place for place in (None, "", *teams) if place != self.hats[hat]])
            return replace(self, hats={**self.hats, hat: place})
        if move < 0.55:
            user = dice.choice(STAYERS)
            place = dice.choice([place for place in teams if place != self.users[user]])
            return replace(self, users={**self.users, user: place})
        if move < 0.7:
            return replace(self, idle=self.idle ^ {dice.choice(TOOLS)})
        if move < 0.8:
            return replace(self, bare=self.bare ^ {dice.choice(HATS)})
        if LEAVER in self.users:
            return replace(self, users={user: team for user, team in self.users.items() if user != LEAVER})
        return replace(self, users={**self.users, LEAVER: dice.choice(teams)})

    def reach(self) -> Reach:
        """Return who reaches which tools."""
        found = {EVERYBODY: self._tools([hat for hat, place in self.hats.items() if place is not None])}
        for user, team in self.users.items():
            places = {"", team, ABOVE[team]}
            found[user] = self._tools([hat for hat, place in self.hats.items() if place in places])
        return found

    def _tools(self, hats: list[str]) -> frozenset[str]:
        return frozenset(tool for hat in hats for tool in self._tools_of(hat)) - self.idle

    def _tools_of(self, skill: str) -> list[str]:
        return [] if skill in self.bare else [tool for tool in TOOLS if hat_of(tool) == skill]

    def since(self, before: Plan) -> UpdateWorkspaceRequest:
        """Return the request that makes this version of the one before: with the parts that differ, and no others."""
        old, new = before.message(), self.message()
        gone = before.users.keys() - self.users.keys()
        return UpdateWorkspaceRequest(
            workspace_id=self.id,
            put=WorkspaceParts(
                members=[each for each in new.members if each not in old.members],
                hats=[each for each in new.hats if each not in old.hats],
                skills=[each for each in new.skills if each not in old.skills],
                tools=[each for each in new.tools if each not in old.tools],
            ),
            remove=[PartRef(part=WORKSPACE_PART_MEMBER, id=user) for user in sorted(gone)],
        )

    def message(self) -> Workspace:
        """Return the workspace as an API message. Each hat has one skill with the same name."""
        return Workspace(
            id=self.id,
            name=self.id,
            members=[
                Member(user_id=user, role=MEMBER_ROLE_EDITOR, team_ids=[team]) for user, team in self.users.items()
            ],
            teams=[Team(id=team, name=team, parent_id=above) for team, above in ABOVE.items()],
            hats=[
                Hat(
                    id=hat,
                    name=hat,
                    audience=HAT_AUDIENCE_WORKSPACE if place == "" else HAT_AUDIENCE_TEAMS,
                    team_ids=[place] if place else [],
                    skill_ids=[hat],
                )
                for hat, place in self.hats.items()
            ],
            skills=[Skill(id=hat, name=hat, tool_ids=self._tools_of(hat)) for hat in HATS],
            tools=[Tool(id=tool, name=tool, mcp_server="server", disabled=tool in self.idle) for tool in TOOLS],
        )
