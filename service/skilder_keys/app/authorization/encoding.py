"""The responses of Authorize, put together from serialised parts.

This is the only module of `app`, with `app.enums`, that knows protobuf: a response is cheap only if its parts are
serialised in advance.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import common_pb2
from skilder_keys.app.enums import DENIAL_REASONS, KEY_TYPES
from skilder_keys.domain.tool_sets import ToolName

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from skilder_keys.domain.denial import Denied
    from skilder_keys.domain.ids import HatId, SkillId, ToolId
    from skilder_keys.domain.keys import Key, KeyFacts
    from skilder_keys.domain.permissions import ToolPath


def delimited_tag(number: int) -> bytes:
    """Return the tag of a length-delimited field; the number must be below 16."""
    return bytes((number << 3 | 2,))


_GRANTED = delimited_tag(pb.AuthorizeResponse.GRANTED_FIELD_NUMBER)
_RESPONSES = delimited_tag(pb.BatchAuthorizeResponse.RESPONSES_FIELD_NUMBER)
# `BatchAuthorizeResponse.tool_sets` has the same tag, so that a serialised tool set fits into both.
_TOOL_SET = delimited_tag(pb.Granted.TOOL_SET_FIELD_NUMBER)

_PART = delimited_tag(pb.ReadToolSetResponse.TOOL_SET_FIELD_NUMBER)

MAX_BYTES = 4 * 2**20
"""The most bytes of a response: what clients of gRPC accept by default."""
MAX_TOOL_SET_BYTES = 3 * 2**20
"""The most bytes of a response with tool sets, and of a tool set that is sent at once."""
PART_BYTES = 2**20
"""About how many bytes a part of a tool set has. Only a single element may have more."""

_DIGEST_BYTES = 16
_MORE = 0x80
"""The top bit of a byte of a varint: more bytes follow."""


@dataclass(frozen=True, slots=True)
class EncodedToolSet:
    """A tool set, serialised.

    Attributes:
        version: Its version.
        field: The second part of a grant with the whole tool set. BatchAuthorizeResponse has the same field.
        cuts: Where the lists in `field` begin, where they are cut into parts, and where they end.
    """

    version: str
    field: bytes
    cuts: tuple[int, ...]

    def parts(self) -> Iterator[bytes]:
        """Yield the tool set as ReadToolSetResponses."""
        version, content = _version(self.version), memoryview(self.field)
        for begin, end in pairwise(self.cuts):
            yield delimited(_PART, version, content[begin:end])


# A tool set is put together from pieces: each hat, skill and tool as an element of its list, serialised once. Its
# version is a digest of the digests of its hats, each of which is a digest of its piece and of the digests of its
# skills, each of which is a digest of its piece and of those of its tools. So a change of one tool costs a few digests.
# In a full view, the texts of hats and skills count too.


def tool_piece(tool_id: ToolId, name: str, mcp_server: str) -> bytes:
    """Return a tool as an element of a tool set."""
    return pb.ToolSet(tools=[pb.ReachedTool(id=tool_id, name=name, mcp_server=mcp_server)]).SerializeToString()


@lru_cache(maxsize=4096)
def tool_name(piece: bytes) -> ToolName:
    """Return the name of a tool, by its piece."""
    tool = pb.ToolSet.FromString(piece).tools[0]
    return ToolName(tool.mcp_server, tool.name)


def skill_piece(skill_id: SkillId, name: str, tool_ids: Iterable[ToolId]) -> bytes:
    """Return a skill, with its enabled tools in order of id, as an element of a tool set."""
    return pb.ToolSet(skills=[pb.ReachedSkill(id=skill_id, name=name, tool_ids=tool_ids)]).SerializeToString()


def hat_piece(hat_id: HatId, name: str, skill_ids: Iterable[SkillId]) -> bytes:
    """Return a hat, with its skills in order of id, as an element of a tool set."""
    return pb.ToolSet(hats=[pb.ReachedHat(id=hat_id, name=name, skill_ids=skill_ids)]).SerializeToString()


def hat_texts(description: str, instructions: str) -> bytes:
    """Return what a full view adds to a hat."""
    return pb.ReachedHat(description=description, instructions=instructions).SerializeToString()


def skill_texts(description: str) -> bytes:
    """Return what a full view adds to a skill."""
    return pb.ReachedSkill(description=description).SerializeToString()


def with_texts(piece: bytes, texts: bytes) -> bytes:
    """Return the piece of a hat or skill with its texts."""
    if not texts:
        return piece
    at = 1
    while piece[at] >= _MORE:
        at += 1
    return delimited(piece[:1], memoryview(piece)[at + 1 :], texts)


def digest(pieces: Iterable[bytes]) -> bytes:
    """Return a digest of pieces and digests, in their order."""
    return hashlib.blake2b(b"".join(pieces), digest_size=_DIGEST_BYTES).digest()


def tool_set_version(hat_digests: Iterable[bytes]) -> str:
    """Return the version of a tool set, 32 hexadecimal digits. Equal tool sets have equal ones, in every process."""
    return digest(hat_digests).hex()


def tool_set(version: str, hats: Iterable[bytes], tools: Iterable[bytes], skills: Iterable[bytes]) -> EncodedToolSet:
    """Encode a tool set from the pieces of its hats, tools and skills, each in order of id."""
    pieces = [*hats, *tools, *skills]
    field = delimited(_TOOL_SET, _version(version), *pieces)
    return EncodedToolSet(version, field, _cuts(pieces, len(field)))


def _cuts(pieces: list[bytes], end: int) -> tuple[int, ...]:
    """Return where to cut a field of this length, which ends with these pieces, into parts."""
    at = end - sum(map(len, pieces))
    cuts = [at]
    for piece in pieces:
        if at > cuts[-1] and at + len(piece) > cuts[-1] + PART_BYTES:
            cuts.append(at)
        at += len(piece)
    return (*cuts, end)


def _version(version: str) -> bytes:
    return pb.ToolSet(version=version).SerializeToString()


# A grant is a `Granted` message made of two serialised parts, because protobuf messages can be concatenated. The first
# part is the key; the second part is what it reaches, which many keys share.


def key_fields(key: Key | KeyFacts) -> dict[str, Any]:
    """Return the fields that the messages Key and KeyIdentity have in common."""
    return {
        "id": str(key.id),
        "type": KEY_TYPES[key.type],
        "workspace_id": key.workspace_id,
        "user_id": key.user_id or "",
        "runtime_id": key.runtime_id or "",
        "description": key.description,
        "family_id": str(key.family_id),
    }


def granted_key(key: Key | KeyFacts) -> bytes:
    """Return the first part of a grant: the key."""
    identity = pb.KeyIdentity(**key_fields(key))
    if key.expires_at is not None:
        identity.expires_at.FromDatetime(key.expires_at)
    return pb.Granted(key=identity).SerializeToString()


def tool_set_reference(version: str) -> bytes:
    """Return the second part of a grant that only names a tool set, by its version."""
    return pb.Granted(tool_set_version=version).SerializeToString()


def tool_grant_field(tool: bytes, paths: Iterable[ToolPath], path_count: int, version: str) -> bytes:
    """Return the second part of a grant of one tool.

    Args:
        tool: The piece of the tool.
        paths: The first paths by which the key reaches the tool.
        path_count: How many paths there are.
        version: The version of the tool set that has the tool.
    """
    message = pb.ToolGrant(
        tool=pb.ToolSet.FromString(tool).tools[0],
        paths=[pb.ToolPath(hat_id=path.hat_id, skill_id=path.skill_id) for path in paths],
        tool_set_version=version,
        path_count=path_count,
    )
    return pb.Granted(tool=message).SerializeToString()


def tool_name_message(name: ToolName) -> common_pb2.ToolName:
    """Return the name of a tool as a message."""
    return common_pb2.ToolName(mcp_server=name.mcp_server, name=name.name)


def granted(key: bytes, reach: bytes) -> bytes:
    """Return an AuthorizeResponse with a grant, made of its two parts."""
    return b"".join((_GRANTED, _varint(len(key) + len(reach)), key, reach))


def denied(denial: Denied) -> bytes:
    """Return an AuthorizeResponse with a denial. As a ReadToolSetResponse, its bytes are the same."""
    message = pb.Denied(
        reason=DENIAL_REASONS[denial.reason],
        message=denial.message,
        key_id="" if denial.key_id is None else str(denial.key_id),
        tool_name=tool_name_message(denial.tool) if isinstance(denial.tool, ToolName) else None,
    )
    if denial.tool is not None and not isinstance(denial.tool, ToolName):
        message.tool_id = denial.tool
    return pb.AuthorizeResponse(denied=message).SerializeToString()


def batch(responses: Iterable[bytes], tool_set_fields: Iterable[bytes]) -> bytes:
    """Return a BatchAuthorizeResponse, made of serialised responses and of the fields of tool sets."""
    return b"".join((*(delimited(_RESPONSES, each) for each in responses), *tool_set_fields))


def delimited(tag: bytes, *parts: bytes | memoryview) -> bytes:
    """Return a length-delimited field: its tag, the length as a varint, and the content."""
    return b"".join((tag, _varint(sum(map(len, parts))), *parts))


@lru_cache(maxsize=4096)
def _varint(number: int) -> bytes:
    """Return a number as a varint: seven bits in each byte, the lowest first, the top bit set in all but the last."""
    if number <= 0x7F:  # noqa: PLR2004 - seven bits
        return bytes((number,))
    return bytes((number & 0x7F | 0x80,)) + _varint(number >> 7)
