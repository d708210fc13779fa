"""The difference between two versions of a workspace."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilder_keys.domain.difference import Action, Change, Part, check_removals, difference, parts_of
from skilder_keys.domain.errors import TooManyChangedError
from skilder_keys.domain.ids import UserId
from skilder_keys.domain.workspace import HatAudience, MemberRole
from skilder_keys.domain.workspace_checks import checked
from skilder_keys.rpc import convert_workspaces
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from random import Random

    from skilder_keys.domain.workspace import Workspace

LISTS = {Part.MEMBER: "members", Part.TEAM: "teams", Part.HAT: "hats", Part.SKILL: "skills", Part.TOOL: "tools"}
SMALL = checked(convert_workspaces.workspace(small_workspace()))


def parts(workspace: Workspace, part: Part) -> tuple[Any, ...]:
    """Return the parts of a kind."""
    found: tuple[Any, ...] = getattr(workspace if part is Part.MEMBER else workspace.catalog, LISTS[part])
    return found


def with_parts(workspace: Workspace, part: Part, values: tuple[Any, ...]) -> Workspace:
    """Return the workspace with other parts of a kind."""
    changed: dict[str, Any] = {LISTS[part]: values}
    if part is Part.MEMBER:
        return replace(workspace, **changed)
    return replace(workspace, catalog=replace(workspace.catalog, **changed))


def test_everything_of_a_new_workspace_is_added() -> None:
    """First the workspace, then each part, sorted by kind and id."""
    assert difference(None, SMALL) == (
        Change(Part.WORKSPACE, "acme", Action.ADDED),
        *(Change(part, each.id, Action.ADDED) for part in LISTS for each in parts(SMALL, part)),
    )


def test_nothing_changed_between_equal_workspaces() -> None:
    """Applying the same state again is no change."""
    assert difference(SMALL, checked(convert_workspaces.workspace(small_workspace()))) == ()


def test_a_new_name_is_an_update_of_the_workspace() -> None:
    """The workspace itself counts as a part."""
    assert difference(SMALL, replace(SMALL, name="Acme & Sons")) == (Change(Part.WORKSPACE, "acme", Action.UPDATED),)


@pytest.mark.parametrize("part", LISTS)
@pytest.mark.parametrize("at", [0, -1])
def test_a_part_that_is_left_out_is_removed(part: Part, at: int) -> None:
    """And in the other direction a new part is added."""
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
        (Part.HAT, {"audience": HatAudience.WORKSPACE}),
        (Part.HAT, {"skill_ids": ()}),
        (Part.SKILL, {"name": "Another"}),
        (Part.SKILL, {"description": "Another"}),
        (Part.SKILL, {"tool_ids": ()}),
        (Part.TOOL, {"name": "another"}),
        (Part.TOOL, {"mcp_server": "another"}),
        (Part.TOOL, {"disabled": True}),
    ],
)
def test_a_part_with_another_field_is_updated(part: Part, change: dict[str, Any]) -> None:
    """For every field of every kind; no other part is reported."""
    first, *others = parts(SMALL, part)
    desired = with_parts(SMALL, part, (replace(first, **change), *others))
    assert difference(SMALL, desired) == (Change(part, first.id, Action.UPDATED),)


def test_changes_come_in_order_of_kind_and_id() -> None:
    """The order does not depend on what was done to the parts."""
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
    """Moving lines about in a file does not change the workspace."""
    message = small_workspace()
    lists: list[Any] = [message.members, message.teams, message.hats, message.skills, message.tools]
    lists += [each.team_ids for each in message.members] + [each.team_ids for each in message.hats]
    lists += [each.skill_ids for each in message.hats] + [each.tool_ids for each in message.skills]
    for each in lists:
        mixed = order.sample(list(each), len(each))
        del each[:]
        each.extend(mixed)
    assert difference(SMALL, checked(convert_workspaces.workspace(message))) == ()


def refused_removals(current: Workspace | None, desired: Workspace, max_removals: int | None) -> dict[str, str] | None:
    """Return the metadata of the refusal, or None where the change is allowed."""
    try:
        total = 0 if current is None else sum(map(len, parts_of(current).values()))
        check_removals(total, difference(current, desired), max_removals)
    except TooManyChangedError as error:
        return dict(error.details)
    return None


def members_only(*ids: str) -> Workspace:
    """Return a workspace with these members and no other part."""
    member = SMALL.members[0]
    empty = replace(SMALL.catalog, teams=(), hats=(), skills=(), tools=())
    return checked(
        replace(SMALL, members=tuple(replace(member, id=UserId(id_), team_ids=()) for id_ in ids), catalog=empty)
    )


@pytest.mark.parametrize(
    ("before", "after", "refused"),
    [
        ("a", "", ("1", "0")),
        ("ab", "a", None),
        ("ab", "", ("2", "1")),
        ("abc", "ab", None),
        ("abc", "a", ("2", "1")),
        ("abcd", "cd", None),
        ("abcd", "d", ("3", "2")),
        ("ab", "acdef", None),
        ("ab", "cdefgh", ("2", "1")),
        ("", "", None),
        ("", "abc", None),
    ],
)
def test_half_of_the_parts_may_be_removed_and_no_more(before: str, after: str, refused: tuple[str, str] | None) -> None:
    """Half of the parts before the change. A changed id is a removal, and additions do not make up for it."""
    found = refused_removals(members_only(*before), members_only(*after), None)
    assert found == (None if refused is None else {"count": refused[0], "allowed": refused[1]})


@pytest.mark.parametrize("part", LISTS)
def test_every_kind_of_part_counts(part: Part) -> None:
    """Each removed part counts as one of all 19 parts together, not of its own kind."""
    gone = len(parts(SMALL, part))
    without = with_parts(SMALL, part, ())
    assert refused_removals(SMALL, without, None) is None
    assert refused_removals(SMALL, without, gone) is None
    assert refused_removals(SMALL, without, gone - 1) == {"count": str(gone), "allowed": str(gone - 1)}
    assert refused_removals(SMALL, without, 0) == {"count": str(gone), "allowed": "0"}


def test_emptying_a_workspace_is_refused_without_max_removals() -> None:
    """A truncated file looks like an emptied workspace."""
    empty = members_only()
    assert refused_removals(SMALL, empty, None) == {"count": "19", "allowed": "9"}
    assert refused_removals(SMALL, empty, 18) == {"count": "19", "allowed": "18"}
    assert refused_removals(SMALL, empty, 19) is None
    assert refused_removals(SMALL, empty, 2**31 - 1) is None


def test_a_change_without_removals_is_allowed_with_max_removals_0() -> None:
    """A new workspace, updates and additions. A part that loses a link is updated, not removed."""
    assert refused_removals(None, SMALL, 0) is None
    assert refused_removals(SMALL, SMALL, 0) is None
    updated = with_parts(SMALL, Part.HAT, tuple(replace(hat, team_ids=(), skill_ids=()) for hat in SMALL.catalog.hats))
    assert refused_removals(SMALL, replace(updated, name="Another"), 0) is None
