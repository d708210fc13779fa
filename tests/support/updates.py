"""Updates of single parts of a workspace, and the whole workspace that each should result in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1.workspace_pb2 import (
    HAT_AUDIENCE_TEAMS,
    HAT_AUDIENCE_WORKSPACE,
    MEMBER_ROLE_ADMIN,
    MEMBER_ROLE_EDITOR,
    Hat,
    Member,
    Skill,
    Team,
    Tool,
    Workspace,
)

if TYPE_CHECKING:
    import random

    from tests.support.service import Client

LISTS = ("members", "teams", "hats", "skills", "tools")
REFS = {
    "members": pb.WORKSPACE_PART_MEMBER,
    "teams": pb.WORKSPACE_PART_TEAM,
    "hats": pb.WORKSPACE_PART_HAT,
    "skills": pb.WORKSPACE_PART_SKILL,
    "tools": pb.WORKSPACE_PART_TOOL,
}
# A few more ids than the small workspace has, so that parts are added, and named, that do not exist.
_IDS = {
    "members": ["ada", "bob", "cyd", "dan", "eve"],
    "teams": ["customer", "support", "engineering", "sales"],
    "hats": ["everyone", "customer-care", "support-desk", "engineer", "seller"],
    "skills": ["search", "slack-reading", "slack-replies", "code", "offers"],
    "tools": ["web.search", "slack.history", "slack.post", "git.commit", "git.push", "mail.send"],
}


async def update(client: Client, workspace_id: str = "acme", timeout: float | None = None, **fields: Any) -> Any:  # noqa: ASYNC109 - gRPC's own deadline
    """Update a workspace, `acme` by default."""
    request = pb.UpdateWorkspaceRequest(workspace_id=workspace_id, **fields)
    return await client.catalog.UpdateWorkspace(request, timeout=timeout)


def random_update(source: random.Random, before: Workspace) -> pb.UpdateWorkspaceRequest:
    """Return an update of a few parts of `acme`. Most name only what there is, or will be."""
    request = pb.UpdateWorkspaceRequest(workspace_id="acme")
    for _ in range(source.choice([1, 1, 1, 2, 3, 6])):
        name = source.choice(LISTS)
        id_ = source.choice(_IDS[name])
        if any(_id(each) == id_ for each in getattr(request.put, name)):
            continue
        if any((each.part, each.id) == (REFS[name], id_) for each in request.remove):
            continue
        if source.random() < 0.4:
            request.remove.add(part=REFS[name], id=id_)
        else:
            getattr(request.put, name).append(_part(source, name, id_, before))
    if source.random() < 0.1:
        request.put.name = source.choice(["Acme", "Acme & Sons"])
    return request


def as_applied(before: Workspace, request: pb.UpdateWorkspaceRequest) -> Workspace:
    """Return the whole workspace that an update results in."""
    after = Workspace()
    after.CopyFrom(before)
    if request.put.HasField("name"):
        after.name = request.put.name
    for name in LISTS:
        put = {_id(each): each for each in getattr(request.put, name)}
        gone = {each.id for each in request.remove if each.part == REFS[name]} | put.keys()
        kept = [each for each in getattr(before, name) if _id(each) not in gone]
        parts = getattr(after, name)
        del parts[:]
        parts.extend([*kept, *put.values()])
    return after


def _part(source: random.Random, name: str, id_: str, before: Workspace) -> Any:
    def some(kind: str) -> list[str]:
        known = [_id(each) for each in getattr(before, kind)]
        pool = known if source.random() < 0.9 else _IDS[kind]
        return source.sample(pool, min(len(pool), source.randrange(4)))

    text = source.choice(["", "A", "Another text"])
    match name:
        case "members":
            return Member(
                user_id=id_, role=source.choice([MEMBER_ROLE_ADMIN, MEMBER_ROLE_EDITOR]), team_ids=some("teams")
            )
        case "teams":
            return Team(id=id_, name="A team", parent_id=(some("teams") or [""])[0])
        case "hats":
            audience = source.choice([HAT_AUDIENCE_TEAMS, HAT_AUDIENCE_WORKSPACE])
            teams = some("teams") if audience == HAT_AUDIENCE_TEAMS else []
            return Hat(
                id=id_, name="A hat", description=text, team_ids=teams, skill_ids=some("skills"), audience=audience
            )
        case "skills":
            return Skill(id=id_, name="A skill", description=text, tool_ids=some("tools"))
        case _:
            server = source.choice(["web", "slack"])
            return Tool(id=id_, name=source.choice(_IDS["tools"]), mcp_server=server, disabled=source.random() < 0.5)


def _id(each: Any) -> str:
    return str(each.user_id if isinstance(each, Member) else each.id)
