"""What `storage.snapshots.read` returns for a workspace, made without a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.app.authorization.contents import EMPTY, Contents, updated
from skilder_keys.app.authorization.tool_sets import Servers, SharedToolSet
from skilder_keys.domain.difference import Part
from skilder_keys.domain.revision import Revision
from skilder_keys.storage.snapshots import EVERYTHING, SnapshotRead

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from skilder_keys.app.authorization.encoding import EncodedToolSet
    from skilder_keys.domain.permissions import Reach
    from skilder_keys.domain.workspace import Catalog
    from skilder_keys.storage.snapshots import Wanted

NO_MEMBERS: Mapping[str, tuple[str, ...]] = {}


class Tools(NamedTuple):
    """What a key reaches, as a ToolSet message says it."""

    hats: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    skills: tuple[tuple[str, str, tuple[str, ...]], ...] = ()
    tools: tuple[tuple[str, str, str], ...] = ()


def read_of(
    catalog: Catalog,
    members: Mapping[str, tuple[str, ...]] = NO_MEMBERS,
    *,
    wanted: Wanted = EVERYTHING,
    epoch: int = 1,
    version: int = 1,
) -> SnapshotRead:
    """Return what a read of a workspace finds."""
    rows: Any = tuple(
        {"kind": kind, "id": id_, "name": name, "text": text, "ids": list(ids)}
        for part, kind, id_, name, text, ids in _rows(catalog, members)
        if part in wanted and (part is Part.TEAM or wanted[part] is None or id_ in (wanted[part] or ()))
    )
    return SnapshotRead(Revision(epoch, epoch), "server", wanted, version, deleted=False, rows=rows)


def _rows(
    catalog: Catalog, members: Mapping[str, tuple[str, ...]]
) -> Iterator[tuple[Part, str, str, str | None, str | None, tuple[str, ...]]]:
    """Yield the kind of part and the columns of each row."""
    for user_id, team_ids in members.items():
        yield Part.MEMBER, "member", user_id, None, None, ()
        yield Part.MEMBER, "member_team", user_id, None, None, team_ids
    for team in catalog.teams:
        yield Part.TEAM, "team", team.id, None, team.parent_id, ()
    for hat in catalog.hats:
        yield Part.HAT, "hat", hat.id, hat.name, hat.audience.value, (hat.description, hat.instructions)
        yield Part.HAT, "hat_team", hat.id, None, None, hat.team_ids
        yield Part.HAT, "hat_skill", hat.id, None, None, hat.skill_ids
    for skill in catalog.skills:
        yield Part.SKILL, "skill", skill.id, skill.name, None, (skill.description,)
        yield Part.SKILL, "skill_tool", skill.id, None, None, skill.tool_ids
    for tool in catalog.tools:
        if not tool.disabled:
            yield Part.TOOL, "tool", tool.id, tool.name, tool.mcp_server, ()


def contents_of(catalog: Catalog) -> Contents:
    """Return the contents of a workspace in memory."""
    return updated(EMPTY, read_of(catalog))


def tool_set_in(contents: Contents, reach: Reach) -> SharedToolSet:
    """Return what a key reaches in a workspace in memory."""
    tools = SharedToolSet(Servers(contents, lambda _: None), contents.reached(reach))
    tools.keep(tools.encode())
    return tools


def tool_set_of(catalog: Catalog, reach: Reach) -> SharedToolSet:
    """Return what a key reaches."""
    return tool_set_in(contents_of(catalog), reach)


def encoded_of(catalog: Catalog, reach: Reach) -> EncodedToolSet:
    """Return what a key reaches, as a whole."""
    return _encoded(tool_set_of(catalog, reach))


def _encoded(tools: SharedToolSet) -> EncodedToolSet:
    assert tools.encoded is not None
    return tools.encoded


def tools_of(catalog: Catalog, reach: Reach) -> Tools:
    """Return what a key reaches, as its grant says it."""
    return tools_in(contents_of(catalog), reach)


def tools_in(contents: Contents, reach: Reach) -> Tools:
    """Return what a key reaches in a workspace in memory, as its grant says it."""
    found = pb.Granted.FromString(_encoded(tool_set_in(contents, reach)).field).tool_set
    return Tools(
        tuple((each.id, each.name, tuple(each.skill_ids)) for each in found.hats),
        tuple((each.id, each.name, tuple(each.tool_ids)) for each in found.skills),
        tuple((each.id, each.name, each.mcp_server) for each in found.tools),
    )
