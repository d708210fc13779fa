"""protobuf <-> domain, for workspaces. Large ones are serialised in pieces."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.duration_pb2 import Duration

from skilder.keys.v1 import catalog_service_pb2, workspace_pb2
from skilder_keys.app.authorization.encoding import delimited, delimited_tag
from skilder_keys.app.enums import CHANGE_ACTIONS, HAT_AUDIENCES, MEMBER_ROLES, WORKSPACE_PARTS
from skilder_keys.domain.difference import Part
from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId, UserId, WorkspaceId
from skilder_keys.domain.key_policy import NO_POLICY, KeyPolicy
from skilder_keys.domain.texts import with_line_feeds
from skilder_keys.domain.workspace import (
    FIELDS,
    Catalog,
    Hat,
    HatAudience,
    Member,
    MemberRole,
    Skill,
    Team,
    Tool,
    Workspace,
    WorkspaceStatus,
)
from skilder_keys.domain.workspace_checks import checked
from skilder_keys.domain.workspace_update import PartRef, Update
from skilder_keys.rpc.convert import duration, list_response, optional, required, timestamp

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence
    from datetime import timedelta

    from skilder_keys.app.page import Page
    from skilder_keys.domain.difference import Change
    from skilder_keys.domain.workspace_lists import ListedWorkspace

Value = TypeVar("Value")

MAX_CHANGES = 10_000
"""The most changes in a response of ApplyWorkspace."""

MAX_CHANGES_BYTES = 3 * 2**20
"""The most bytes of these changes."""

LISTS = {
    Part.MEMBER: "members",
    Part.TEAM: "teams",
    Part.HAT: "hats",
    Part.SKILL: "skills",
    Part.TOOL: "tools",
}
"""The field of a workspace that has the parts of a kind."""
_PARTS = {number: part for part, number in WORKSPACE_PARTS.items()}
_PIECE = 200
"""How many parts are serialised at once."""


def workspace(message: workspace_pb2.Workspace) -> Workspace:
    """Return the desired state of a workspace.

    Raises:
        InvalidRequestError: A role is missing. The error names all invalid fields, including those that
            `workspace_checks.checked` finds.
    """
    violations = Violations()
    converted = _parts(violations, "workspace", WorkspaceId(message.id), message)
    # A missing role cannot be expressed in the domain. It is reported here, together with what the domain rejects.
    return checked(converted, violations) if violations else converted


def update(request: catalog_service_pb2.UpdateWorkspaceRequest) -> tuple[Update, Violations]:
    """Return an update, and the invalid fields that cannot be expressed in the domain."""
    violations = Violations()
    workspace_id = WorkspaceId(request.workspace_id)
    put = _parts(violations, "put", workspace_id, request.put)
    # No kind, and the workspace itself, are both refused.
    remove = tuple(PartRef(_PARTS.get(each.part, Part.WORKSPACE), each.id) for each in request.remove)
    name = request.put.name if request.put.HasField("name") else None
    return Update(workspace_id, name, put, remove), violations


def _parts(
    violations: Violations,
    root: str,
    workspace_id: WorkspaceId,
    message: workspace_pb2.Workspace | catalog_service_pb2.WorkspaceParts,
) -> Workspace:
    """Return a workspace with the parts of a message. The paths of its fields begin with `root`."""
    return Workspace(
        id=workspace_id,
        name=message.name,
        members=tuple(
            Member(
                UserId(each.user_id),
                _role(violations, f"{root}.members[{index}].role", each.role),
                tuple(map(TeamId, each.team_ids)),
            )
            for index, each in enumerate(message.members)
        ),
        catalog=Catalog(
            teams=tuple(
                Team(TeamId(each.id), each.name, TeamId(each.parent_id) if each.parent_id else None)
                for each in message.teams
            ),
            hats=tuple(
                Hat(
                    HatId(each.id),
                    each.name,
                    with_line_feeds(each.description),
                    with_line_feeds(each.instructions),
                    optional(f"{root}.hats[{index}].audience", each.audience, HAT_AUDIENCES) or HatAudience.TEAMS,
                    tuple(map(TeamId, each.team_ids)),
                    tuple(map(SkillId, each.skill_ids)),
                )
                for index, each in enumerate(message.hats)
            ),
            skills=tuple(
                Skill(
                    SkillId(each.id),
                    each.name,
                    with_line_feeds(each.description),
                    tuple(map(ToolId, each.tool_ids)),
                )
                for each in message.skills
            ),
            tools=tuple(Tool(ToolId(each.id), each.name, each.mcp_server, each.disabled) for each in message.tools),
        ),
        key_policy=_key_policy(violations, f"{root}.key_policy", message),
    )


def apply_response(version: int, changes: Sequence[Change]) -> bytes:
    """Return an ApplyWorkspaceResponse, serialised: with the number of changes, and with as many as fit.

    An UpdateWorkspaceResponse is the same.
    """
    tag = delimited_tag(catalog_service_pb2.ApplyWorkspaceResponse.CHANGES_FIELD_NUMBER)
    head = catalog_service_pb2.ApplyWorkspaceResponse(version=version, change_count=len(changes))
    pieces, size = [head.SerializeToString()], 0
    for change in changes[:MAX_CHANGES]:
        piece = delimited(tag, change_message(change).SerializeToString())
        size += len(piece)
        if size > MAX_CHANGES_BYTES:
            break
        pieces.append(piece)
    return b"".join(pieces)


def workspace_bytes(source: Workspace) -> int:
    """Return the number of bytes of a workspace as a message, without its key policy: there is always room for that."""
    return sum(map(len, _workspace_pieces(source, [name for name in FIELDS if name != "key_policy"])))


def get_response(status: WorkspaceStatus, source: Workspace, names: Collection[str] = FIELDS) -> bytes:
    """Return a GetWorkspaceResponse, serialised, whose workspace has the fields with these names only."""
    message = catalog_service_pb2.GetWorkspaceResponse(
        version=status.version, created_at=timestamp(status.created_at), updated_at=timestamp(status.updated_at)
    )
    tag = delimited_tag(catalog_service_pb2.GetWorkspaceResponse.WORKSPACE_FIELD_NUMBER)
    return b"".join((delimited(tag, *_workspace_pieces(source, names)), message.SerializeToString()))


def _workspace_pieces(source: Workspace, names: Collection[str] = FIELDS) -> Iterator[bytes]:
    """Yield the parts of a serialised workspace: the fields with these names. Concatenated, they are one message.

    protobuf blocks all other threads while it serialises a piece, so pieces are small.
    """
    catalog = source.catalog
    texts = {name: getattr(source, name) for name in ("id", "name") if name in names}
    yield workspace_pb2.Workspace(**texts).SerializeToString()
    if "key_policy" in names and source.key_policy not in (None, NO_POLICY):
        yield workspace_pb2.Workspace(key_policy=_policy_message(source.key_policy)).SerializeToString()
    for members in _pieces(source.members if "members" in names else ()):
        yield workspace_pb2.Workspace(members=map(member_message, members)).SerializeToString()
    for teams in _pieces(catalog.teams if "teams" in names else ()):
        yield workspace_pb2.Workspace(
            teams=[workspace_pb2.Team(id=each.id, name=each.name, parent_id=each.parent_id or "") for each in teams]
        ).SerializeToString()
    for hats in _pieces(catalog.hats if "hats" in names else ()):
        yield workspace_pb2.Workspace(
            hats=[
                workspace_pb2.Hat(
                    id=each.id,
                    name=each.name,
                    description=each.description,
                    instructions=each.instructions,
                    team_ids=each.team_ids,
                    skill_ids=each.skill_ids,
                    audience=HAT_AUDIENCES[each.audience],
                )
                for each in hats
            ]
        ).SerializeToString()
    for skills in _pieces(catalog.skills if "skills" in names else ()):
        yield workspace_pb2.Workspace(
            skills=[
                workspace_pb2.Skill(id=each.id, name=each.name, description=each.description, tool_ids=each.tool_ids)
                for each in skills
            ]
        ).SerializeToString()
    for tools in _pieces(catalog.tools if "tools" in names else ()):
        yield workspace_pb2.Workspace(tools=map(tool_message, tools)).SerializeToString()


def member_message(member: Member) -> workspace_pb2.Member:
    """Return a member as a message."""
    return workspace_pb2.Member(user_id=member.id, role=MEMBER_ROLES[member.role], team_ids=member.team_ids)


def tool_message(tool: Tool) -> workspace_pb2.Tool:
    """Return a tool as a message."""
    return workspace_pb2.Tool(id=tool.id, name=tool.name, mcp_server=tool.mcp_server, disabled=tool.disabled)


def list_workspaces_response(page: Page[ListedWorkspace]) -> bytes:
    """Return a ListWorkspacesResponse, serialised."""
    return list_response(
        page,
        lambda listed, token: catalog_service_pb2.ListWorkspacesResponse(
            workspaces=map(summary_message, listed), next_page_token=token
        ),
    )


def summary_message(listed: ListedWorkspace) -> workspace_pb2.WorkspaceSummary:
    """Return a workspace without its contents, as a message."""
    status, role = listed.status, listed.member_role
    return workspace_pb2.WorkspaceSummary(
        id=status.id,
        name=status.name,
        version=status.version,
        created_at=timestamp(status.created_at),
        updated_at=timestamp(status.updated_at),
        member_role=workspace_pb2.MEMBER_ROLE_UNSPECIFIED if role is None else MEMBER_ROLES[role],
        deleted_at=None if status.deleted_at is None else timestamp(status.deleted_at),
    )


def change_message(change: Change) -> catalog_service_pb2.WorkspaceChange:
    """Return a changed part as a message."""
    return catalog_service_pb2.WorkspaceChange(
        part=WORKSPACE_PARTS[change.part], id=change.id, action=CHANGE_ACTIONS[change.action]
    )


def _key_policy(
    violations: Violations, at: str, message: workspace_pb2.Workspace | catalog_service_pb2.WorkspaceParts
) -> KeyPolicy | None:
    if not message.HasField("key_policy"):
        return None
    policy = message.key_policy
    lengths: dict[str, timedelta] = {}
    for field, length in policy.ListFields():
        if isinstance(length, Duration):
            try:
                lengths[field.name] = duration(f"{at}.{field.name}", length)
            except InvalidRequestError as error:
                violations.extend(error.violations)
    return KeyPolicy(
        **lengths,
        max_active_keys_per_user=policy.max_active_keys_per_user
        if policy.HasField("max_active_keys_per_user")
        else None,
        require_hat_limit=policy.require_hat_limit,
        unique_descriptions=policy.unique_descriptions,
    )


def _policy_message(policy: KeyPolicy) -> workspace_pb2.KeyPolicy:
    return workspace_pb2.KeyPolicy(**{each.name: getattr(policy, each.name) for each in fields(policy)})


def _role(violations: Violations, field: str, number: int) -> MemberRole:
    try:
        return required(field, number, MEMBER_ROLES)
    except InvalidRequestError as error:
        violations.extend(error.violations)
        return MemberRole.VIEWER


def _pieces(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    return (values[at : at + _PIECE] for at in range(0, len(values), _PIECE))
