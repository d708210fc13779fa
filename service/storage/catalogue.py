"""What is in a workspace: tables `member`, `team`, `hat`, `skill`, `tool` and the links between them."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from service.domain.workspace import Catalogue, Hat, Member, MemberRole, Skill, Team, Tool, Workspace

if TYPE_CHECKING:
    from collections.abc import Iterable

    import asyncpg

    from service.domain.ids import UserId, WorkspaceId
    from service.storage.database import Connection


async def load_catalogue(connection: Connection, workspace_id: WorkspaceId, *, texts: bool) -> tuple[int, Catalogue]:
    """Answers a workspace's catalogue and the version it is of, from one snapshot.

    Without `texts`, descriptions and instructions are left empty: they decide nothing, and may be most of it.
    """
    row = await connection.fetchrow(
        """
        SELECT workspace.version,
            (SELECT json_agg(json_build_object('id', team.id, 'name', team.name, 'parent_id', team.parent_id))
             FROM team WHERE team.workspace_id = workspace.id) AS teams,
            (SELECT json_agg(json_build_object(
                'id', hat.id, 'name', hat.name,
                'description', CASE WHEN $2 THEN hat.description ELSE '' END,
                'instructions', CASE WHEN $2 THEN hat.instructions ELSE '' END,
                'team_ids', array(SELECT team_id FROM hat_team
                                  WHERE hat_team.workspace_id = hat.workspace_id AND hat_team.hat_id = hat.id),
                'skill_ids', array(SELECT skill_id FROM hat_skill
                                   WHERE hat_skill.workspace_id = hat.workspace_id AND hat_skill.hat_id = hat.id)))
             FROM hat WHERE hat.workspace_id = workspace.id) AS hats,
            (SELECT json_agg(json_build_object(
                'id', skill.id, 'name', skill.name,
                'description', CASE WHEN $2 THEN skill.description ELSE '' END,
                'tool_ids', array(SELECT tool_id FROM skill_tool
                                  WHERE skill_tool.workspace_id = skill.workspace_id
                                    AND skill_tool.skill_id = skill.id)))
             FROM skill WHERE skill.workspace_id = workspace.id) AS skills,
            (SELECT json_agg(json_build_object(
                'id', tool.id, 'name', tool.name, 'mcp_server', tool.mcp_server, 'active', tool.active))
             FROM tool WHERE tool.workspace_id = workspace.id) AS tools
        FROM workspace WHERE workspace.id = $1
        """,
        workspace_id,
        texts,
    )
    if row is None:
        raise LookupError("workspaces stay on record for ever, and this one is not there")
    # In a thread, as there may be very many parts, and other calls should not wait while records are made of them.
    return int(row["version"]), await asyncio.to_thread(_catalogue, row)


async def load_members(connection: Connection, workspace_id: WorkspaceId) -> tuple[Member, ...]:
    """Answers a workspace's members, in order of id."""
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
    members = (Member(row["user_id"], MemberRole(row["role"]), _sorted(row["team_ids"])) for row in rows)
    return tuple(sorted(members, key=lambda member: member.id))


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


async def replace(connection: Connection, workspace: Workspace) -> None:
    """Makes the tables hold exactly what `workspace` holds; rows that stay the same are not written.

    Parts come in before the links to them and go out after, so that no link ever leads nowhere.
    """
    await _upsert_parts(connection, workspace)
    await _replace_links(connection, workspace)
    await _delete_parts(connection, workspace)


async def clear(connection: Connection, workspace_id: WorkspaceId) -> None:
    """Empties a workspace."""
    await replace(connection, Workspace(workspace_id, "", (), Catalogue((), (), (), ())))


async def _upsert_parts(connection: Connection, workspace: Workspace) -> None:
    catalogue = workspace.catalogue
    await connection.execute(
        """
        INSERT INTO member (workspace_id, user_id, role)
        SELECT $1, * FROM unnest($2::text[], $3::text[])
        ON CONFLICT (workspace_id, user_id) DO UPDATE SET role = excluded.role
        WHERE member.role <> excluded.role
        """,
        workspace.id,
        [member.id for member in workspace.members],
        [member.role.value for member in workspace.members],
    )
    await connection.execute(
        """
        INSERT INTO team (workspace_id, id, name, parent_id)
        SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[])
        ON CONFLICT (workspace_id, id) DO UPDATE SET name = excluded.name, parent_id = excluded.parent_id
        WHERE (team.name, team.parent_id) IS DISTINCT FROM (excluded.name, excluded.parent_id)
        """,
        workspace.id,
        *_columns(catalogue.teams, "id", "name", "parent_id"),
    )
    await connection.execute(
        """
        INSERT INTO hat (workspace_id, id, name, description, instructions)
        SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[])
        ON CONFLICT (workspace_id, id) DO UPDATE
        SET name = excluded.name, description = excluded.description, instructions = excluded.instructions
        WHERE (hat.name, hat.description, hat.instructions)
              IS DISTINCT FROM (excluded.name, excluded.description, excluded.instructions)
        """,
        workspace.id,
        *_columns(catalogue.hats, "id", "name", "description", "instructions"),
    )
    await connection.execute(
        """
        INSERT INTO skill (workspace_id, id, name, description)
        SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[])
        ON CONFLICT (workspace_id, id) DO UPDATE SET name = excluded.name, description = excluded.description
        WHERE (skill.name, skill.description) IS DISTINCT FROM (excluded.name, excluded.description)
        """,
        workspace.id,
        *_columns(catalogue.skills, "id", "name", "description"),
    )
    await connection.execute(
        """
        INSERT INTO tool (workspace_id, id, name, mcp_server, active)
        SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::boolean[])
        ON CONFLICT (workspace_id, id) DO UPDATE
        SET name = excluded.name, mcp_server = excluded.mcp_server, active = excluded.active
        WHERE (tool.name, tool.mcp_server, tool.active)
              IS DISTINCT FROM (excluded.name, excluded.mcp_server, excluded.active)
        """,
        workspace.id,
        *_columns(catalogue.tools, "id", "name", "mcp_server", "active"),
    )


async def _replace_links(connection: Connection, workspace: Workspace) -> None:
    catalogue = workspace.catalogue
    links = (
        ("team_member", "user_id", "team_id", [(each.id, to) for each in workspace.members for to in each.team_ids]),
        ("hat_team", "hat_id", "team_id", [(each.id, to) for each in catalogue.hats for to in each.team_ids]),
        ("hat_skill", "hat_id", "skill_id", [(each.id, to) for each in catalogue.hats for to in each.skill_ids]),
        ("skill_tool", "skill_id", "tool_id", [(each.id, to) for each in catalogue.skills for to in each.tool_ids]),
    )
    for table, from_id, to_id, pairs in links:
        values = (workspace.id, [pair[0] for pair in pairs], [pair[1] for pair in pairs])
        await connection.execute(
            f"""
            DELETE FROM {table} WHERE workspace_id = $1 AND NOT EXISTS (
                SELECT FROM unnest($2::text[], $3::text[]) AS wanted (from_id, to_id)
                WHERE wanted.from_id = {table}.{from_id} AND wanted.to_id = {table}.{to_id})
            """,  # noqa: S608 - the names are the constants above
            *values,
        )
        await connection.execute(
            f"""
            INSERT INTO {table} (workspace_id, {from_id}, {to_id}) SELECT $1, * FROM unnest($2::text[], $3::text[])
            ON CONFLICT DO NOTHING
            """,  # noqa: S608 - the same
            *values,
        )


async def _delete_parts(connection: Connection, workspace: Workspace) -> None:
    catalogue = workspace.catalogue
    parts = (
        ("member", "user_id", workspace.members),
        ("hat", "id", catalogue.hats),
        ("team", "id", catalogue.teams),
        ("skill", "id", catalogue.skills),
        ("tool", "id", catalogue.tools),
    )
    for table, id_, kept in parts:
        await connection.execute(
            f"""
            DELETE FROM {table} WHERE workspace_id = $1
            AND NOT EXISTS (SELECT FROM unnest($2::text[]) AS kept (id) WHERE kept.id = {table}.{id_})
            """,  # noqa: S608 - the names are the constants above
            workspace.id,
            [part.id for part in kept],
        )


def _columns(parts: Iterable[object], *names: str) -> list[list[object]]:
    rows = list(parts)
    return [[getattr(row, name) for row in rows] for name in names]


def _catalogue(row: asyncpg.Record) -> Catalogue:
    return Catalogue(
        teams=tuple(Team(**each) for each in _parts(row["teams"])),
        hats=tuple(
            Hat(**each | {"team_ids": _sorted(each["team_ids"]), "skill_ids": _sorted(each["skill_ids"])})
            for each in _parts(row["hats"])
        ),
        skills=tuple(Skill(**each | {"tool_ids": _sorted(each["tool_ids"])}) for each in _parts(row["skills"])),
        tools=tuple(Tool(**each) for each in _parts(row["tools"])),
    )


def _parts(text: str | None) -> list[dict[str, Any]]:
    return sorted(json.loads(text or "[]"), key=lambda part: part["id"])


def _sorted(ids: list[Any]) -> tuple[Any, ...]:
    return tuple(sorted(ids))
