"""The answers of Authorize as ready-made bytes: serialised `AuthorizeResponse` messages."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from service.domain.token import KeyType
from service.domain.verdict import DenialReason
from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2

if TYPE_CHECKING:
    from service.domain.keys import Key
    from service.domain.permissions import ToolSet
    from service.domain.verdict import Denied, ToolGrant
    from service.domain.workspace import Tool

KEY_TYPES = {
    KeyType.WORKSPACE: key_pb2.KEY_TYPE_WORKSPACE,
    KeyType.USER: key_pb2.KEY_TYPE_USER,
    KeyType.RUNTIME: key_pb2.KEY_TYPE_RUNTIME,
}
_DENIAL_REASONS = {
    DenialReason.MALFORMED: pb.DENIAL_REASON_MALFORMED,
    DenialReason.UNKNOWN: pb.DENIAL_REASON_UNKNOWN,
    DenialReason.REVOKED: pb.DENIAL_REASON_REVOKED,
    DenialReason.MEMBER_REMOVED: pb.DENIAL_REASON_MEMBER_REMOVED,
    DenialReason.WORKSPACE_GONE: pb.DENIAL_REASON_WORKSPACE_GONE,
    DenialReason.TOOL_NOT_ALLOWED: pb.DENIAL_REASON_TOOL_NOT_ALLOWED,
}


@dataclass(frozen=True, slots=True)
class EncodedToolSet:
    """A tool set as a message, and its version: 32 hexadecimal digits, a digest of all that is in it."""

    version: str
    message: pb.ToolSet


def tool_set(tools: ToolSet) -> EncodedToolSet:
    """Encodes a tool set. Equal tool sets get equal versions, in any process."""
    message = pb.ToolSet(
        hats=[
            pb.ReachedHat(
                id=hat.id,
                name=hat.name,
                skills=[pb.ReachedSkill(id=each.id, name=each.name, tool_ids=each.tool_ids) for each in hat.skills],
            )
            for hat in tools.hats
        ],
        tools=[_tool(tool) for tool in tools.tools],
    )
    content = message.SerializeToString(deterministic=True)
    message.version = hashlib.blake2b(content, digest_size=16).hexdigest()
    return EncodedToolSet(message.version, message)


def granted_tool_set(key: Key, tools: EncodedToolSet) -> bytes:
    """Answers a grant with all that the key reaches."""
    return _granted(pb.Granted(key=_granted_key(key), tool_set=tools.message))


def granted_unchanged(key: Key) -> bytes:
    """Answers a grant to a caller that holds the current tool set already."""
    return _granted(pb.Granted(key=_granted_key(key), unchanged=True))


def granted_tool(key: Key, grant: ToolGrant) -> bytes:
    """Answers a grant of one tool."""
    paths = [pb.ToolPath(hat_id=path.hat_id, skill_id=path.skill_id) for path in grant.paths]
    return _granted(pb.Granted(key=_granted_key(key), tool=pb.ToolGrant(tool=_tool(grant.tool), paths=paths)))


def denied(denial: Denied) -> bytes:
    """Answers a denial."""
    message = pb.Denied(
        reason=_DENIAL_REASONS[denial.reason],
        message=denial.reason.value,
        key_id="" if denial.key_id is None else str(denial.key_id),
    )
    return pb.AuthorizeResponse(denied=message).SerializeToString()


def _granted(message: pb.Granted) -> bytes:
    return pb.AuthorizeResponse(granted=message).SerializeToString()


def _granted_key(key: Key) -> pb.GrantedKey:
    return pb.GrantedKey(
        id=str(key.id),
        type=KEY_TYPES[key.type],
        workspace_id=key.workspace_id,
        user_id=key.user_id or "",
        runtime_id=key.runtime_id or "",
        description=key.description,
    )


def _tool(tool: Tool) -> pb.ReachedTool:
    return pb.ReachedTool(id=tool.id, name=tool.name, mcp_server=tool.mcp_server)
