"""Steps that change a workspace: its parts, its key policy, or whether it exists."""

from __future__ import annotations

from typing import Any

from skilder.keys.v1.workspace_pb2 import KeyPolicy, Workspace
from tests.support.calls import delete_workspace
from tests.support.life.calls import Calls, never
from tests.support.life.choices import POLICIES
from tests.support.random_workspaces import random_workspace


class WorkspaceSteps(Calls):
    """Steps about workspaces. What a step is not told is left to chance."""

    async def apply(self) -> None:
        """Replace all of a workspace, without some of the members. The request has no key policy, so that stays."""
        workspace = random_workspace(self.choose.source, self.choose.living_id())
        for _ in range(self.choose.source.randint(0, 2)):
            workspace.members.remove(self.choose.source.choice(workspace.members))
        await self.apply_all(workspace)

    async def change(self) -> None:
        """Change one part of a workspace, or remove it."""
        workspace = Workspace()
        workspace.CopyFrom(self.model.workspaces[self.choose.living_id()])
        member = self.choose.source.choice(workspace.members)
        hat = self.choose.source.choice(workspace.hats) if workspace.hats else None
        tool = self.choose.source.choice(workspace.tools)
        what = self.choose.source.choice(["tool", "teams", "member", "hat", "skills"])
        if what == "teams":
            member.team_ids[:] = self.choose.source.sample([team.id for team in workspace.teams], 1)
        elif what == "member" and len(workspace.members) > 1:
            workspace.members.remove(member)
        elif what == "hat" and hat:
            workspace.hats.remove(hat)
        elif what == "skills" and hat:
            hat.skill_ids[:] = hat.skill_ids[1:] or [skill.id for skill in workspace.skills]
        else:
            tool.disabled = not tool.disabled
        await self.apply_all(workspace)

    async def policy(self, **rules: Any) -> None:
        """Set the key policy of all workspaces to these rules; or change that of one by chance, or lift it."""
        chosen = [*self.model.workspaces] if rules else [self.choose.living_id()]
        for id_ in chosen:
            workspace = Workspace()
            workspace.CopyFrom(self.model.workspaces[id_])
            is_lifted = not rules and workspace.key_policy != KeyPolicy()
            new = {} if is_lifted else rules or self.choose.source.choice(POLICIES)
            workspace.key_policy.CopyFrom(KeyPolicy(**new))
            await self.apply_all(workspace)

    async def lift_policies(self) -> None:
        """Take the key policies from all workspaces."""
        for limited in [each for each in self.model.workspaces.values() if each.key_policy != KeyPolicy()]:
            workspace = Workspace()
            workspace.CopyFrom(limited)
            workspace.key_policy.CopyFrom(KeyPolicy())
            await self.apply_all(workspace)

    async def delete(self) -> None:
        """Delete a workspace, and make another."""
        workspace_id = self.choose.living_id()
        await self.call(never, delete_workspace(self.choose.client(), workspace_id))
        del self.model.workspaces[workspace_id]
        await self.apply_all(random_workspace(self.choose.source, f"{workspace_id}-"))
