"""What an applied workspace changed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.domain.difference import Action, Change, Part, difference
from service.domain.workspace import MemberRole
from service.domain.workspace_checks import checked
from service.rpc import convert
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from random import Random

    from service.domain.workspace import Workspace

LISTS = {Part.MEMBER: "members", Part.TEAM: "teams", Part.HAT: "hats", Part.SKILL: "skills", Part.TOOL: "tools"}
SMALL = checked(convert.workspace(small_workspace()))


def parts(workspace: Workspace, part: Part) -> tuple[Any, ...]:
    """Answers the parts of a kind."""
    found: tuple[Any, ...] = getattr(workspace if part is Part.MEMBER else workspace.catalogue, LISTS[part])
    return found


def with_parts(workspace: Workspace, part: Part, values: tuple[Any, ...]) -> Workspace:
    """Answers the workspace with other parts of a kind."""
    changed: dict[str, Any] = {LISTS[part]: values}
    if part is Part.MEMBER:
        return replace(workspace, **changed)
    return replace(workspace, catalogue=replace(workspace.catalogue, **changed))


def test_everything_of_a_new_workspace_is_added() -> None:
    """The workspace first, then each of its parts, in order of kind and id."""
    assert difference(None, SMALL) == (
        Change(Part.WORKSPACE, "acme", Action.ADDED),
        *(Change(part, each.id, Action.ADDED) for part in LISTS for each in parts(SMALL, part)),
    )


def test_nothing_changed_between_equal_workspaces() -> None:
    """The same state again is no change."""
    assert difference(SMALL, checked(convert.workspace(small_workspace()))) == ()


def test_a_new_name_is_an_update_of_the_workspace() -> None:
    """The workspace itself is a part too."""
    assert difference(SMALL, replace(SMALL, name="Acme & Sons")) == (Change(Part.WORKSPACE, "acme", Action.UPDATED),)


@pytest.mark.parametrize("part", LISTS)
@pytest.mark.parametrize("at", [0, -1])
def test_a_part_that_is_left_out_is_removed(part: Part, at: int) -> None:
    """And, seen the other way round, one that is new is added."""
    gone = parts(SMALL, part)[at]
    without = with_parts(SMALL, part, tuple(each for each in parts(SMALL, part) if each is not gone))
    assert difference(SMALL, without) == (Change(part, gone.id, Action.REMOVED),)
    assert difference(without, SMALL) == (Change(part, gone.id, Action.ADDED),)


@pytest.mark.parametrize(
    ("part", "change"),
    [
        (Part.MEMBER, {"role": MemberRole.VIEWER}),
        (Part.MEMBER, {"team_ids": ("customer",)}),
        (Part.TEAM, {"name": "Customers"}),
        (Part.TEAM, {"parent_id": "engineering"}),
        (Part.HAT, {"name": "Another"}),
        (Part.HAT, {"description": "Another"}),
        (Part.HAT, {"instructions": "Another"}),
        (Part.HAT, {"team_ids": ()}),
        (Part.HAT, {"skill_ids": ()}),
        (Part.SKILL, {"name": "Another"}),
        (Part.SKILL, {"description": "Another"}),
        (Part.SKILL, {"tool_ids": ()}),
        (Part.TOOL, {"name": "another"}),
        (Part.TOOL, {"mcp_server": "another"}),
        (Part.TOOL, {"active": False}),
    ],
)
def test_a_part_with_another_field_is_updated(part: Part, change: dict[str, Any]) -> None:
    """Whatever field it is, and only that part."""
    first, *others = parts(SMALL, part)
    desired = with_parts(SMALL, part, (replace(first, **change), *others))
    assert difference(SMALL, desired) == (Change(part, first.id, Action.UPDATED),)


def test_changes_come_in_order_of_kind_and_id() -> None:
    """Whatever was done to the parts, a part's place is by its kind, then by its id."""
    desired = replace(SMALL, name="Another")
    for part in LISTS:
        first, second, *others = parts(SMALL, part)
        added = replace(first, id="zz-new")
        desired = with_parts(desired, part, (*others, replace(second, id=f"{second.id}-new"), added))
    changes = difference(SMALL, desired)
    assert len(changes) == 1 + 4 * len(LISTS)
    order = [Part.WORKSPACE, *LISTS]
    assert list(changes) == sorted(changes, key=lambda change: (order.index(change.part), change.id))
    removed = {change.id for change in changes if change.action is Action.REMOVED}
    assert removed == {each.id for part in LISTS for each in parts(SMALL, part)[:2]}


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_another_order_of_the_input_is_no_change(order: Random) -> None:
    """A file whose lines were moved about says the same workspace."""
    message = small_workspace()
    lists: list[Any] = [message.members, message.teams, message.hats, message.skills, message.tools]
    lists += [each.team_ids for each in message.members] + [each.team_ids for each in message.hats]
    lists += [each.skill_ids for each in message.hats] + [each.tool_ids for each in message.skills]
    for each in lists:
        mixed = order.sample(list(each), len(each))
        del each[:]
        each.extend(mixed)
    assert difference(SMALL, checked(convert.workspace(message))) == ()
