"""Lists of the parts of a workspace: tables `member`, `hat`, `tool`, and the links between parts.

Each function reads the next parts after an id, in order of id. A condition without an index of its own reads the rows
of the one workspace at worst, never those of others.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId, UserId
from skilder_keys.domain.workspace import Hat, HatAudience, Member, MemberRole, Tool

if TYPE_CHECKING:
    from collections.abc import Sequence

    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.domain.workspace_lists import MemberFilter, ToolFilter
    from skilder_keys.storage.database import Connection

# Without these settings, Postgres may plan to read the rows of all workspaces: for a workspace with most of the rows,
# or for tables that were small when it planned.
_BY_INDEX = """\
SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL random_page_cost = 1; SET LOCAL enable_seqscan = off"""

# The comparison of rows fits only the index that begins with the workspace, and needs no other order. $1 is the
# workspace, $2 the id after which to read, $3 the most rows.


@dataclass(frozen=True, slots=True)
class FoundMember:
    """A member without their teams."""

    id: UserId
    role: MemberRole


async def read_members(
    connection: Connection, member_filter: MemberFilter, *, after: str, limit: int
) -> list[FoundMember]:
    """Return the first `limit` members of a team and with a role, after a user id. The text is not looked at.

    Args:
        connection: A snapshot.
        member_filter: The workspace, the team and the role.
        after: The user id after which to read; empty for the first members.
        limit: The most members.
    """
    values: list[object] = [member_filter.workspace_id, after, limit]
    role = _condition("member.role", None if member_filter.role is None else member_filter.role.value, values)
    if member_filter.team_id is None:
        query = f"""
            SELECT member.user_id, member.role FROM member
            WHERE member.workspace_id = $1 AND (member.workspace_id, member.user_id) > ($1, $2){role}
            ORDER BY member.user_id LIMIT $3
        """  # noqa: S608 - no value stands in it
    else:
        team = _condition("link.team_id", member_filter.team_id, values)
        query = f"""
            SELECT link.user_id, member.role FROM team_member AS link CROSS JOIN LATERAL (
                SELECT member.role FROM member WHERE member.workspace_id = $1 AND member.user_id = link.user_id LIMIT 1
            ) AS member
            WHERE link.workspace_id = $1 AND (link.workspace_id, link.user_id) > ($1, $2){team}{role}
            ORDER BY link.user_id LIMIT $3
        """  # noqa: S608 - the same
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(query, *values)
    return [FoundMember(UserId(row["user_id"]), MemberRole(row["role"])) for row in rows]


async def with_teams(connection: Connection, workspace_id: WorkspaceId, found: Sequence[FoundMember]) -> list[Member]:
    """Return members with their teams."""
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(
        """
        SELECT teams.ids FROM unnest($2::text[]) WITH ORDINALITY AS wanted (user_id, place) CROSS JOIN LATERAL (
            SELECT ARRAY(
                SELECT link.team_id FROM team_member AS link
                WHERE link.workspace_id = $1 AND link.user_id = wanted.user_id
            ) AS ids
        ) AS teams
        ORDER BY wanted.place
        """,
        workspace_id,
        [member.id for member in found],
    )
    return [
        Member(member.id, member.role, tuple(map(TeamId, sorted(row["ids"]))))
        for member, row in zip(found, rows, strict=True)
    ]


async def read_hats(connection: Connection, workspace_id: WorkspaceId, *, after: str, limit: int) -> list[Hat]:
    """Return the first `limit` hats after an id, with empty instructions; an empty `after` is for the first ones."""
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(
        """
        SELECT hat.id, hat.name, hat.description, hat.audience,
               ARRAY(SELECT hat_team.team_id FROM hat_team
                     WHERE hat_team.workspace_id = $1 AND hat_team.hat_id = hat.id) AS team_ids,
               ARRAY(SELECT hat_skill.skill_id FROM hat_skill
                     WHERE hat_skill.workspace_id = $1 AND hat_skill.hat_id = hat.id) AS skill_ids
        FROM hat
        WHERE hat.workspace_id = $1 AND (hat.workspace_id, hat.id) > ($1, $2)
        ORDER BY hat.id LIMIT $3
        """,
        workspace_id,
        after,
        limit,
    )
    return [
        Hat(
            HatId(row["id"]),
            row["name"],
            row["description"],
            "",
            HatAudience(row["audience"]),
            tuple(map(TeamId, sorted(row["team_ids"]))),
            tuple(map(SkillId, sorted(row["skill_ids"]))),
        )
        for row in rows
    ]


async def read_parents(connection: Connection, workspace_id: WorkspaceId) -> dict[TeamId, TeamId | None]:
    """Return the team above each team of a workspace; None for a team at the top."""
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch("SELECT id, parent_id FROM team WHERE workspace_id = $1", workspace_id)
    return {row["id"]: row["parent_id"] for row in rows}


async def read_tools(connection: Connection, tool_filter: ToolFilter, *, after: str, limit: int) -> list[Tool]:
    """Return the first `limit` tools of an MCP server and a skill, after an id. The text is not looked at.

    Args:
        connection: A snapshot.
        tool_filter: The workspace, the MCP server and the skill.
        after: The id after which to read; empty for the first tools.
        limit: The most tools.
    """
    values: list[object] = [tool_filter.workspace_id, after, limit]
    server = _condition("tool.mcp_server", tool_filter.mcp_server or None, values)
    if tool_filter.skill_id is None:
        query = f"""
            SELECT tool.id, tool.name, tool.mcp_server, tool.disabled FROM tool
            WHERE tool.workspace_id = $1 AND (tool.workspace_id, tool.id) > ($1, $2){server}
            ORDER BY tool.id LIMIT $3
        """  # noqa: S608 - no value stands in it
    else:
        skill = _condition("link.skill_id", tool_filter.skill_id, values)
        query = f"""
            SELECT tool.id, tool.name, tool.mcp_server, tool.disabled FROM skill_tool AS link CROSS JOIN LATERAL (
                SELECT tool.id, tool.name, tool.mcp_server, tool.disabled FROM tool
                WHERE tool.workspace_id = $1 AND tool.id = link.tool_id LIMIT 1
            ) AS tool
            WHERE link.workspace_id = $1 AND link.tool_id > $2{skill}{server}
            ORDER BY link.tool_id LIMIT $3
        """  # noqa: S608 - the same
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(query, *values)
    return [Tool(ToolId(row["id"]), row["name"], row["mcp_server"], row["disabled"]) for row in rows]


def _condition(column: str, value: str | None, values: list[object]) -> str:
    """Return a condition on a column, and add its value; an empty text for no value."""
    if value is None:
        return ""
    values.append(value)
    return f" AND {column} = ${len(values)}"
