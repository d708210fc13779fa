"""The bounds of the contract on requests: bytes by method, elements by list.

`LISTS` has an entry for every repeated field that a request can hold, at any depth: a method whose request has one
without an entry cannot be served, and a test compares the numbers with the comments in the protos.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from skilder_keys.app.authorization.authorizer import MAX_BATCH
from skilder_keys.domain.errors import FieldViolation, InvalidRequestError
from skilder_keys.domain.keys import MAX_NAMED_HATS
from skilder_keys.domain.workspace_checks import MAX_HATS, MAX_MEMBERS, MAX_SKILLS, MAX_TEAMS, MAX_TOOLS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from google.protobuf.descriptor import MethodDescriptor
    from google.protobuf.message import Message

MAX_BYTES = 2**16
"""The most bytes of a request, once it is decompressed, where `METHODS` does not say otherwise."""

METHODS: Mapping[str, int] = {"BatchAuthorize": 2**20, "ApplyWorkspace": 16 * 2**20}
"""The most bytes of the requests of these methods."""

LISTS: Mapping[str, int] = {
    "BatchAuthorizeRequest.requests": MAX_BATCH,
    "IssueKeyRequest.hat_ids": MAX_NAMED_HATS,
    "Workspace.members": MAX_MEMBERS,
    "Workspace.teams": MAX_TEAMS,
    "Workspace.hats": MAX_HATS,
    "Workspace.skills": MAX_SKILLS,
    "Workspace.tools": MAX_TOOLS,
    "Member.team_ids": MAX_TEAMS,
    "Hat.team_ids": MAX_TEAMS,
    "Hat.skill_ids": MAX_SKILLS,
    "Skill.tool_ids": MAX_TOOLS,
}
"""The most elements of each list, by message and field."""

MAX_ELEMENTS = 250_000
"""The most elements of all lists of a request together."""

_MANY = 2000


def max_bytes(method: MethodDescriptor) -> int:
    """Return the most bytes that a request of a method may have."""
    return METHODS.get(method.name, MAX_BYTES)


@dataclass(frozen=True, slots=True)
class Bounded:
    """A field that is a list, or a message with a list somewhere in it.

    Attributes:
        maximum: The most elements of the list; None where the field is no list.
        inside: The same for the message, or for each message of the list; None where they hold no list.
    """

    name: str
    number: int
    maximum: int | None
    inside: Lists | None

    def too_many(self, path: str, count: int | None = None) -> InvalidRequestError:
        """Return the error for a list that is too long, at a path; the count may not be known."""
        has = f"has {count} elements" if count is not None else f"has more than {self.maximum} elements"
        return InvalidRequestError(FieldViolation(f"{path}{self.name}", f"{has}; at most {self.maximum} are allowed"))


class Lists:
    """The bounded fields of a message.

    Attributes:
        by_number: The fields.
        total: How many elements the lists can have together, those of messages inside not counted.
        is_large: Whether a request of this many elements takes more than a few milliseconds to look through.
    """

    def __init__(self, descriptor: Any) -> None:  # noqa: ANN401 - one of two classes
        """Take a message that has some, as `lists_of` does.

        Raises:
            KeyError: A list has no bound.
        """
        found = filter(None, (_bounded(descriptor, each) for each in descriptor.fields))
        self.by_number: dict[int, Bounded] = {field.number: field for field in found}
        self.total = sum(field.maximum or 1 for field in self.by_number.values())
        inside = [field.inside for field in self.by_number.values() if field.inside is not None]
        self.is_large: bool = self.total > _MANY or any(each.is_large for each in inside)

    def check(self, message: Message, path: str = "", since: Mapping[int, int] | None = None) -> int:
        """Refuse a message with a list that is too long, before any element is looked into.

        Args:
            message: The message.
            path: Where it stands in the request, with a dot at the end; empty for the request.
            since: By number of field, how many elements of its list were looked into before, or 1 for a message that
                was; none by default.

        Returns:
            How many elements the lists have, at every depth, those left out that were looked into before.

        Raises:
            InvalidRequestError: Names the list.
        """
        found = 0
        since = since or {}
        for field in self.by_number.values():
            if field.maximum is not None:
                count = len(getattr(message, field.name))
                if count > field.maximum:
                    raise field.too_many(path, count)
                found += count - since.get(field.number, 0)
        for field in self.by_number.values():
            if field.inside is None:
                continue
            if field.maximum is None:
                if message.HasField(field.name) and not since.get(field.number):
                    found += field.inside.check(getattr(message, field.name), f"{path}{field.name}.")
                continue
            begin = since.get(field.number, 0)
            for index, element in enumerate(getattr(message, field.name)[begin:], begin):
                found += field.inside.check(element, f"{path}{field.name}[{index}].")
        return found


def lists_of(descriptor: Any) -> Lists | None:  # noqa: ANN401 - one of two classes
    """Return the bounded fields of a message; None where it has no list at any depth."""
    lists = Lists(descriptor)
    return lists if lists.by_number else None


def _bounded(message: Any, field: Any) -> Bounded | None:  # noqa: ANN401 - the same
    maximum = LISTS[f"{message.name}.{field.name}"] if field.is_repeated else None
    inside = None if field.message_type is None else lists_of(field.message_type)
    if maximum is None and inside is None:
        return None
    return Bounded(field.name, field.number, maximum, inside)
