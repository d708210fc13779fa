"""What decides about the keys of a workspace, for memory: its members, teams, hats, skills and tools."""

from __future__ import annotations

from dataclasses import dataclass
from sys import intern
from typing import TYPE_CHECKING, Any

from skilder_keys.domain.difference import Part
from skilder_keys.domain.ids import ToolId
from skilder_keys.domain.revision import Revision
from skilder_keys.domain.workspace import HatAudience
from skilder_keys.storage import fence

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    import asyncpg

    from skilder_keys.domain.ids import HatId, SkillId, TeamId, UserId, WorkspaceId
    from skilder_keys.storage.database import Connection

    Wanted = Mapping[Part, Collection[str] | None]
    """The kinds of parts to read: for each one the ids, or None for all of the kind. Teams are read as a whole."""

EVERYTHING: Wanted = dict.fromkeys((Part.MEMBER, Part.TEAM, Part.HAT, Part.SKILL, Part.TOOL))


@dataclass(frozen=True, slots=True)
class HatRow:
    """A hat, as far as an answer may have it."""

    id: HatId
    name: str
    audience: HatAudience
    team_ids: tuple[TeamId, ...]
    skill_ids: tuple[SkillId, ...]
    description: str
    instructions: str


@dataclass(frozen=True, slots=True)
class SkillRow:
    """A skill, as far as an answer may have it."""

    id: SkillId
    name: str
    tool_ids: tuple[ToolId, ...]
    description: str


@dataclass(frozen=True, slots=True)
class ToolRow:
    """An enabled tool."""

    id: ToolId
    name: str
    mcp_server: str


@dataclass(frozen=True, slots=True)
class SnapshotRead:
    """Parts of a workspace, from one snapshot of the database. A part that was wanted and is not here does not exist.

    Attributes:
        revision: The revision of the database at that time.
        server: Identifies the server, as in `fence.FenceState`.
        wanted: What was read.
        version: The version of the workspace; 0 if there is none.
        deleted: Whether the workspace does not exist any more.
        rows: The parts, not decoded yet.
    """

    revision: Revision
    server: str
    wanted: Wanted
    version: int
    deleted: bool
    rows: tuple[asyncpg.Record, ...]

    def members(self) -> dict[UserId, frozenset[TeamId]]:
        """Return the teams of each member. Members with the same teams share one set."""
        teams = self._links("member_team")
        shared: dict[frozenset[Any], frozenset[Any]] = {}
        found = {row["id"]: frozenset(teams.get(row["id"], ())) for row in self._of("member")}
        return {user_id: shared.setdefault(each, each) for user_id, each in found.items()}

    def parents(self) -> dict[TeamId, TeamId | None]:
        """Return the team above each team."""
        return {row["id"]: row["text"] for row in self._of("team")}

    def hats(self) -> list[HatRow]:
        """Return the hats."""
        teams, skills = self._links("hat_team"), self._links("hat_skill")
        return [
            HatRow(
                row["id"],
                row["name"],
                HatAudience(row["text"]),
                tuple(teams.get(row["id"], ())),
                tuple(sorted(skills.get(row["id"], ()))),
                *row["ids"],
            )
            for row in self._of("hat")
        ]

    def skills(self) -> list[SkillRow]:
        """Return the skills."""
        tools = self._links("skill_tool")
        return [
            SkillRow(row["id"], row["name"], tuple(sorted(tools.get(row["id"], ()))), *row["ids"])
            for row in self._of("skill")
        ]

    def tools(self) -> list[ToolRow]:
        """Return the enabled tools."""
        return [ToolRow(ToolId(intern(row["id"])), row["name"], intern(row["text"])) for row in self._of("tool")]

    def _of(self, kind: str) -> Iterable[asyncpg.Record]:
        return (row for row in self.rows if row["kind"] == kind)

    def _links(self, kind: str) -> dict[Any, list[Any]]:
        # Many links name the same id: as one object in place of many.
        return {row["id"]: list(map(intern, row["ids"])) for row in self._of(kind)}


# The tables of each kind of part: its kind of row, the table, the column of the part's id, and what is read.
_TABLES: Mapping[Part, tuple[tuple[str, str, str, str], ...]] = {
    Part.MEMBER: (
        ("member", "member", "user_id", "NULL, NULL, NULL::text[]"),
        ("member_team", "team_member", "user_id", "NULL, NULL, array_agg(team_id)"),
    ),
    Part.TEAM: (("team", "team", "id", "NULL, parent_id, NULL::text[]"),),
    Part.HAT: (
        ("hat", "hat", "id", "name, audience, ARRAY[description, instructions]"),
        ("hat_team", "hat_team", "hat_id", "NULL, NULL, array_agg(team_id)"),
        ("hat_skill", "hat_skill", "hat_id", "NULL, NULL, array_agg(skill_id)"),
    ),
    Part.SKILL: (
        ("skill", "skill", "id", "name, NULL, ARRAY[description]"),
        ("skill_tool", "skill_tool", "skill_id", "NULL, NULL, array_agg(tool_id)"),
    ),
    Part.TOOL: (("tool", "tool", "id", "name, mcp_server, NULL::text[]"),),
}


async def read(connection: Connection, workspace_id: WorkspaceId, wanted: Wanted) -> SnapshotRead:
    """Read parts of a workspace by one statement, so that they are of one snapshot."""
    sql, arguments = _statement(wanted)
    rows = await connection.fetch(sql, workspace_id, *arguments)
    state = next(row for row in rows if row["kind"] == "state")
    epoch, tag, version, deleted = state["ids"]
    return SnapshotRead(
        Revision(int(epoch), int(tag)), state["id"], wanted, int(version), deleted == "true", tuple(rows)
    )


def _statement(wanted: Wanted) -> tuple[str, list[list[str]]]:
    """Return the statement for the wanted parts, and its arguments after the workspace."""
    # Links have rows of their own, so that each table is read once. With a subquery for each part instead, a plan that
    # was made when there were few links would read all links for every part.
    parts = [
        f"""
        SELECT 'state' AS kind, {fence.SERVER} AS id, NULL::text AS name, NULL::text AS text, ARRAY[
            epoch::text, tag::text,
            (SELECT coalesce(max(version), 0)::text FROM workspace WHERE workspace.id = $1),
            (SELECT (count(*) = count(deleted_at))::text FROM workspace WHERE workspace.id = $1)
        ] AS ids FROM fence
        """  # noqa: S608 - the parts of all statements here are constants
    ]
    arguments: list[list[str]] = []
    for part, ids in wanted.items():
        given = None if part is Part.TEAM else ids
        if given is not None:
            arguments.append(list(given))
        for kind, table, id_, columns in _TABLES[part]:
            chosen = f"FROM {table} WHERE workspace_id = $1 {'AND NOT disabled' if part is Part.TOOL else ''}"
            are_links = "array_agg" in columns
            if given is None:
                parts.append(f"SELECT '{kind}', {id_}, {columns} {chosen} {f'GROUP BY {id_}' if are_links else ''}")
                continue
            # Each part is looked up by its whole key. For a list of ids, Postgres may read all parts of the workspace
            # if it has no statistics.
            parts.append(
                f"""
                SELECT '{kind}', wanted.id, found.* FROM unnest(${len(arguments) + 1}::text[]) AS wanted (id)
                JOIN LATERAL (
                    SELECT {columns} {chosen} AND {id_} = wanted.id {"HAVING count(*) > 0" if are_links else "LIMIT 1"}
                ) AS found ON true
                """  # noqa: S608
            )
    return " UNION ALL ".join(parts), arguments
