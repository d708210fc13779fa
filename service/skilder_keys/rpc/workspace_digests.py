"""The workspace of a request, its parts in pieces with digests, by which those that are as they were are recognized."""

from __future__ import annotations

import unicodedata
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from skilder.keys.v1 import catalog_service_pb2, workspace_pb2
from skilder_keys.app.workspace_pieces import Unknown
from skilder_keys.domain import fields as field_rules
from skilder_keys.domain import texts, token, workspace, workspace_checks
from skilder_keys.domain.difference import Part
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.rpc import convert, convert_workspaces, limits
from skilder_keys.rpc.convert_workspaces import LISTS
from skilder_keys.rpc.wire import field_at, fields, row_of_fields
from skilder_keys.storage import catalog_changes

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import ModuleType

    from skilder_keys.domain.workspace import Workspace

_RULES: tuple[ModuleType, ...] = (
    field_rules,
    texts,
    token,
    workspace,
    workspace_checks,
    convert,
    convert_workspaces,
    limits,
    catalog_changes,
)
"""The modules with the rules by which parts are accepted, converted and written."""


def _rules() -> bytes:
    """Return a digest of the rules, so that a version of the service with others trusts no digest of this one.

    It is of the modules' text, so that a new rule cannot be forgotten.
    """
    state = blake2b(workspace_pb2.DESCRIPTOR.serialized_pb, digest_size=32)
    state.update(unicodedata.unidata_version.encode())
    for module in _RULES:
        state.update(Path(str(module.__file__)).read_bytes())
    return state.digest()


_KEY = _rules()
_BYTES = 32
"""The bytes of a digest."""
_MIN_PIECE = 48
"""The fewest parts of a piece, but for the last one, so that there are not too many pieces."""
_MASK = 31
"""After so many, a part is the last of its piece if its CRC-32 has none of these bits: one of 32 is."""
_WORKSPACE = catalog_service_pb2.ApplyWorkspaceRequest.WORKSPACE_FIELD_NUMBER
_NUMBERS = {part: workspace_pb2.Workspace.DESCRIPTOR.fields_by_name[name].number for part, name in LISTS.items()}


class SentWorkspace:
    """The workspace of an ApplyWorkspaceRequest: an AskedWorkspace.

    The content of a part decides whether it is the last one of its piece. So a part that is added or removed changes
    one piece or two, and not all pieces after it.
    """

    def __init__(self, message: workspace_pb2.Workspace, body: bytes) -> None:
        """Divide the parts of a workspace into pieces.

        Args:
            message: The workspace.
            body: The bytes of the request that has it, which must be valid.
        """
        self.id = WorkspaceId(message.id)
        self.name = message.name
        self._message = message
        borders = _borders(body)
        self._pieces = {} if borders is None else {part: tuple(_pieces(body, borders[part])) for part in _NUMBERS}
        self.digests = {part: b"".join(piece.digest for piece in pieces) for part, pieces in self._pieces.items()}

    def convert(self) -> Workspace:
        """Return the whole workspace."""
        return convert_workspaces.workspace(self._message)

    def unknown(self, known: Mapping[Part, bytes], most: int) -> Unknown | None:
        """Return what is not in known pieces, or None if it is more than `most` parts."""
        if not self.digests:
            return None
        some = workspace_pb2.Workspace(id=self.id, name=self.name)
        if self._message.HasField("key_policy"):
            some.key_policy.CopyFrom(self._message.key_policy)
        ids: dict[Part, list[str]] = {}
        for part, digests in self.digests.items():
            before = known.get(part, b"")
            if digests == before:
                continue
            known_digests = {before[at : at + _BYTES] for at in range(0, len(before), _BYTES)}
            others = [each for each in self._pieces[part] if each.digest not in known_digests]
            most -= sum(each.end - each.begin for each in others)
            if most < 0:
                return None
            parts = getattr(self._message, LISTS[part])
            for each in others:
                getattr(some, LISTS[part]).extend(parts[each.begin : each.end])
            ids[part] = [each.user_id if part is Part.MEMBER else each.id for each in parts]
        return Unknown(convert_workspaces.workspace(some), ids)


class _Piece(NamedTuple):
    """Some parts of a kind that were sent one after the other: the first, the one after the last, and their digest."""

    begin: int
    end: int
    digest: bytes


def _borders(body: bytes) -> dict[Part, list[int]] | None:
    """Return where the parts of the workspace in an ApplyWorkspaceRequest begin, and where the last of a kind ends.

    Return None if something else is between two parts of a kind. What protobuf serialises is never so.
    """
    found: dict[int, list[int]] = {}
    for workspace_number, _, _, content, end in fields(body, 0, len(body)):
        at = content if workspace_number == _WORKSPACE else end
        while at < end:
            number, _, begin, _, stop = field_at(body, at, end)
            # A long field is not in a row.
            row = row_of_fields(body, begin, end, len(body))
            borders = found.setdefault(number, [begin])
            if borders[-1] != begin:
                return None
            borders += row[1:] or [stop]
            at = borders[-1]
    return {part: found.get(number, [0]) for part, number in _NUMBERS.items()}


def _pieces(body: bytes, borders: Sequence[int]) -> Iterator[_Piece]:
    """Yield the pieces of the parts of a kind: at least one, which may be empty.

    The bytes of a part begin with its tag and length, so no two rows of parts have the same bytes.
    """
    begin, count = 0, len(borders) - 1
    while True:
        end = begin + _MIN_PIECE
        while end < count and crc32(body[borders[end - 1] : borders[end]]) & _MASK:
            end += 1
        end = min(end, count)
        digest = blake2b(body[borders[begin] : borders[end]], key=_KEY, digest_size=_BYTES).digest()
        yield _Piece(begin, end, digest)
        if end == count:
            return
        begin = end
