"""The contents of a workspace: tables `member`, `team`, `hat`, `skill`, `tool` and the links between them.

This module reads them; `storage.catalog_changes` writes them.
"""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from skilder_keys.domain.workspace import Catalog, Hat, HatAudience, Member, MemberRole, Skill, Team, Tool

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    import asyncpg

    from skilder_keys.domain.ids import UserId, WorkspaceId
    from skilder_keys.offload import Offload
    from skilder_keys.storage.database import Connection


CATALOG_PARTS = tuple(each.name for each in fields(Catalog))
"""The fields of a catalog."""


async def load_catalog(
    connection: Connection,
    workspace_id: WorkspaceId,
    *,
    offload: Offload,
    parts: Collection[str] = CATALOG_PARTS,
) -> Catalog:
    """Return the catalog of a workspace, from one snapshot.

    Args:
        connection: The connection.
        workspace_id: The workspace.
        offload: Where the rows are decoded.
        parts: Which fields of the catalog to read. The others are empty, and their tables are not read.
    """
    # Each part has a row, because the driver decodes a row in one piece, while nothing else runs. Links have rows of
    # their own, so that each table is read once. With a subquery for each part instead, a plan that was made when there
    # were few links would read all links for every part. A table whose part is not wanted is never read, in any plan,
    # as its condition on $2 does not depend on the row.
    rows = await connection.fetch(
        """
        SELECT 'team' AS kind,
               json_build_object('id', team.id, 'name', team.name, 'parent_id', team.parent_id)::text AS part
        FROM team WHERE team.workspace_id = $1 AND 'teams' = ANY($2)
        UNION ALL
        SELECT 'hat', json_build_object(
            'id', hat.id, 'name', hat.name,
            'description', hat.description, 'instructions', hat.instructions, 'audience', hat.audience)::text
        FROM hat WHERE hat.workspace_id = $1 AND 'hats' = ANY($2)
        UNION ALL
        SELECT 'hat_team', json_build_array(hat_id, json_agg(team_id))::text
        FROM hat_team WHERE workspace_id = $1 AND 'hats' = ANY($2) GROUP BY hat_id
        UNION ALL
        SELECT 'hat_skill', json_build_array(hat_id, json_agg(skill_id))::text
        FROM hat_skill WHERE workspace_id = $1 AND 'hats' = ANY($2) GROUP BY hat_id
        UNION ALL
        SELECT 'skill', json_build_object('id', skill.id, 'name', skill.name, 'description', skill.description)::text
        FROM skill WHERE skill.workspace_id = $1 AND 'skills' = ANY($2)
        UNION ALL
        SELECT 'skill_tool', json_build_array(skill_id, json_agg(tool_id))::text
        FROM skill_tool WHERE workspace_id = $1 AND 'skills' = ANY($2) GROUP BY skill_id
        UNION ALL
        SELECT 'tool', json_build_object(
            'id', tool.id, 'name', tool.name, 'mcp_server', tool.mcp_server, 'disabled', tool.disabled)::text
        FROM tool WHERE tool.workspace_id = $1 AND 'tools' = ANY($2)
        """,
        workspace_id,
        list(parts),
    )
    return await offload.run(_catalog, rows)


async def load_members(connection: Connection, workspace_id: WorkspaceId, offload: Offload) -> tuple[Member, ...]:
    """Return a workspace's members, in order of id."""
    rows = await connection.fetch(
        """
        SELECT user_id, role, NULL AS team_ids FROM member WHERE workspace_id = $1
        UNION ALL
        SELECT user_id, NULL, array_agg(team_id) FROM team_member WHERE workspace_id = $1 GROUP BY user_id
        """,
        workspace_id,
    )
    return await offload.run(_members, rows)


async def member_role(connection: Connection, workspace_id: WorkspaceId, user_id: UserId) -> MemberRole | None:
    """Return the role of a person in a workspace; None if they are not a member."""
    role = await connection.fetchval(
        "SELECT role FROM member WHERE workspace_id = $1 AND user_id = $2", workspace_id, user_id
    )
    return None if role is None else MemberRole(role)


async def missing_hats(connection: Connection, workspace_id: WorkspaceId, hat_ids: Iterable[str]) -> frozenset[str]:
    """Return the hats among `hat_ids` that the workspace does not have."""
    rows = await connection.fetch(
        """
        SELECT wanted.id FROM unnest($2::text[]) AS wanted (id)
        WHERE NOT EXISTS (SELECT FROM hat WHERE hat.workspace_id = $1 AND hat.id = wanted.id)
        """,
        workspace_id,
        list(hat_ids),
    )
    return frozenset(row["id"] for row in rows)


def _members(rows: Sequence[asyncpg.Record]) -> tuple[Member, ...]:
    teams = {row["user_id"]: row["team_ids"] for row in rows if row["role"] is None}
    return _in_order(
        [
            Member(row["user_id"], MemberRole(row["role"]), _sorted(teams.get(row["user_id"], ())))
            for row in rows
            if row["role"] is not None
        ]
    )


def _catalog(rows: Iterable[asyncpg.Record]) -> Catalog:
    parts: dict[str, list[Any]] = defaultdict(list)
    for row in rows:
        parts[row["kind"]].append(json.loads(row["part"]))
    teams, skills, tools = (
        {id_: _sorted(ids) for id_, ids in parts[links]} for links in ("hat_team", "hat_skill", "skill_tool")
    )
    hats = [
        Hat(
            **each | {"audience": HatAudience(each["audience"])},
            team_ids=teams.get(each["id"], ()),
            skill_ids=skills.get(each["id"], ()),
        )
        for each in parts["hat"]
    ]
    return Catalog(
        teams=_in_order([Team(**each) for each in parts["team"]]),
        hats=_in_order(hats),
        skills=_in_order([Skill(**each, tool_ids=tools.get(each["id"], ())) for each in parts["skill"]]),
        tools=_in_order([Tool(**each) for each in parts["tool"]]),
    )


def _in_order(parts: list[Any]) -> tuple[Any, ...]:
    return tuple(sorted(parts, key=lambda part: part.id))


def _sorted(ids: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(ids))
