"""A workspace whose tool set is too large to be sent at once."""

from __future__ import annotations

from skilder.keys.v1.workspace_pb2 import HAT_AUDIENCE_WORKSPACE, Hat, Skill, Tool, Workspace

_TOOLS = 3_000
_SKILLS = 30
PARTS = 6
"""How many parts its tool set has, with a tool in each."""


def workspace_with_large_tool_set() -> Workspace:
    """Return a workspace with one hat, `hat`, and a tool set of more than 6 MiB."""
    tools = [
        Tool(id=f"tool-{number:05}", name=f"{number:\N{ROBOT FACE}>250}", mcp_server="1" + "\N{ROBOT FACE}" * 250)
        for number in range(_TOOLS)
    ]
    skills = [
        Skill(id=f"skill-{number:02}", name="Skill", tool_ids=[each.id for each in tools[number::_SKILLS]])
        for number in range(_SKILLS)
    ]
    hats = [Hat(id="hat", name="Hat", audience=HAT_AUDIENCE_WORKSPACE, skill_ids=[each.id for each in skills])]
    return Workspace(id="large", name="Large", tools=tools, skills=skills, hats=hats)
