"""Every kind of change that an ApplyWorkspace can make to the small workspace."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skilder.keys.v1.workspace_pb2 import (
    HAT_AUDIENCE_WORKSPACE,
    MEMBER_ROLE_ADMIN,
    MEMBER_ROLE_EDITOR,
    Hat,
    Member,
    Skill,
    Team,
)
from tests.support.calls import part, remove

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder.keys.v1.workspace_pb2 import Workspace


def _remove_skill(workspace: Workspace) -> None:
    remove(workspace.skills, "slack-replies")
    part(workspace.hats, "support-desk").skill_ids.remove("slack-replies")


def _swap_names(workspace: Workspace) -> None:
    one, other = part(workspace.tools, "git.commit"), part(workspace.tools, "git.push")
    one.name, other.name = other.name, one.name


def _rebuild_teams(workspace: Workspace) -> None:
    """Swap `support` and `customer` in the tree, and replace `engineering` by a new team."""
    part(workspace.teams, "support").ClearField("parent_id")
    part(workspace.teams, "customer").parent_id = "support"
    remove(workspace.teams, "engineering")
    workspace.teams.insert(0, Team(id="platform", name="Engineering", parent_id="customer"))
    part(workspace.members, "cyd").team_ids[:] = ["platform"]
    part(workspace.hats, "engineer").team_ids[:] = ["platform"]


def _replace_tool(workspace: Workspace) -> None:
    remove(workspace.tools, "web.search")
    workspace.tools.add(id="web.search-2", name="web_search", mcp_server="web")
    part(workspace.skills, "search").tool_ids[:] = ["web.search-2"]


def serve_workspace(hat: Hat) -> None:
    """Make a hat serve the whole workspace."""
    hat.ClearField("team_ids")
    hat.audience = HAT_AUDIENCE_WORKSPACE


def _serve_team(hat: Hat) -> None:
    hat.team_ids[:] = ["engineering"]
    hat.ClearField("audience")


CHANGES: list[tuple[str, Callable[[Workspace], object], list[str]]] = [
    ("a new name", lambda w: setattr(w, "name", "Acme Ltd"), ["workspace acme updated"]),
    ("a new member", lambda w: w.members.append(Member(user_id="dan", role=MEMBER_ROLE_EDITOR)), ["member dan added"]),
    ("another role", lambda w: setattr(part(w.members, "bob"), "role", MEMBER_ROLE_ADMIN), ["member bob updated"]),
    ("another team", lambda w: part(w.members, "bob").team_ids.append("customer"), ["member bob updated"]),
    ("a member less", lambda w: remove(w.members, "cyd"), ["member cyd removed"]),
    ("a team's name", lambda w: setattr(part(w.teams, "support"), "name", "Help"), ["team support updated"]),
    ("a new team", lambda w: w.teams.append(Team(id="a", name="A", parent_id="support")), ["team a added"]),
    (
        "teams turned around",
        _rebuild_teams,
        [
            "member cyd updated",
            "team customer updated",
            "team engineering removed",
            "team platform added",
            "team support updated",
            "hat engineer updated",
        ],
    ),
    ("a new hat", lambda w: w.hats.append(Hat(id="a", name="A", team_ids=["support"])), ["hat a added"]),
    ("a hat's words", lambda w: setattr(part(w.hats, "engineer"), "instructions", "Test."), ["hat engineer updated"]),
    ("a hat's purpose", lambda w: setattr(part(w.hats, "engineer"), "description", "Codes"), ["hat engineer updated"]),
    ("a hat's teams", lambda w: part(w.hats, "engineer").ClearField("team_ids"), ["hat engineer updated"]),
    ("a hat for everybody", lambda w: serve_workspace(part(w.hats, "engineer")), ["hat engineer updated"]),
    ("a hat for a team", lambda w: _serve_team(part(w.hats, "everyone")), ["hat everyone updated"]),
    ("a hat's skills", lambda w: part(w.hats, "everyone").skill_ids.append("code"), ["hat everyone updated"]),
    ("a hat less", lambda w: remove(w.hats, "support-desk"), ["hat support-desk removed"]),
    ("a new skill", lambda w: w.skills.append(Skill(id="a", name="A", tool_ids=["git.push"])), ["skill a added"]),
    ("a skill's purpose", lambda w: setattr(part(w.skills, "code"), "description", "Code"), ["skill code updated"]),
    ("a skill's tools", lambda w: part(w.skills, "code").tool_ids.pop(), ["skill code updated"]),
    ("a skill less", _remove_skill, ["hat support-desk updated", "skill slack-replies removed"]),
    ("a tool switched on", lambda w: part(w.tools, "git.push").ClearField("disabled"), ["tool git.push updated"]),
    ("a tool moved", lambda w: setattr(part(w.tools, "git.push"), "mcp_server", "gh"), ["tool git.push updated"]),
    ("two tools' names swapped", _swap_names, ["tool git.commit updated", "tool git.push updated"]),
    (
        "a tool in another's place",
        _replace_tool,
        ["skill search updated", "tool web.search removed", "tool web.search-2 added"],
    ),
]
"""Each with its name, its function on the workspace, and the changes that the response reports."""
