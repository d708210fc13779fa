"""skilder-keys workspace hat | skill | tool: add, set, remove; disable and enable tools."""

from __future__ import annotations

import typer

from skilder.keys.v1 import workspace_pb2
from skilder_keys.cli import output, parts
from skilder_keys.cli.apply import Actor
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.enums import short_names
from skilder_keys.cli.explain import tool_users
from skilder_keys.cli.part_changes import HAT, SKILL, TOOL, ListChange, added, changed
from skilder_keys.cli.part_options import (
    AddSkills,
    AddTeams,
    AddTools,
    Audience,
    Description,
    Disabled,
    HatId,
    Instructions,
    McpServer,
    Name,
    NewAudience,
    NewMcpServer,
    NewName,
    NoSkills,
    NoTeams,
    NoTools,
    OnlySkills,
    OnlyTeams,
    OnlyTools,
    RemoveSkills,
    RemoveTeams,
    RemoveTools,
    SkillId,
    Skills,
    Teams,
    ToolId,
    ToolName,
    Tools,
)
from skilder_keys.cli.parts import DryRun, WorkspaceId
from skilder_keys.domain.workspace import HatAudience

hat = typer.Typer(help="Add, change and remove hats.", no_args_is_help=True)
skill = typer.Typer(help="Add, change and remove skills.", no_args_is_help=True)
tool = typer.Typer(help="Add, change, switch off and on, and remove tools.", no_args_is_help=True)


def _audience(audience: HatAudience | None) -> int | None:
    return None if audience is None else short_names(workspace_pb2.HatAudience.DESCRIPTOR)[audience.value]


@hat.command("add")
@connected
def add_hat(
    service: Connection,
    workspace_id: WorkspaceId,
    id_: HatId,
    name: Name,
    description: Description = None,
    instructions: Instructions = None,
    team: Teams = None,
    skill: Skills = None,
    audience: Audience = None,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Add a hat. Warn if it serves nobody."""
    change = added(
        HAT,
        workspace_id,
        id_,
        actor,
        dry_run=dry_run,
        name=name,
        description=description,
        instructions=instructions,
        lists={"team_ids": ListChange("team", team), "skill_ids": ListChange("skill", skill)},
        audience=_audience(audience),
    )
    parts.put(service, change, json=json)


@hat.command("set")
@connected
def set_hat(
    service: Connection,
    workspace_id: WorkspaceId,
    id_: HatId,
    name: NewName = None,
    description: Description = None,
    instructions: Instructions = None,
    team: OnlyTeams = None,
    no_teams: NoTeams = False,
    add_team: AddTeams = None,
    remove_team: RemoveTeams = None,
    skill: OnlySkills = None,
    no_skills: NoSkills = False,
    add_skill: AddSkills = None,
    remove_skill: RemoveSkills = None,
    audience: NewAudience = None,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Change a hat. What is not named stays. Warn if it serves nobody any more."""
    teams = ListChange("team", team, no_teams, add_team, remove_team)
    if audience is HatAudience.WORKSPACE and not team and not add_team:
        teams = ListChange("team", none=True)
    change = changed(
        HAT,
        workspace_id,
        id_,
        actor,
        dry_run=dry_run,
        lists={"team_ids": teams, "skill_ids": ListChange("skill", skill, no_skills, add_skill, remove_skill)},
        name=name,
        description=description,
        instructions=instructions,
        audience=_audience(audience),
    )
    parts.put(service, change, json=json)


@skill.command("add")
@connected
def add_skill(
    service: Connection,
    workspace_id: WorkspaceId,
    id_: SkillId,
    name: Name,
    description: Description = None,
    tool: Tools = None,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Add a skill."""
    tools = {"tool_ids": ListChange("tool", tool)}
    change = added(SKILL, workspace_id, id_, actor, dry_run=dry_run, lists=tools, name=name, description=description)
    parts.put(service, change, json=json)


@skill.command("set")
@connected
def set_skill(
    service: Connection,
    workspace_id: WorkspaceId,
    id_: SkillId,
    name: NewName = None,
    description: Description = None,
    tool: OnlyTools = None,
    no_tools: NoTools = False,
    add_tool: AddTools = None,
    remove_tool: RemoveTools = None,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Change a skill. What is not named stays."""
    change = changed(
        SKILL,
        workspace_id,
        id_,
        actor,
        dry_run=dry_run,
        lists={"tool_ids": ListChange("tool", tool, no_tools, add_tool, remove_tool)},
        name=name,
        description=description,
    )
    parts.put(service, change, json=json)


@tool.command("add")
@connected
def add_tool(
    service: Connection,
    workspace_id: WorkspaceId,
    id_: ToolId,
    name: ToolName,
    mcp_server: McpServer,
    disabled: Disabled = False,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Add a tool."""
    change = added(TOOL, workspace_id, id_, actor, dry_run=dry_run, name=name, mcp_server=mcp_server, disabled=disabled)
    parts.put(service, change, json=json)


@tool.command("set")
@connected
def set_tool(
    service: Connection,
    workspace_id: WorkspaceId,
    id_: ToolId,
    name: NewName = None,
    mcp_server: NewMcpServer = None,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Change the name of a tool, or its MCP server. What is not named stays."""
    change = changed(TOOL, workspace_id, id_, actor, dry_run=dry_run, name=name, mcp_server=mcp_server)
    parts.put(service, change, json=json)


@tool.command("disable")
@connected
def disable_tool(
    service: Connection,
    workspace_id: WorkspaceId,
    id_: ToolId,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Switch a tool off. From then on no key reaches it."""
    parts.put(service, changed(TOOL, workspace_id, id_, actor, dry_run=dry_run, disabled=True), json=json)


@tool.command("enable")
@connected
def enable_tool(
    service: Connection,
    workspace_id: WorkspaceId,
    id_: ToolId,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Switch a tool on again."""
    parts.put(service, changed(TOOL, workspace_id, id_, actor, dry_run=dry_run, disabled=False), json=json)


tool.command("users")(tool_users)

for _group, _kind, _help in (
    (hat, HAT, "Remove hats. Ask first."),
    (skill, SKILL, "Remove skills that no hat names any more. Ask first."),
    (tool, TOOL, "Remove tools that no skill names any more. Ask first."),
):
    _group.command("remove")(parts.remove_command(_kind, _help))
