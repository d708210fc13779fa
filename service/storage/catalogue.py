"""What is in a workspace: tables `member`, `team`, `hat`, `skill`, `tool` and the links between them.

`storage.catalogue_changes` writes them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from service.domain.workspace import Catalogue, Hat, Member, MemberRole, Skill, Team, Tool

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

    from service.domain.ids import UserId, WorkspaceId
    from service.offload import Offload
    from service.storage.database import Connection


async def load_catalogue(
    connection: Connection, workspace_id: WorkspaceId, *, texts: bool, offload: Offload
) -> tuple[int, Catalogue]:
    """Return a workspace's catalogue and the version it is of, from one snapshot.

    Without `texts`, descriptions and instructions are left empty: they decide nothing, and may be most of it.
    """
    # A row for each part: very long ones would be taken apart in one piece, while nothing else runs.
    rows = await connection.fetch(
        """
        SELECT 'version' AS kind, workspace.version::text AS part FROM workspace WHERE workspace.id = $1
        UNION ALL
        SELECT 'team', json_build_object('id', team.id, 'name', team.name, 'parent_id', team.parent_id)::text
        FROM team WHERE team.workspace_id = $1
        UNION ALL
        SELECT 'hat', json_build_object(
            'id', hat.id, 'name', hat.name,
            'description', CASE WHEN $2 THEN hat.description ELSE '' END,
            'instructions', CASE WHEN $2 THEN hat.instructions ELSE '' END,
            'team_ids', array(SELECT team_id FROM hat_team
                              WHERE hat_team.workspace_id = hat.workspace_id AND hat_team.hat_id = hat.id),
            'skill_ids', array(SELECT skill_id FROM hat_skill
                               WHERE hat_skill.workspace_id = hat.workspace_id AND hat_skill.hat_id = hat.id))::text
        FROM hat WHERE hat.workspace_id = $1
        UNION ALL
        SELECT 'skill', json_build_object(
            'id', skill.id, 'name', skill.name,
            'description', CASE WHEN $2 THEN skill.description ELSE '' END,
            'tool_ids', array(SELECT tool_id FROM skill_tool
                              WHERE skill_tool.workspace_id = skill.workspace_id
                                AND skill_tool.skill_id = skill.id))::text
        FROM skill WHERE skill.workspace_id = $1
        UNION ALL
        SELECT 'tool', json_build_object(
            'id', tool.id, 'name', tool.name, 'mcp_server', tool.mcp_server, 'active', tool.active)::text
        FROM tool WHERE tool.workspace_id = $1
        """,
        workspace_id,
        texts,
    )
    if not rows:
        raise LookupError("workspaces stay on record for ever, and this one is not there")
    return await offload.run(_catalogue, rows)


async def load_members(connection: Connection, workspace_id: WorkspaceId, offload: Offload) -> tuple[Member, ...]:
    """Return a workspace's members, in order of id."""
    rows = await connection.fetch(
        """
        SELECT user_id, role,
               array(SELECT team_id FROM team_member
                     WHERE team_member.workspace_id = member.workspace_id
                       AND team_member.user_id = member.user_id) AS team_ids
        FROM member WHERE workspace_id = $1
        """,
        workspace_id,
    )
    return await offload.run(_members, rows)


async def member_role(connection: Connection, workspace_id: WorkspaceId, user_id: UserId) -> MemberRole | None:
    """Answers what a person is in a workspace, or None where they are not in it."""
    role = await connection.fetchval(
        "SELECT role FROM member WHERE workspace_id = $1 AND user_id = $2", workspace_id, user_id
    )
    return None if role is None else MemberRole(role)


async def missing_hats(connection: Connection, workspace_id: WorkspaceId, hat_ids: Iterable[str]) -> frozenset[str]:
    """Answers those of the hats that the workspace does not have."""
    rows = await connection.fetch(
        """
        SELECT wanted.id FROM unnest($2::text[]) AS wanted (id)
        WHERE NOT EXISTS (SELECT FROM hat WHERE hat.workspace_id = $1 AND hat.id = wanted.id)
        """,
        workspace_id,
        list(hat_ids),
    )
    return frozenset(row["id"] for row in rows)


def _members(rows: Iterable[asyncpg.Record]) -> tuple[Member, ...]:
    members = [Member(row["user_id"], MemberRole(row["role"]), _sorted(row["team_ids"])) for row in rows]
    return tuple(sorted(members, key=lambda member: member.id))


def _catalogue(rows: Iterable[asyncpg.Record]) -> tuple[int, Catalogue]:
    parts: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        parts[row["kind"]].append(json.loads(row["part"]))
    (version,) = parts["version"]
    hats = [
        Hat(**each | {"team_ids": _sorted(each["team_ids"]), "skill_ids": _sorted(each["skill_ids"])})
        for each in parts["hat"]
    ]
    return version, Catalogue(
        teams=_in_order([Team(**each) for each in parts["team"]]),
        hats=_in_order(hats),
        skills=_in_order([Skill(**each | {"tool_ids": _sorted(each["tool_ids"])}) for each in parts["skill"]]),
        tools=_in_order([Tool(**each) for each in parts["tool"]]),
    )


def _in_order(parts: list[Any]) -> tuple[Any, ...]:
    return tuple(sorted(parts, key=lambda part: part.id))


def _sorted(ids: list[Any]) -> tuple[Any, ...]:
    return tuple(sorted(ids))
