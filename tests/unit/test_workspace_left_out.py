"""What is left out of a workspace, at any depth, is refused or takes something away: no key reaches more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.permissions import Reach
from skilder_keys.domain.workspace_checks import checked
from skilder_keys.rpc import convert_workspaces
from tests.support.lengths import by_form
from tests.support.snapshot_reads import contents_of, tools_in
from tests.support.workspaces import example_workspace, small_workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from google.protobuf.message import Message

    from skilder.keys.v1.workspace_pb2 import Workspace

# A disabled tool is an exception from the rest: to leave the word out switches the tool on.
_SWITCH = "disabled"


def without_each(message: Message) -> Iterator[str]:
    """Leave out each field and each element of each list in turn, for as long as its name is in use."""
    for field, value in message.ListFields():
        if field.name == _SWITCH:
            continue
        copy = type(message)()
        copy.CopyFrom(message)
        message.ClearField(field.name)
        yield field.name
        message.CopyFrom(copy)
        if not field.is_repeated:
            continue
        for index in range(len(value)):
            elements: Any = getattr(message, field.name)
            del elements[index]
            yield f"{field.name}[{index}]"
            message.CopyFrom(copy)
            if field.message_type is not None:
                for path in without_each(getattr(message, field.name)[index]):
                    yield f"{field.name}[{index}].{path}"


def reached(workspace: Workspace) -> set[tuple[str, str, str]]:
    """Return each hat and tool that a workspace key, or a key of a member, reaches; nothing if it is refused."""
    try:
        found = checked(convert_workspaces.workspace(workspace))
    except InvalidRequestError:
        return set()
    keys = {"": Reach(None, None)} | {each.id: Reach(frozenset(each.team_ids), None) for each in found.members}
    contents = contents_of(found.catalog)
    sets = {user: tools_in(contents, reach) for user, reach in keys.items()}
    return {
        (user, kind, each[0])
        for user, tools in sets.items()
        for kind, parts in (("hat", tools.hats), ("tool", tools.tools))
        for each in parts
    }


@pytest.mark.parametrize("make", by_form([small_workspace], [small_workspace, example_workspace]))
def test_no_key_reaches_more_by_what_is_left_out(make: Callable[[], Workspace]) -> None:
    """Neither by a field nor by an element of a list."""
    workspace = make()
    before = reached(workspace)
    accepted = []
    for path in without_each(workspace):
        now = reached(workspace)
        assert now <= before, path
        if now:
            accepted.append(path)
    assert reached(workspace) == before
    for end in ("].audience", "].team_ids", "].team_ids[0]", "].parent_id", "].skill_ids[0]", "].tool_ids"):
        assert any(path.endswith(end) for path in accepted), end
