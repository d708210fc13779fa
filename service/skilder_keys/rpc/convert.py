"""protobuf <-> domain. Values without a counterpart in the domain are rejected here; the domain checks the others."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import catalog_service_pb2, common_pb2, key_pb2, key_service_pb2, workspace_pb2
from skilder_keys.app.authorization.encoding import delimited, delimited_tag, key_fields
from skilder_keys.app.enums import (
    CHANGE_ACTIONS,
    HAT_AUDIENCES,
    KEY_LIMITS,
    KEY_STATES,
    KEY_TYPES,
    MEMBER_ROLES,
    PRINCIPAL_KINDS,
    WORKSPACE_PARTS,
)
from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.fields import Violations
from skilder_keys.domain.ids import HatId, RuntimeId, SkillId, TeamId, ToolId, UserId, WorkspaceId
from skilder_keys.domain.keys import Key, KeyCounts, KeyFilter, KeySpec
from skilder_keys.domain.texts import with_line_feeds
from skilder_keys.domain.workspace import (
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

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from skilder_keys.app.keys import KeyPage
    from skilder_keys.domain.difference import Change
    from skilder_keys.domain.principal import Principal

Value = TypeVar("Value")

MAX_CHANGES = 10_000
"""The most changes in a response of ApplyWorkspace."""

MAX_CHANGES_BYTES = 3 * 2**20
"""The most bytes of these changes."""

_PIECE = 200
"""How many parts are serialised at once."""

MAX_PAGE_BYTES = 3 * 2**20
"""The most bytes of the elements of a page. Clients take responses of 4 MiB by default."""


def key_spec(request: key_service_pb2.IssueKeyRequest) -> KeySpec:
    """Return the key to issue.

    Raises:
        InvalidRequestError: `type` is missing or unknown, or a value of `unlimited` is.
    """
    return KeySpec(
        type=_required("type", request.type, KEY_TYPES),
        workspace_id=WorkspaceId(request.workspace_id),
        user_id=UserId(request.user_id) if request.user_id else None,
        runtime_id=RuntimeId(request.runtime_id) if request.runtime_id else None,
        description=request.description,
        hat_ids=tuple(map(HatId, request.hat_limit.hat_ids)) if request.HasField("hat_limit") else None,
        unlimited=_each("unlimited", request.unlimited, KEY_LIMITS),
    )


def key_filter(workspace_id: str, message: key_service_pb2.KeyFilter) -> KeyFilter:
    """Return some of the keys of a workspace. An empty list is no condition.

    Raises:
        InvalidRequestError: A value of `filter.types` or `filter.states`, or `filter.unused_since` is invalid.
    """
    unused_since = message.unused_since if message.HasField("unused_since") else None
    return KeyFilter(
        workspace_id=WorkspaceId(workspace_id),
        types=_unique(_each("filter.types", message.types, KEY_TYPES)),
        states=_unique(_each("filter.states", message.states, KEY_STATES)),
        user_ids=_unique(map(UserId, message.user_ids)),
        unused_since=None if unused_since is None else _datetime("filter.unused_since", unused_since),
    )


def key_message(key: Key) -> key_pb2.Key:
    """Return a key as a message."""
    revocation = key.revocation
    return key_pb2.Key(
        **key_fields(key),
        hint=key.hint,
        state=KEY_STATES[key.state],
        created_at=timestamp(key.created_at),
        last_used_at=timestamp(key.last_used_at) if key.last_used_at else None,
        revoked_at=timestamp(revocation.at) if revocation else None,
        revoke_reason=revocation.reason if revocation else "",
        hat_limit=None if key.hat_ids is None else key_pb2.HatLimit(hat_ids=key.hat_ids),
        created_by=_principal(key.created_by),
        revoked_by=_principal(revocation.by) if revocation else None,
    )


def _principal(principal: Principal) -> common_pb2.Principal:
    return common_pb2.Principal(kind=PRINCIPAL_KINDS[principal.kind], id=principal.id)


def list_keys_response(page: KeyPage) -> bytes:
    """Return a ListKeysResponse, serialised. It ends early if the next key would make it longer than MAX_PAGE_BYTES."""
    pieces: list[bytes] = []
    size = 0
    for key in page.keys:
        piece = key_service_pb2.ListKeysResponse(keys=[key_message(key)]).SerializeToString()
        size += len(piece)
        if size > MAX_PAGE_BYTES:
            break
        pieces.append(piece)
    token = page.next_page_token(len(pieces))
    return b"".join((*pieces, key_service_pb2.ListKeysResponse(next_page_token=token).SerializeToString()))


def count_keys_response(found: KeyCounts) -> key_service_pb2.CountKeysResponse:
    """Return the numbers of keys in order of type and state."""
    messages = [
        key_service_pb2.KeyCount(type=KEY_TYPES[each.type], state=KEY_STATES[each.state], count=each.count)
        for each in found.counts
    ]
    return key_service_pb2.CountKeysResponse(
        counts=sorted(messages, key=lambda each: (each.type, each.state)),
        partial=found.partial,
    )


def workspace(message: workspace_pb2.Workspace) -> Workspace:
    """Return the desired state of a workspace.

    Raises:
        InvalidRequestError: A role is missing. The error names all invalid fields, including those that
            `workspace_checks.checked` finds.
    """
    violations = Violations()
    converted = Workspace(
        id=WorkspaceId(message.id),
        name=message.name,
        members=tuple(
            Member(
                UserId(each.user_id),
                _role(violations, f"workspace.members[{index}].role", each.role),
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
                    _optional(f"workspace.hats[{index}].audience", each.audience, HAT_AUDIENCES) or HatAudience.TEAMS,
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
    )
    # A missing role cannot be expressed in the domain. It is reported here, together with what the domain rejects.
    return checked(converted, violations) if violations else converted


def apply_response(version: int, changes: Sequence[Change]) -> bytes:
    """Return an ApplyWorkspaceResponse, serialised: with the number of changes, and with as many as fit."""
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
    """Return the number of bytes of a workspace as a message."""
    return sum(map(len, _workspace_pieces(source)))


def get_response(status: WorkspaceStatus, source: Workspace) -> bytes:
    """Return a GetWorkspaceResponse, serialised."""
    message = catalog_service_pb2.GetWorkspaceResponse(
        version=status.version, created_at=timestamp(status.created_at), updated_at=timestamp(status.updated_at)
    )
    tag = delimited_tag(catalog_service_pb2.GetWorkspaceResponse.WORKSPACE_FIELD_NUMBER)
    return b"".join((delimited(tag, *_workspace_pieces(source)), message.SerializeToString()))


def _workspace_pieces(source: Workspace) -> Iterator[bytes]:
    """Yield the parts of a serialised workspace. Concatenated, they are one message.

    protobuf blocks all other threads while it serialises a piece, so pieces are small.
    """
    catalog = source.catalog
    yield workspace_pb2.Workspace(id=source.id, name=source.name).SerializeToString()
    for members in _pieces(source.members):
        yield workspace_pb2.Workspace(
            members=[
                workspace_pb2.Member(user_id=each.id, role=MEMBER_ROLES[each.role], team_ids=each.team_ids)
                for each in members
            ]
        ).SerializeToString()
    for teams in _pieces(catalog.teams):
        yield workspace_pb2.Workspace(
            teams=[workspace_pb2.Team(id=each.id, name=each.name, parent_id=each.parent_id or "") for each in teams]
        ).SerializeToString()
    for hats in _pieces(catalog.hats):
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
    for skills in _pieces(catalog.skills):
        yield workspace_pb2.Workspace(
            skills=[
                workspace_pb2.Skill(id=each.id, name=each.name, description=each.description, tool_ids=each.tool_ids)
                for each in skills
            ]
        ).SerializeToString()
    for tools in _pieces(catalog.tools):
        yield workspace_pb2.Workspace(
            tools=[
                workspace_pb2.Tool(id=each.id, name=each.name, mcp_server=each.mcp_server, disabled=each.disabled)
                for each in tools
            ]
        ).SerializeToString()


def summary_message(status: WorkspaceStatus) -> workspace_pb2.WorkspaceSummary:
    """Return a workspace without its contents, as a message."""
    return workspace_pb2.WorkspaceSummary(
        id=status.id,
        name=status.name,
        version=status.version,
        created_at=timestamp(status.created_at),
        updated_at=timestamp(status.updated_at),
    )


def change_message(change: Change) -> catalog_service_pb2.WorkspaceChange:
    """Return a changed part as a message."""
    return catalog_service_pb2.WorkspaceChange(
        part=WORKSPACE_PARTS[change.part], id=change.id, action=CHANGE_ACTIONS[change.action]
    )


def timestamp(moment: datetime) -> Timestamp:
    """Return a time, which must have a time zone, as a Timestamp."""
    message = Timestamp()
    message.FromDatetime(moment)
    return message


def _datetime(field: str, message: Timestamp) -> datetime:
    try:
        return message.ToDatetime(tzinfo=UTC)
    except (ValueError, OverflowError):
        raise InvalidRequestError(FieldViolation(field, "is not a time between the years 1 and 9999")) from None


def _required(field: str, number: int, known: Mapping[Value, int]) -> Value:
    value = _optional(field, number, known)
    if value is None:
        raise InvalidRequestError(FieldViolation(field, "is required"))
    return value


def _each(field: str, numbers: Iterable[int], known: Mapping[Value, int]) -> tuple[Value, ...]:
    return tuple(_required(f"{field}[{index}]", number, known) for index, number in enumerate(numbers))


def _unique(values: Iterable[Value]) -> tuple[Value, ...] | None:
    """Return each of some values once, or None if there are none."""
    return tuple(dict.fromkeys(values)) or None


def _role(violations: Violations, field: str, number: int) -> MemberRole:
    try:
        return _required(field, number, MEMBER_ROLES)
    except InvalidRequestError as error:
        violations.extend(error.violations)
        return MemberRole.VIEWER


def _optional(field: str, number: int, known: Mapping[Value, int]) -> Value | None:
    for value, each in known.items():
        if each == number:
            return value
    if number:
        raise InvalidRequestError(FieldViolation(field, f"is {number}, which is not a value of the enum"))
    return None


def _pieces(values: Sequence[Value]) -> Iterator[Sequence[Value]]:
    return (values[at : at + _PIECE] for at in range(0, len(values), _PIECE))
