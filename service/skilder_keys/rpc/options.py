"""What each method declares in the contract by its options."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skilder.keys.v1 import common_pb2
from skilder_keys.app.enums import ABILITIES
from skilder_keys.domain.ids import WorkspaceId

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import MethodDescriptor

    from skilder_keys.domain.access import Ability

_BY_NUMBER = {number: ability for ability, number in ABILITIES.items()}


_PACKAGE = common_pb2.DESCRIPTOR.package


def is_ours(method: MethodDescriptor) -> bool:
    """Return whether a method is of the contract, and not of that of a gateway."""
    return method.containing_service.file.package == _PACKAGE


def ability_of(method: MethodDescriptor) -> Ability:
    """Return the ability that a method requires of its caller.

    Raises:
        ValueError: The method does not declare one, so it cannot be served.
    """
    ability = _BY_NUMBER.get(method.GetOptions().Extensions[common_pb2.ability])
    if ability is None:
        raise ValueError(f"{method.full_name} has no `option (ability)`")
    return ability


def named_workspace(method: MethodDescriptor) -> Callable[[Any], WorkspaceId] | None:
    """Return what returns the workspace that a request of a method names; None if such requests name none."""
    fields = method.input_type.fields_by_name
    if "workspace_id" in fields:
        return lambda request: WorkspaceId(request.workspace_id)
    if "workspace" in fields:
        return lambda request: WorkspaceId(request.workspace.id)
    return None


def takes_actor(method: MethodDescriptor) -> bool:
    """Return whether the requests of a method may name an actor."""
    return "actor" in method.input_type.fields_by_name
