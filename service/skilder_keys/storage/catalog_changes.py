"""Write the contents of a workspace, in pieces: to encode very many values at once would block the event loop."""

from __future__ import annotations

from collections import defaultdict
from enum import Enum
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from skilder_keys.domain.difference import Action, Part, parts_of
from skilder_keys.storage.plans import forget_plans, prefer_indexes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from skilder_keys.domain.difference import Change
    from skilder_keys.domain.ids import WorkspaceId
    from skilder_keys.domain.workspace import Workspace
    from skilder_keys.offload import Offload
    from skilder_keys.storage.database import Connection

    Statement = tuple[str, list[Any]]

Value = TypeVar("Value")

_LINKS = (
    ("team_member", "user_id", "team_id", Part.MEMBER, "team_ids"),
    ("hat_team", "hat_id", "team_id", Part.HAT, "team_ids"),
    ("hat_skill", "hat_id", "skill_id", Part.HAT, "skill_ids"),
    ("skill_tool", "skill_id", "tool_id", Part.SKILL, "tool_ids"),
)
_TABLES = {Part.MEMBER: "member", Part.HAT: "hat", Part.TEAM: "team", Part.SKILL: "skill", Part.TOOL: "tool"}
_ROWS = 2000
# Hats have long instructions, so fewer of them are written at once.
_HATS = 200

_UPSERTS = {
    Part.MEMBER: (
        """
        INSERT INTO member (workspace_id, user_id, role)
        SELECT $1, * FROM unnest($2::text[], $3::text[])
        ON CONFLICT (workspace_id, user_id) DO UPDATE SET role = excluded.role
        WHERE member.role <> excluded.role
        """,
        ("id", "role"),
    ),
    Part.TEAM: (
        """
        INSERT INTO team (workspace_id, id, name, parent_id)
        SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[])
        ON CONFLICT (workspace_id, id) DO UPDATE SET name = excluded.name, parent_id = excluded.parent_id
        WHERE (team.name, team.parent_id) IS DISTINCT FROM (excluded.name, excluded.parent_id)
        """,
        ("id", "name", "parent_id"),
    ),
    Part.HAT: (
        """
        INSERT INTO hat (workspace_id, id, name, description, instructions, audience)
        SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::text[], $6::text[])
        ON CONFLICT (workspace_id, id) DO UPDATE
        SET name = excluded.name, description = excluded.description, instructions = excluded.instructions,
            audience = excluded.audience
        WHERE (hat.name, hat.description, hat.instructions, hat.audience)
              IS DISTINCT FROM (excluded.name, excluded.description, excluded.instructions, excluded.audience)
        """,
        ("id", "name", "description", "instructions", "audience"),
    ),
    Part.SKILL: (
        """
        INSERT INTO skill (workspace_id, id, name, description)
        SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[])
        ON CONFLICT (workspace_id, id) DO UPDATE SET name = excluded.name, description = excluded.description
        WHERE (skill.name, skill.description) IS DISTINCT FROM (excluded.name, excluded.description)
        """,
        ("id", "name", "description"),
    ),
    Part.TOOL: (
        """
        INSERT INTO tool (workspace_id, id, name, mcp_server, disabled)
        SELECT $1, * FROM unnest($2::text[], $3::text[], $4::text[], $5::boolean[])
        ON CONFLICT (workspace_id, id) DO UPDATE
        SET name = excluded.name, mcp_server = excluded.mcp_server, disabled = excluded.disabled
        WHERE (tool.name, tool.mcp_server, tool.disabled)
              IS DISTINCT FROM (excluded.name, excluded.mcp_server, excluded.disabled)
        """,
        ("id", "name", "mcp_server", "disabled"),
    ),
}


async def replace(connection: Connection, desired: Workspace, changes: Iterable[Change], offload: Offload) -> None:
    """Replace the contents of a workspace. Rows that stay the same are not written.

    Args:
        connection: In the transaction that has locked and read the workspace.
        desired: The new contents.
        changes: The differences between the tables and `desired`.
        offload: Where the rows are put together.
    """
    await prefer_indexes(connection)
    await forget_plans(connection)
    for sql, values in await offload.run(lambda: list(_statements(desired, changes))):
        await connection.execute(sql, desired.id, *values)


async def clear(connection: Connection, workspace_id: WorkspaceId) -> None:
    """Delete the contents of a workspace."""
    await prefer_indexes(connection)
    await forget_plans(connection)
    for table in (*(table for table, *_ in _LINKS), *_TABLES.values()):
        await connection.execute(f"DELETE FROM {table} WHERE workspace_id = $1", workspace_id)  # noqa: S608 - constants


def _statements(desired: Workspace, changes: Iterable[Change]) -> Iterator[Statement]:
    """Yield the statements, in an order in which no link ever names a part that does not exist."""
    ids: dict[tuple[Part, Action], set[str]] = defaultdict(set)
    for change in changes:
        ids[change.part, change.action].add(change.id)
    written: dict[Part, list[Any]] = {}
    for part, all_of_kind in parts_of(desired).items():
        changed = ids[part, Action.ADDED] | ids[part, Action.UPDATED]
        written[part] = [each for each in all_of_kind if each.id in changed]
    links = {
        (table, part): {each.id: getattr(each, name) for each in written[part]} for table, _, _, part, name in _LINKS
    }
    # Old links go first: a hat with links to teams cannot serve the whole workspace.
    for table, from_id, to_id, part, _ in _LINKS:
        yield from _removed_links(table, from_id, to_id, links[table, part], ids[part, Action.UPDATED])
    for part, (sql, names) in _UPSERTS.items():
        for piece in pieces(written[part], _HATS if part is Part.HAT else _ROWS):
            yield sql, [[_value(each, name) for each in piece] for name in names]
    for table, from_id, to_id, part, _ in _LINKS:
        yield from _added_links(table, from_id, to_id, links[table, part])
    for part, table in _TABLES.items():
        id_ = "user_id" if part is Part.MEMBER else "id"
        # This deletes the links of the parts too (ON DELETE CASCADE).
        for piece in pieces(ids[part, Action.REMOVED], _ROWS):
            yield f"DELETE FROM {table} WHERE workspace_id = $1 AND {id_} = ANY($2::text[])", [piece]  # noqa: S608 - constants


def _removed_links(
    table: str, from_id: str, to_id: str, links: dict[str, Sequence[str]], updated: set[str]
) -> Iterator[Statement]:
    """Yield the statements that delete the links of updated parts that are not in `links`."""
    for from_ids in _pieces_of_links({id_: to_ids for id_, to_ids in links.items() if id_ in updated}):
        yield (
            f"""
            DELETE FROM {table} WHERE workspace_id = $1 AND {from_id} = ANY($2::text[])
            AND ({from_id}, {to_id}) NOT IN (SELECT * FROM unnest($3::text[], $4::text[]))
            """,  # noqa: S608 - the names are the constants above
            [from_ids, *_columns(links, from_ids)],
        )


def _added_links(table: str, from_id: str, to_id: str, links: dict[str, Sequence[str]]) -> Iterator[Statement]:
    """Yield the statements that insert links. Those that are there are not written."""
    for from_ids in _pieces_of_links({id_: to_ids for id_, to_ids in links.items() if to_ids}):
        yield (
            f"""
            INSERT INTO {table} (workspace_id, {from_id}, {to_id}) SELECT $1, * FROM unnest($2::text[], $3::text[])
            ON CONFLICT DO NOTHING
            """,  # noqa: S608 - the same
            _columns(links, from_ids),
        )


def _columns(links: dict[str, Sequence[str]], from_ids: Iterable[str]) -> list[list[str]]:
    pairs = [(each, to) for each in from_ids for to in links[each]]
    return [[pair[0] for pair in pairs], [pair[1] for pair in pairs]]


def _pieces_of_links(links: dict[str, Sequence[str]]) -> Iterator[list[str]]:
    """Yield the ids of parts in pieces of about `_ROWS` links. The links of one part are never split."""
    piece: list[str] = []
    size = 0
    for from_id, to_ids in links.items():
        piece.append(from_id)
        size += 1 + len(to_ids)
        if size >= _ROWS:
            yield piece
            piece, size = [], 0
    if piece:
        yield piece


def _value(part: object, name: str) -> object:
    value = getattr(part, name)
    return value.value if isinstance(value, Enum) else value


def pieces(values: Iterable[Value], size: int) -> Iterator[list[Value]]:
    """Yield values in lists of `size` at most."""
    left = iter(values)
    while piece := list(islice(left, size)):
        yield piece
