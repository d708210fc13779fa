"""The arguments and options of the commands for single parts of a workspace."""

from __future__ import annotations

from typing import Annotated

import typer

from skilder_keys.domain.workspace import HatAudience, MemberRole

UserId = Annotated[str, typer.Argument(metavar="USER", help="The person's user id.")]
TeamId = Annotated[str, typer.Argument(metavar="TEAM", help="The team's id.")]
HatId = Annotated[str, typer.Argument(metavar="HAT", help="The hat's id.")]
SkillId = Annotated[str, typer.Argument(metavar="SKILL", help="The skill's id.")]
ToolId = Annotated[str, typer.Argument(metavar="TOOL", help="The tool's id.")]
Role = Annotated[MemberRole, typer.Option(help="What the person may do with keys and the catalog.")]
NewRole = Annotated[MemberRole | None, typer.Option(help="What the person may do with keys and the catalog.")]
Name = Annotated[str, typer.Option(help="The name for people.")]
NewName = Annotated[str | None, typer.Option(help="The new name.")]
Description = Annotated[str | None, typer.Option(help="What it is for.")]
Instructions = Annotated[str | None, typer.Option(help="The instructions for an agent that wears it.")]
Audience = Annotated[HatAudience | None, typer.Option(help="Which keys reach it [default: those of its teams].")]
NewAudience = Annotated[
    HatAudience | None, typer.Option(help="Which keys reach it. `workspace` takes the hat's teams off.")
]
Parent = Annotated[str | None, typer.Option(metavar="<team>", help="The team above it; '' for the top.")]
McpServer = Annotated[str, typer.Option(help="The MCP server that offers it.")]
NewMcpServer = Annotated[str | None, typer.Option(help="The MCP server that offers it.")]
ToolName = Annotated[str, typer.Option(help="The name of the tool on its MCP server.")]
Disabled = Annotated[bool, typer.Option("--disabled", help="Add it switched off.", show_default=False)]

Ids = list[str] | None
Teams = Annotated[Ids, typer.Option("--team", metavar="<team>", help="A team; repeat it for several.")]
Skills = Annotated[Ids, typer.Option("--skill", metavar="<skill>", help="A skill; repeat it for several.")]
Tools = Annotated[Ids, typer.Option("--tool", metavar="<tool>", help="A tool; repeat it for several.")]
OnlyTeams = Annotated[Ids, typer.Option("--team", metavar="<team>", help="Exactly these teams; repeat it for several.")]
OnlySkills = Annotated[
    Ids, typer.Option("--skill", metavar="<skill>", help="Exactly these skills; repeat it for several.")
]
OnlyTools = Annotated[Ids, typer.Option("--tool", metavar="<tool>", help="Exactly these tools; repeat it for several.")]
AddTeams = Annotated[Ids, typer.Option("--add-team", metavar="<team>", help="One more team; repeat it for several.")]
RemoveTeams = Annotated[
    Ids, typer.Option("--remove-team", metavar="<team>", help="One team less; repeat it for several.")
]
AddSkills = Annotated[
    Ids, typer.Option("--add-skill", metavar="<skill>", help="One more skill; repeat it for several.")
]
RemoveSkills = Annotated[
    Ids, typer.Option("--remove-skill", metavar="<skill>", help="One skill less; repeat it for several.")
]
AddTools = Annotated[Ids, typer.Option("--add-tool", metavar="<tool>", help="One more tool; repeat it for several.")]
RemoveTools = Annotated[
    Ids, typer.Option("--remove-tool", metavar="<tool>", help="One tool less; repeat it for several.")
]
NoTeams = Annotated[bool, typer.Option("--no-teams", help="No teams at all.", show_default=False)]
NoSkills = Annotated[bool, typer.Option("--no-skills", help="No skills at all.", show_default=False)]
NoTools = Annotated[bool, typer.Option("--no-tools", help="No tools at all.", show_default=False)]
