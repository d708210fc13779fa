"""What leads to tools: tables `hat`, `skill`, `tool` and their links; and who may reach one: `member` and `key`.

Each function reads rows of one workspace by an index, and no more of those that can be many than it is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skilder_keys.domain.explanations import FoundTool, OutlinedHat
from skilder_keys.domain.tool_sets import ToolName
from skilder_keys.domain.workspace import HatAudience
from skilder_keys.storage.key_rows import KEY_COLUMNS, key_of

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from skilder_keys.domain.ids import HatId, KeyId, SkillId, TeamId, ToolId, UserId, WorkspaceId
    from skilder_keys.domain.keys import Key
    from skilder_keys.storage.database import Connection

# Without these settings, Postgres may plan to read the rows of all workspaces: for a workspace with most of the rows,
# or for tables that were small when it planned.
_BY_INDEX = """\
SET LOCAL plan_cache_mode = force_generic_plan; SET LOCAL random_page_cost = 1; SET LOCAL enable_seqscan = off"""

_TOOL = "tool.id, tool.name, tool.mcp_server, tool.disabled"


@dataclass(frozen=True, slots=True)
class ToolSkills:
    """An enabled tool, and the skills that have it."""

    tool: FoundTool
    skill_ids: frozenset[SkillId]


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key that may reach a hat.

    Attributes:
        user_id: The user of a user key; None for other types.
        hat_ids: Those of some hats that its limit names; None without a limit.
    """

    id: KeyId
    user_id: UserId | None
    hat_ids: frozenset[HatId] | None


async def read_hats(connection: Connection, workspace_id: WorkspaceId) -> list[OutlinedHat]:
    """Return the hats of a workspace, in order of id."""
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(
        """
        SELECT hat.id, hat.name, hat.audience,
               ARRAY(SELECT hat_team.team_id FROM hat_team
                     WHERE hat_team.workspace_id = $1 AND hat_team.hat_id = hat.id) AS team_ids
        FROM hat WHERE hat.workspace_id = $1
        """,
        workspace_id,
    )
    hats = [OutlinedHat(row["id"], row["name"], HatAudience(row["audience"]), tuple(row["team_ids"])) for row in rows]
    return sorted(hats, key=lambda hat: hat.id)


async def find_tool(
    connection: Connection, workspace_id: WorkspaceId, tool: ToolId | ToolName
) -> tuple[FoundTool, bool] | None:
    """Return a tool and whether it is enabled; None if there is none."""
    await connection.execute(_BY_INDEX)
    if isinstance(tool, ToolName):
        query = f"SELECT {_TOOL} FROM tool WHERE workspace_id = $1 AND mcp_server = $2 AND name = $3"  # noqa: S608 - constant
        row = await connection.fetchrow(query, workspace_id, tool.mcp_server, tool.name)
    else:
        query = f"SELECT {_TOOL} FROM tool WHERE workspace_id = $1 AND id = $2"  # noqa: S608 - the same
        row = await connection.fetchrow(query, workspace_id, tool)
    return None if row is None else (FoundTool(row["id"], row["name"], row["mcp_server"]), not row["disabled"])


async def hats_with_tool(
    connection: Connection, workspace_id: WorkspaceId, tool_id: ToolId
) -> Mapping[HatId, frozenset[SkillId]]:
    """Return the hats with a skill that has a tool, each with these skills."""
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(
        """
        SELECT grouped.hat_id, array_agg(link.skill_id) AS skill_ids FROM skill_tool AS link CROSS JOIN LATERAL (
            SELECT hat_skill.hat_id FROM hat_skill
            WHERE hat_skill.workspace_id = $1 AND hat_skill.skill_id = link.skill_id
            OFFSET 0
        ) AS grouped
        WHERE link.workspace_id = $1 AND link.tool_id = $2
        GROUP BY grouped.hat_id
        """,
        workspace_id,
        tool_id,
    )
    return {row["hat_id"]: frozenset(row["skill_ids"]) for row in rows}


async def skills_of_hats(
    connection: Connection, workspace_id: WorkspaceId, hat_ids: Sequence[HatId]
) -> frozenset[SkillId]:
    """Return the skills of some hats."""
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(
        """
        SELECT DISTINCT link.skill_id FROM unnest($2::text[]) AS wanted (id) CROSS JOIN LATERAL (
            SELECT hat_skill.skill_id FROM hat_skill
            WHERE hat_skill.workspace_id = $1 AND hat_skill.hat_id = wanted.id
            OFFSET 0
        ) AS link
        """,
        workspace_id,
        list(hat_ids),
    )
    return frozenset(row["skill_id"] for row in rows)


async def read_tools(connection: Connection, workspace_id: WorkspaceId, *, after: str, limit: int) -> list[ToolSkills]:
    """Return the first `limit` enabled tools after an id, in order of id."""
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(
        """
        SELECT tool.id, tool.name, tool.mcp_server,
               ARRAY(SELECT skill_tool.skill_id FROM skill_tool
                     WHERE skill_tool.workspace_id = $1 AND skill_tool.tool_id = tool.id) AS skill_ids
        FROM tool
        WHERE tool.workspace_id = $1 AND (tool.workspace_id, tool.id) > ($1, $2) AND NOT tool.disabled
        ORDER BY tool.id LIMIT $3
        """,
        workspace_id,
        after,
        limit,
    )
    return [
        ToolSkills(FoundTool(row["id"], row["name"], row["mcp_server"]), frozenset(row["skill_ids"])) for row in rows
    ]


async def teams_of(
    connection: Connection, workspace_id: WorkspaceId, user_ids: Collection[UserId]
) -> Mapping[UserId, frozenset[TeamId]]:
    """Return the teams of those of some users who are members."""
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(
        """
        SELECT found.user_id, found.team_ids FROM unnest($2::text[]) AS wanted (user_id) CROSS JOIN LATERAL (
            SELECT member.user_id, ARRAY(
                SELECT team_member.team_id FROM team_member
                WHERE team_member.workspace_id = $1 AND team_member.user_id = member.user_id
            ) AS team_ids
            FROM member WHERE member.workspace_id = $1 AND member.user_id = wanted.user_id LIMIT 1
        ) AS found
        """,
        workspace_id,
        list(user_ids),
    )
    return {row["user_id"]: frozenset(row["team_ids"]) for row in rows}


async def read_candidates(
    connection: Connection,
    workspace_id: WorkspaceId,
    hat_ids: Sequence[HatId],
    *,
    user_id: UserId | None,
    before: KeyId | None,
    limit: int,
) -> list[Candidate]:
    """Return the first `limit` keys of a workspace that may reach some hats, newest first, older than `before`.

    They are the workspace and user keys that are not revoked. Whatever else they need, they may lack.

    Args:
        connection: A snapshot.
        workspace_id: The workspace.
        hat_ids: The hats.
        user_id: The only user whose keys are read; None for all keys.
        before: Where to begin; None for the newest key.
        limit: The most keys.
    """
    values: list[object] = [workspace_id, list(hat_ids), limit]
    conditions = ""
    for condition, value in (("key.id < ", before), ("key.user_id = ", user_id)):
        if value is not None:
            values.append(value)
            conditions += f" AND {condition}${len(values)}"
    # Where the keys of a user are asked for, Postgres must not read all keys that are not revoked instead.
    not_revoked = "key.revoked_at IS NULL" if user_id is None else "num_nulls(key.revoked_at) = 1"
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(
        f"""
        SELECT key.id, key.user_id, key.limited_to_hats,
               ARRAY(SELECT key_hat.hat_id FROM key_hat
                     WHERE key_hat.key_id = key.id AND key_hat.hat_id = ANY($2::text[]) LIMIT 100) AS hat_ids
        FROM key
        WHERE key.workspace_id = $1 AND {not_revoked} AND key.type <> 'runtime'{conditions}
        ORDER BY key.id DESC LIMIT $3
        """,  # noqa: S608 - no value stands in it
        *values,
    )
    return [
        Candidate(row["id"], row["user_id"], frozenset(row["hat_ids"]) if row["limited_to_hats"] else None)
        for row in rows
    ]


async def read_keys(connection: Connection, key_ids: Sequence[KeyId]) -> list[Key]:
    """Return some keys of a workspace that exist, in the given order."""
    await connection.execute(_BY_INDEX)
    rows = await connection.fetch(
        f"""
        SELECT {KEY_COLUMNS} FROM unnest($1::uuid[]) WITH ORDINALITY AS wanted (id, place)
        CROSS JOIN LATERAL (SELECT * FROM key WHERE key.id = wanted.id LIMIT 1) AS key
        ORDER BY wanted.place
        """,  # noqa: S608 - a constant
        list(key_ids),
    )
    return [key_of(row) for row in rows]
