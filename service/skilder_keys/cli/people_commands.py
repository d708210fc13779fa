"""skilder-keys workspace member | team: add, set, remove."""

from __future__ import annotations

import typer

from skilder.keys.v1 import workspace_pb2
from skilder_keys.cli import output, parts
from skilder_keys.cli.apply import Actor
from skilder_keys.cli.client import Connection, connected
from skilder_keys.cli.enums import short_names
from skilder_keys.cli.part_changes import MEMBER, TEAM, ListChange, added, changed
from skilder_keys.cli.part_options import (
    AddTeams,
    Name,
    NewName,
    NewRole,
    NoTeams,
    OnlyTeams,
    Parent,
    RemoveTeams,
    Role,
    TeamId,
    Teams,
    UserId,
)
from skilder_keys.cli.parts import DryRun, WorkspaceId
from skilder_keys.domain.workspace import MemberRole

member = typer.Typer(help="Add, change and remove members.", no_args_is_help=True)
team = typer.Typer(help="Add, change and remove teams.", no_args_is_help=True)


def _role(role: MemberRole | None) -> int | None:
    return None if role is None else short_names(workspace_pb2.MemberRole.DESCRIPTOR)[role.value]


@member.command("add")
@connected
def add_member(
    service: Connection,
    workspace_id: WorkspaceId,
    user: UserId,
    role: Role,
    team: Teams = None,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Add a member."""
    change = added(
        MEMBER,
        workspace_id,
        user,
        actor,
        dry_run=dry_run,
        lists={"team_ids": ListChange("team", team)},
        role=_role(role),
    )
    parts.put(service, change, json=json)


@member.command("set")
@connected
def set_member(
    service: Connection,
    workspace_id: WorkspaceId,
    user: UserId,
    role: NewRole = None,
    team: OnlyTeams = None,
    no_teams: NoTeams = False,
    add_team: AddTeams = None,
    remove_team: RemoveTeams = None,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Change the role or the teams of a member. What is not named stays."""
    change = changed(
        MEMBER,
        workspace_id,
        user,
        actor,
        dry_run=dry_run,
        lists={"team_ids": ListChange("team", team, no_teams, add_team, remove_team)},
        role=_role(role),
    )
    parts.put(service, change, json=json)


@team.command("add")
@connected
def add_team(
    service: Connection,
    workspace_id: WorkspaceId,
    id_: TeamId,
    name: Name,
    parent: Parent = None,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Add a team."""
    change = added(TEAM, workspace_id, id_, actor, dry_run=dry_run, name=name, parent_id=parent)
    parts.put(service, change, json=json)


@team.command("set")
@connected
def set_team(
    service: Connection,
    workspace_id: WorkspaceId,
    id_: TeamId,
    name: NewName = None,
    parent: Parent = None,
    dry_run: DryRun = False,
    actor: Actor = "",
    json: output.Json = False,
) -> None:
    """Rename a team, or move it with the teams below it. What is not named stays."""
    change = changed(TEAM, workspace_id, id_, actor, dry_run=dry_run, name=name, parent_id=parent)
    parts.put(service, change, json=json)


member.command("remove")(
    parts.remove_command(
        MEMBER,
        "Remove members. Their user keys stop working at once. Ask first.",
        "Their user keys stop working at once.",
    )
)
team.command("remove")(
    parts.remove_command(TEAM, "Remove teams that no member, hat and team names any more. Ask first.")
)
