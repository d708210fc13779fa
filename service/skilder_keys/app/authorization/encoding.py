"""The responses of Authorize, put together from serialised parts.

This is the only module of `app`, with `app.enums`, that knows protobuf: a response is cheap only if its parts are
serialised in advance.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.app.enums import DENIAL_REASONS, KEY_TYPES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from skilder_keys.domain.denial import Denied
    from skilder_keys.domain.keys import Key
    from skilder_keys.domain.permissions import ReachedHat, ToolGrant, ToolSet
    from skilder_keys.domain.workspace import Tool


def delimited_tag(number: int) -> bytes:
    """Return the tag of a length-delimited field; the number must be below 16."""
    return bytes((number << 3 | 2,))


_GRANTED = delimited_tag(pb.AuthorizeResponse.GRANTED_FIELD_NUMBER)
_RESPONSES = delimited_tag(pb.BatchAuthorizeResponse.RESPONSES_FIELD_NUMBER)
# `BatchAuthorizeResponse.tool_sets` has the same tag, so that a serialised tool set fits into both.
_TOOL_SET = delimited_tag(pb.Granted.TOOL_SET_FIELD_NUMBER)

_PIECE = 500
"""How many tools are serialised at once."""


@dataclass(frozen=True, slots=True)
class EncodedToolSet:
    """A tool set, serialised.

    Attributes:
        version: 32 hexadecimal digits, a digest of the whole tool set.
        message: The serialised `ToolSet`.
    """

    version: str
    message: bytes


def tool_set(tools: ToolSet) -> EncodedToolSet:
    """Encode a tool set. Equal tool sets have equal versions, in every process.

    It is serialised in pieces, which together are one message, because protobuf blocks all threads while it serialises.
    """
    pieces = [pb.ToolSet(hats=[_hat(each)]).SerializeToString(deterministic=True) for each in tools.hats] + [
        pb.ToolSet(tools=map(_tool, tools.tools[at : at + _PIECE])).SerializeToString(deterministic=True)
        for at in range(0, len(tools.tools), _PIECE)
    ]
    digest = hashlib.blake2b(digest_size=16)
    for piece in pieces:
        digest.update(piece)
    version = digest.hexdigest()
    return EncodedToolSet(version, b"".join((pb.ToolSet(version=version).SerializeToString(), *pieces)))


# A grant is a `Granted` message made of two serialised parts, because protobuf messages can be concatenated. The first
# part is the key; the second part is what it reaches, which many keys share.

UNCHANGED = pb.Granted(unchanged=True).SerializeToString()
"""The second part for a caller that has the current tool set already."""


def granted_key(key: Key) -> bytes:
    """Return the first part of a grant: the key."""
    message = pb.GrantedKey(
        id=str(key.id),
        type=KEY_TYPES[key.type],
        workspace_id=key.workspace_id,
        user_id=key.user_id or "",
        runtime_id=key.runtime_id or "",
        description=key.description,
    )
    return pb.Granted(key=message).SerializeToString()


def tool_set_field(tools: EncodedToolSet) -> bytes:
    """Return the second part of a grant with a whole tool set."""
    return delimited(_TOOL_SET, tools.message)


def shared_tool_set_field(tools: EncodedToolSet) -> bytes:
    """Return the second part of a grant in a batch: the version of a tool set, which the batch has once."""
    return pb.Granted(shared_tool_set=tools.version).SerializeToString()


def tool_grant_field(grant: ToolGrant) -> bytes:
    """Return the second part of a grant with the one tool that was asked for."""
    paths = [pb.ToolPath(hat_id=path.hat_id, skill_id=path.skill_id) for path in grant.paths]
    return pb.Granted(tool=pb.ToolGrant(tool=_tool(grant.tool), paths=paths)).SerializeToString()


def granted(key: bytes, reach: bytes) -> bytes:
    """Return an AuthorizeResponse with a grant, made of its two parts."""
    return b"".join((_GRANTED, _varint(len(key) + len(reach)), key, reach))


def denied(denial: Denied) -> bytes:
    """Return an AuthorizeResponse with a denial."""
    message = pb.Denied(
        reason=DENIAL_REASONS[denial.reason],
        message=denial.reason.value,
        key_id="" if denial.key_id is None else str(denial.key_id),
    )
    return pb.AuthorizeResponse(denied=message).SerializeToString()


def batch(responses: Iterable[bytes], tool_set_fields: Iterable[bytes]) -> bytes:
    """Return a BatchAuthorizeResponse, made of serialised responses and of the `tool_set_field`s of their tool sets."""
    return b"".join((*(delimited(_RESPONSES, each) for each in responses), *tool_set_fields))


def delimited(tag: bytes, *parts: bytes) -> bytes:
    """Return a length-delimited field: its tag, the length as a varint, and the content."""
    return b"".join((tag, _varint(sum(map(len, parts))), *parts))


@lru_cache(maxsize=4096)
def _varint(number: int) -> bytes:
    """Return a number as a varint: seven bits in each byte, the lowest first, the top bit set in all but the last."""
    if number <= 0x7F:  # noqa: PLR2004 - seven bits
        return bytes((number,))
    return bytes((number & 0x7F | 0x80,)) + _varint(number >> 7)


def _tool(tool: Tool) -> pb.ReachedTool:
    return pb.ReachedTool(id=tool.id, name=tool.name, mcp_server=tool.mcp_server)


def _hat(hat: ReachedHat) -> pb.ReachedHat:
    skills = [pb.ReachedSkill(id=each.id, name=each.name, tool_ids=each.tool_ids) for each in hat.skills]
    return pb.ReachedHat(id=hat.id, name=hat.name, skills=skills)
