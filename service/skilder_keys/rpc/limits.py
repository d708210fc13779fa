"""The bounds on requests: bytes by method, elements by list.

`LISTS` has an entry for every repeated field of a request, at any depth: a method with a field that lacks an entry
cannot be served. Lists of enum values need none: they all have the same bound. A test compares the numbers with the
comments in the protos.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skilder_keys.app.authorization.authorizer import MAX_BATCH
from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.key_filter import MAX_FILTER_VALUES
from skilder_keys.domain.keys import MAX_NAMED_HATS
from skilder_keys.domain.labels import MAX_LABELS
from skilder_keys.domain.masks import MAX_PATHS
from skilder_keys.domain.networks import MAX_NETWORKS
from skilder_keys.domain.workspace_checks import (
    MAX_HATS,
    MAX_MEMBERS,
    MAX_SKILLS,
    MAX_TEAMS,
    MAX_TOOLS,
)
from skilder_keys.domain.workspace_update import MAX_PARTS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

MAX_BYTES = 2**16
"""The most bytes of a request, decompressed, for a method without an entry in `METHODS`."""

METHODS: Mapping[str, int] = {
    "BatchAuthorize": 2**20,
    "Check": 2**20,
    "UpdateWorkspace": 4 * 2**20,
    "ApplyWorkspace": 16 * 2**20,
}
"""The most bytes of a request, decompressed, by method."""

LISTS: Mapping[str, int] = {
    "BatchAuthorizeRequest.requests": MAX_BATCH,
    "FieldMask.paths": MAX_PATHS,
    "HatLimit.hat_ids": MAX_NAMED_HATS,
    "IssueKeyRequest.labels": MAX_LABELS,
    "Key.labels": MAX_LABELS,
    "KeyFilter.labels": MAX_FILTER_VALUES,
    "KeyFilter.runtime_ids": MAX_FILTER_VALUES,
    "NetworkLimit.networks": MAX_NETWORKS,
    "KeyFilter.user_ids": MAX_FILTER_VALUES,
    "Workspace.members": MAX_MEMBERS,
    "Workspace.teams": MAX_TEAMS,
    "Workspace.hats": MAX_HATS,
    "Workspace.skills": MAX_SKILLS,
    "Workspace.tools": MAX_TOOLS,
    "UpdateWorkspaceRequest.remove": MAX_PARTS,
    "WorkspaceParts.members": MAX_PARTS,
    "WorkspaceParts.teams": MAX_TEAMS,
    "WorkspaceParts.hats": MAX_HATS,
    "WorkspaceParts.skills": MAX_SKILLS,
    "WorkspaceParts.tools": MAX_PARTS,
    "Member.team_ids": MAX_TEAMS,
    "Hat.team_ids": MAX_TEAMS,
    "Hat.skill_ids": MAX_SKILLS,
    "Skill.tool_ids": MAX_TOOLS,
}
"""The most elements of each list, by message and field."""

MAX_ENUM_VALUES = 100
"""The most elements of each list of enum values."""

_MANY_ELEMENTS = 2000


def max_bytes(method: MethodDescriptor) -> int:
    """Return the most bytes that a request of a method may have."""
    return METHODS.get(method.name, MAX_BYTES)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A field that is a list or a message.

    Attributes:
        maximum: The most elements of the list; None if the field is not a list.
        inside: The bounded fields of the message, or of each message of the list; None for other types.
    """

    name: str
    number: int
    maximum: int | None
    inside: Lists | None

    def too_many(self, path: str, count: int | None = None) -> InvalidRequestError:
        """Return the error for a list at a path that is too long, with its length if that is known."""
        has = f"has {count} elements" if count is not None else f"has more than {self.maximum} elements"
        return InvalidRequestError(FieldViolation(f"{path}{self.name}", f"{has}; at most {self.maximum} are allowed"))

    def check_elements(self, elements: Iterable[tuple[int, Message]], path: str) -> int:
        """Do what `Lists.check` does with each element of the list, whose own lists are simple; there may be many."""
        total = 0
        bounds = [
            (each.name, each.maximum or 0, each) for each in (self.inside.by_number.values() if self.inside else ())
        ]
        for index, element in elements:
            for name, maximum, each in bounds:
                count = len(getattr(element, name))
                if count > maximum:
                    raise each.too_many(f"{path}{self.name}[{index}].", count)
                total += count
        return total


class Lists:
    """The bounded fields of a message: its lists and messages.

    Attributes:
        by_number: The bounded fields by their numbers.
        has_lists: Whether it has a list at any depth.
        total: The most elements of these lists together, without the lists of inner messages.
        is_simple: Whether all of them are lists of values.
        is_large: Whether it can take more than a few milliseconds to check a request.
    """

    def __init__(self, descriptor: Any) -> None:  # noqa: ANN401 - one of two classes
        """Collect the bounded fields of a message; use `lists_of`.

        Raises:
            KeyError: A list has no bound.
        """
        bounded = filter(None, (_bounded(descriptor, each) for each in descriptor.fields))
        self.by_number: dict[int, Bounded] = {field.number: field for field in bounded}
        self.total = sum(field.maximum or 1 for field in self.by_number.values())
        inside = [field.inside for field in self.by_number.values() if field.inside is not None]
        is_list = [field.maximum is not None for field in self.by_number.values()]
        self.is_simple: bool = not inside
        self.has_lists: bool = any(is_list) or any(each.has_lists for each in inside)
        self.is_large: bool = self.total > _MANY_ELEMENTS or any(each.is_large for each in inside)

    def check(self, message: Message, path: str = "", since: Mapping[int, int] | None = None) -> int:
        """Reject a message with a list that is too long, before any element is touched.

        Args:
            message: The message.
            path: The path of the message in the request, with a dot at the end; empty for the request itself.
            since: By number of the field, how many elements of a list, or 1 for a message, were checked before; by
                default nothing was.

        Returns:
            The number of elements of the lists, at every depth, without those that were checked before.

        Raises:
            InvalidRequestError: A list is too long. The error names it.
        """
        total = 0
        since = since or {}
        for field in self.by_number.values():
            if field.maximum is not None:
                count = len(getattr(message, field.name))
                if count > field.maximum:
                    raise field.too_many(path, count)
                total += count - since.get(field.number, 0)
        for field in self.by_number.values():
            if field.inside is None or not field.inside.has_lists:
                continue
            if field.maximum is None:
                if message.HasField(field.name) and not since.get(field.number):
                    total += field.inside.check(getattr(message, field.name), f"{path}{field.name}.")
                continue
            begin = since.get(field.number, 0)
            elements = enumerate(getattr(message, field.name)[begin:], begin)
            if field.inside.is_simple:
                total += field.check_elements(elements, path)
                continue
            for index, element in elements:
                total += field.inside.check(element, f"{path}{field.name}[{index}].")
        return total


def lists_of(descriptor: Any) -> Lists | None:  # noqa: ANN401 - one of two classes
    """Return the bounded fields of a message; None if it has no list at any depth."""
    lists = Lists(descriptor)
    return lists if lists.has_lists else None


def _bounded(message: Any, field: Any) -> Bounded | None:  # noqa: ANN401 - the same
    maximum = None
    if field.is_repeated:
        maximum = MAX_ENUM_VALUES if field.enum_type is not None else LISTS[f"{message.name}.{field.name}"]
    inside = None if field.message_type is None else Lists(field.message_type)
    if maximum is None and inside is None:
        return None
    return Bounded(field.name, field.number, maximum, inside)
