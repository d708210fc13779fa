"""Single parts of a workspace, and what refers to them. Nothing here reads a whole workspace.

What is looked up by many ids is looked up in pieces: to encode very many values at once would block the event loop.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from skilder_keys.domain.difference import Part
from skilder_keys.domain.ids import SkillId, TeamId
from skilder_keys.domain.totals import Around
from skilder_keys.domain.workspace import Catalog, Hat, HatAudience, Member, MemberRole, Skill, Team, Tool, Workspace
from skilder_keys.domain.workspace_update import Naming, PartRef
from skilder_keys.storage.catalog_changes import pieces
from skilder_keys.storage.plans import prefer_indexes

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.offload import Offload
    from skilder_keys.storage.database import Connection

_PIECE = 2_000

# Each part is a row of its own as JSON, because the driver decodes a row in one piece, while nothing else runs. It is
# looked up by its whole key, once for each id: for a list of ids Postgres, if it has no statistics, may take another
# index, and read all parts of the workspace.
_LOAD = {
    Part.MEMBER: """
        SELECT json_build_object('id', user_id, 'role', role, 'team_ids', ARRAY(
            SELECT team_id FROM team_member AS link
            WHERE (link.workspace_id, link.user_id) = (member.workspace_id, member.user_id)))::text AS part
        FROM unnest($2::text[]) AS wanted (id)
        JOIN LATERAL (SELECT * FROM member WHERE workspace_id = $1 AND user_id = wanted.id LIMIT 1) AS member ON true
        """,
    Part.TEAM: """
        SELECT json_build_object('id', team.id, 'name', team.name, 'parent_id', team.parent_id)::text AS part
        FROM unnest($2::text[]) AS wanted (id)
        JOIN LATERAL (SELECT * FROM team WHERE workspace_id = $1 AND id = wanted.id LIMIT 1) AS team ON true
        """,
    Part.HAT: """
        SELECT json_build_object(
            'id', hat.id, 'name', hat.name, 'description', hat.description, 'instructions', hat.instructions,
            'audience', hat.audience,
            'team_ids', ARRAY(
                SELECT team_id FROM hat_team AS link
                WHERE (link.workspace_id, link.hat_id) = (hat.workspace_id, hat.id)),
            'skill_ids', ARRAY(
                SELECT skill_id FROM hat_skill AS link
                WHERE (link.workspace_id, link.hat_id) = (hat.workspace_id, hat.id)))::text AS part
        FROM unnest($2::text[]) AS wanted (id)
        JOIN LATERAL (SELECT * FROM hat WHERE workspace_id = $1 AND id = wanted.id LIMIT 1) AS hat ON true
        """,
    Part.SKILL: """
        SELECT json_build_object(
            'id', skill.id, 'name', skill.name, 'description', skill.description,
            'tool_ids', ARRAY(
                SELECT tool_id FROM skill_tool AS link
                WHERE (link.workspace_id, link.skill_id) = (skill.workspace_id, skill.id)))::text AS part
        FROM unnest($2::text[]) AS wanted (id)
        JOIN LATERAL (SELECT * FROM skill WHERE workspace_id = $1 AND id = wanted.id LIMIT 1) AS skill ON true
        """,
    Part.TOOL: """
        SELECT json_build_object(
            'id', tool.id, 'name', tool.name, 'mcp_server', tool.mcp_server, 'disabled', tool.disabled)::text AS part
        FROM unnest($2::text[]) AS wanted (id)
        JOIN LATERAL (SELECT * FROM tool WHERE workspace_id = $1 AND id = wanted.id LIMIT 1) AS tool ON true
        """,
}
_TABLES = {
    Part.MEMBER: ("member", "user_id"),
    Part.TEAM: ("team", "id"),
    Part.HAT: ("hat", "id"),
    Part.SKILL: ("skill", "id"),
    Part.TOOL: ("tool", "id"),
}
# What names a part: the kind that is named, the kind that names it, the table, and its columns for both.
_NAMINGS = (
    (Part.TEAM, Part.MEMBER, "team_member", "team_id", "user_id"),
    (Part.TEAM, Part.HAT, "hat_team", "team_id", "hat_id"),
    (Part.TEAM, Part.TEAM, "team", "parent_id", "id"),
    (Part.SKILL, Part.HAT, "hat_skill", "skill_id", "hat_id"),
    (Part.TOOL, Part.SKILL, "skill_tool", "tool_id", "skill_id"),
)


async def load(
    connection: Connection, workspace_id: WorkspaceId, name: str, ids: Mapping[Part, Collection[str]], offload: Offload
) -> Workspace:
    """Return those parts of a workspace that have the given ids, in order of kind and id.

    So that they are consistent, the workspace must be locked, or the connection a snapshot.
    """
    await prefer_indexes(connection)
    rows: dict[Part, list[Any]] = {part: [] for part in _LOAD}
    for part, sql in _LOAD.items():
        for piece in pieces(ids[part], _PIECE):
            rows[part] += await connection.fetch(sql, workspace_id, piece)
    return await offload.run(_workspace, workspace_id, name, rows)


async def find_ids(connection: Connection, workspace_id: WorkspaceId, part: Part) -> list[str]:
    """Return the ids of all parts of a kind."""
    table, id_ = _TABLES[part]
    rows = await connection.fetch(
        f"SELECT {id_} AS id FROM {table} WHERE workspace_id = $1",  # noqa: S608 - one of the tables above
        workspace_id,
    )
    return [row["id"] for row in rows]


async def find_existing(
    connection: Connection, workspace_id: WorkspaceId, ids: Mapping[Part, Collection[str]]
) -> dict[Part, set[str]]:
    """Return which of the parts with the given ids exist."""
    found: dict[Part, set[str]] = {}
    for part, wanted in ids.items():
        table, id_ = _TABLES[part]
        found[part] = set()
        for piece in pieces(wanted, _PIECE):
            # The LIMIT prevents a join with all parts of the workspace.
            rows = await connection.fetch(
                f"""
                SELECT found.id FROM unnest($2::text[]) AS wanted (id)
                JOIN LATERAL (
                    SELECT {id_} AS id FROM {table} WHERE workspace_id = $1 AND {id_} = wanted.id LIMIT 1
                ) AS found ON true
                """,  # noqa: S608 - one of the tables above
                workspace_id,
                piece,
            )
            found[part].update(row["id"] for row in rows)
    return found


async def find_tool_names(
    connection: Connection, workspace_id: WorkspaceId, names: Collection[tuple[str, str]]
) -> dict[tuple[str, str], str]:
    """Return the ids of the tools that have the given names, by server and name."""
    found: dict[tuple[str, str], str] = {}
    for piece in pieces(names, _PIECE):
        rows = await connection.fetch(
            """
            SELECT wanted.mcp_server, wanted.name, found.id
            FROM unnest($2::text[], $3::text[]) AS wanted (mcp_server, name)
            JOIN LATERAL (
                SELECT id FROM tool
                WHERE workspace_id = $1 AND mcp_server = wanted.mcp_server AND name = wanted.name LIMIT 1
            ) AS found ON true
            """,
            workspace_id,
            [server for server, _ in piece],
            [name for _, name in piece],
        )
        found |= {(row["mcp_server"], row["name"]): row["id"] for row in rows}
    return found


async def find_parents(connection: Connection, workspace_id: WorkspaceId) -> dict[TeamId, TeamId | None]:
    """Return the parent of each team of a workspace."""
    rows = await connection.fetch("SELECT id, parent_id FROM team WHERE workspace_id = $1", workspace_id)
    return {row["id"]: row["parent_id"] for row in rows}


async def find_namings(
    connection: Connection,
    workspace_id: WorkspaceId,
    removed: Mapping[Part, Collection[str]],
    touched: Mapping[Part, Collection[str]],
) -> list[Naming]:
    """Return what names parts that are removed, without the parts that are touched."""
    found = []
    for named, by, table, named_id, by_id in _NAMINGS:
        for piece in pieces(removed[named], _PIECE):
            rows = await connection.fetch(
                f"""
                SELECT wanted.id AS named, min(link.by_id) AS first, count(*) AS count
                FROM unnest($2::text[]) AS wanted (id)
                JOIN LATERAL (
                    SELECT {by_id} AS by_id FROM {table} WHERE workspace_id = $1 AND {named_id} = wanted.id OFFSET 0
                ) AS link ON true
                WHERE NOT EXISTS (SELECT FROM unnest($3::text[]) AS touched (id) WHERE touched.id = link.by_id)
                GROUP BY wanted.id
                """,  # noqa: S608 - the names are the constants above
                workspace_id,
                piece,
                list(touched[by]),
            )
            found += [Naming(PartRef(named, row["named"]), by, row["first"], row["count"]) for row in rows]
    return found


async def find_around(connection: Connection, workspace_id: WorkspaceId, before: Workspace, after: Workspace) -> Around:
    """Return what parts that stay add to the paths of parts that change.

    Args:
        connection: The same as for `load`.
        workspace_id: The workspace.
        before: The parts that change, as they are now.
        after: The same parts, as they will be.
    """
    states = (before.catalog, after.catalog)
    hats = {hat.id for state in states for hat in state.hats}
    skills = {skill.id for state in states for skill in state.skills}
    named = {skill_id for state in states for hat in state.hats for skill_id in hat.skill_ids} - skills
    sizes: dict[SkillId, int] = {}
    for piece in pieces(named, _PIECE):
        rows = await connection.fetch(
            """
            SELECT wanted.id AS skill_id, found.size FROM unnest($2::text[]) AS wanted (id)
            JOIN LATERAL (
                SELECT count(*) AS size FROM skill_tool WHERE workspace_id = $1 AND skill_id = wanted.id
            ) AS found ON true
            """,
            workspace_id,
            piece,
        )
        sizes |= {SkillId(row["skill_id"]): row["size"] for row in rows}
    names: dict[SkillId, int] = {}
    for piece in pieces(skills, _PIECE):
        rows = await connection.fetch(
            """
            SELECT wanted.id AS skill_id, count(*) AS count
            FROM unnest($2::text[]) AS wanted (id)
            JOIN LATERAL (
                SELECT hat_id FROM hat_skill WHERE workspace_id = $1 AND skill_id = wanted.id OFFSET 0
            ) AS link ON true
            WHERE NOT EXISTS (SELECT FROM unnest($3::text[]) AS changed (id) WHERE changed.id = link.hat_id)
            GROUP BY wanted.id
            """,
            workspace_id,
            piece,
            list(hats),
        )
        names |= {SkillId(row["skill_id"]): row["count"] for row in rows}
    return Around(sizes, names)


def _workspace(workspace_id: WorkspaceId, name: str, rows: Mapping[Part, Sequence[Any]]) -> Workspace:
    parts = {part: [json.loads(row["part"]) for row in found] for part, found in rows.items()}
    return Workspace(
        workspace_id,
        name,
        _in_order(
            Member(each["id"], MemberRole(each["role"]), _sorted(each["team_ids"])) for each in parts[Part.MEMBER]
        ),
        Catalog(
            teams=_in_order(Team(**each) for each in parts[Part.TEAM]),
            hats=_in_order(
                Hat(
                    **each
                    | {
                        "audience": HatAudience(each["audience"]),
                        "team_ids": _sorted(each["team_ids"]),
                        "skill_ids": _sorted(each["skill_ids"]),
                    }
                )
                for each in parts[Part.HAT]
            ),
            skills=_in_order(Skill(**each | {"tool_ids": _sorted(each["tool_ids"])}) for each in parts[Part.SKILL]),
            tools=_in_order(Tool(**each) for each in parts[Part.TOOL]),
        ),
    )


def _in_order(parts: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(parts, key=lambda part: part.id))


def _sorted(ids: Iterable[Any]) -> tuple[Any, ...]:
    return tuple(sorted(ids))
