"""A workspace as the service shows it, and a large one that shows how the service copes with size."""

from __future__ import annotations

from skilder.keys.v1.workspace_pb2 import HAT_AUDIENCE_TEAMS, HAT_AUDIENCE_WORKSPACE, Hat, Skill, Tool, Workspace


def canonical(workspace: Workspace) -> Workspace:
    """Return the workspace as GetWorkspace shows it: sorted by id, with the audience of every hat."""
    ordered = Workspace(id=workspace.id, name=workspace.name)
    ordered.members.extend(sorted(workspace.members, key=lambda member: member.user_id))
    for name in ("teams", "hats", "skills", "tools"):
        getattr(ordered, name).extend(sorted(getattr(workspace, name), key=lambda each: each.id))
    for links in (
        *(member.team_ids for member in ordered.members),
        *(hat.team_ids for hat in ordered.hats),
        *(hat.skill_ids for hat in ordered.hats),
        *(skill.tool_ids for skill in ordered.skills),
    ):
        links[:] = sorted(links)
    for hat in ordered.hats:
        hat.audience = hat.audience or HAT_AUDIENCE_TEAMS
    return ordered


def big_workspace() -> Workspace:
    """Return a workspace of 10,000 tools in 200 skills in 50 hats; each tool is reached exactly once."""
    return Workspace(
        id="big",
        name="Big",
        tools=[Tool(id=f"t{i:05}", name=f"tool_{i}", mcp_server=f"server-{i % 7}") for i in range(10_000)],
        skills=[
            Skill(id=f"s{i:03}", name="S", tool_ids=[f"t{j:05}" for j in range(i, 10_000, 200)]) for i in range(200)
        ],
        hats=[
            Hat(
                id=f"h{i:02}",
                name="H",
                audience=HAT_AUDIENCE_WORKSPACE,
                skill_ids=[f"s{j:03}" for j in range(i, 200, 50)],
            )
            for i in range(50)
        ],
    )
