"""Digests of the parts of a workspace as a request has them, by kind."""

from __future__ import annotations

import unicodedata
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING

from skilder.keys.v1 import workspace_pb2
from skilder_keys.app.workspace_kinds import AskedWorkspace
from skilder_keys.domain import fields, texts, token, workspace, workspace_checks
from skilder_keys.domain.difference import KINDS, Part
from skilder_keys.domain.ids import WorkspaceId
from skilder_keys.rpc import convert, convert_workspaces, limits
from skilder_keys.storage import catalog_changes

if TYPE_CHECKING:
    from collections.abc import Collection
    from types import ModuleType

_RULES: tuple[ModuleType, ...] = (
    fields,
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

_PIECE = 200
"""How many parts are serialised at once."""


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


def asked(message: workspace_pb2.Workspace) -> AskedWorkspace:
    """Return the workspace that a request asks for."""

    def convert_kinds(kinds: Collection[Part]) -> workspace.Workspace:
        if len(kinds) == len(KINDS):
            return convert_workspaces.workspace(message)
        some = workspace_pb2.Workspace(id=message.id, name=message.name)
        for part in kinds:
            name = convert_workspaces.LISTS[part]
            getattr(some, name).MergeFrom(getattr(message, name))
        return convert_workspaces.workspace(some)

    digests = {part: _digest(message, part) for part in KINDS}
    return AskedWorkspace(WorkspaceId(message.id), message.name, digests, convert_kinds)


def _digest(message: workspace_pb2.Workspace, part: Part) -> bytes:
    """Return a digest of the parts of a kind: equal ones mean that they are the same, in the same order.

    They are serialised in pieces, because protobuf blocks all other threads meanwhile. Joined, they are a message.
    """
    name = convert_workspaces.LISTS[part]
    parts = getattr(message, name)
    state = blake2b(key=_KEY, digest_size=32)
    for at in range(0, len(parts), _PIECE):
        piece = workspace_pb2.Workspace()
        getattr(piece, name).extend(parts[at : at + _PIECE])
        state.update(piece.SerializeToString(deterministic=True))
    return state.digest()
