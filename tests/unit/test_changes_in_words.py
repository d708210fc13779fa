"""The changes of a workspace as text: removals first, all of them counted, and what each update removes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from skilder.keys.v1.workspace_pb2 import HAT_AUDIENCE_TEAMS, MEMBER_ROLE_VIEWER, Workspace
from skilder_keys.cli import changes
from skilder_keys.domain.difference import difference
from skilder_keys.domain.workspace_checks import checked
from skilder_keys.rpc import convert_workspaces
from tests.support.calls import part, remove
from tests.support.changes import CHANGES, serve_workspace
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from skilder.keys.v1 import catalog_service_pb2 as pb


def changes_to(after: Workspace, before: Workspace | None = None) -> list[pb.WorkspaceChange]:
    """Return the changes that the service reports when a workspace replaces the small one."""
    old, new = (checked(convert_workspaces.workspace(each)) for each in (before or small_workspace(), after))
    return [convert_workspaces.change_message(each) for each in difference(old, new)]


def details_of(after: Workspace) -> dict[str, str]:
    """Return the details of each updated part, by id."""
    found = changes.details(small_workspace(), after, changes_to(after))
    return {id_: detail for (_, id_), detail in found.items()}


def test_removals_come_first_and_additions_last() -> None:
    """Within each group the order is the service's: by kind and id."""
    after = small_workspace()
    remove(after.members, "cyd", "ada")
    remove(after.hats, "everyone")
    after.teams.add(id="a-new-one", name="New")
    part(after.members, "bob").role = MEMBER_ROLE_VIEWER
    found = [row[:3] for row in changes.rows(changes_to(after), {})]
    assert found == [
        ("member", "ada", "removed"),
        ("member", "cyd", "removed"),
        ("hat", "everyone", "removed"),
        ("member", "bob", "updated"),
        ("team", "a-new-one", "added"),
    ]
    assert changes.removals(changes_to(after)) == 3
    counted = "3 removed (2 members, 1 hat), 1 updated (1 member), 1 added (1 team)"
    assert changes.counted(changes_to(after)) == counted


@pytest.mark.parametrize(("name", "change", "expected"), CHANGES, ids=[each[0] for each in CHANGES])
def test_every_change_is_a_row_and_counted(name: str, change: object, expected: list[str]) -> None:  # noqa: ARG001
    """Each updated part also names its changed fields."""
    after = small_workspace()
    change(after)  # type: ignore[operator]  # a function of the workspace
    found = changes_to(after)
    details = changes.details(small_workspace(), after, found)
    rows = list(changes.rows(found, details))
    assert sorted(f"{kind} {id_} {action}" for kind, id_, action, _ in rows) == sorted(expected)
    for _, id_, action, detail in rows:
        assert bool(detail) == (action == "updated"), id_


def test_an_update_describes_each_changed_field() -> None:
    """Added and removed links, old and new values, long texts by name only; a new order is no change."""
    after = small_workspace()
    after.name = "Acme Ltd"
    bob = part(after.members, "bob")
    bob.role = MEMBER_ROLE_VIEWER
    bob.team_ids[:] = ["customer"]
    part(after.teams, "support").ClearField("parent_id")
    engineer = part(after.hats, "engineer")
    engineer.skill_ids[:] = ["search", "code"]
    engineer.instructions = "Test\nfirst."
    part(after.tools, "git.push").ClearField("disabled")
    assert details_of(after) == {
        "acme": "name Acme -> Acme Ltd",
        "bob": "role editor -> viewer; team_ids -support +customer",
        "support": "parent_id customer -> none",
        "engineer": "new instructions",
        "git.push": "disabled yes -> no",
    }


def test_many_links_are_counted() -> None:
    """Up to three links of each kind are named, the rest are counted."""
    after = small_workspace()
    for index in range(9):
        after.tools.add(id=f"new-{index}", name=f"new-{index}", mcp_server="new")
    part(after.skills, "code").tool_ids[:] = [f"new-{index}" for index in range(9)]
    detail = "tool_ids -git.commit -git.push +new-0 +new-1 +new-2 and 6 more added"
    assert details_of(after) == {"code": detail}


def test_ids_that_could_be_misread_are_quoted() -> None:
    """An id may have spaces and commas, which also stand between ids."""
    before = small_workspace()
    for id_ in ("a b", "c,d"):
        before.tools.add(id=id_, name=id_, mcp_server="new")
    after = Workspace()
    after.CopyFrom(before)
    part(before.skills, "code").tool_ids[:] = ["a b", "git.push"]
    part(after.skills, "code").tool_ids[:] = ["c,d", "git.push"]
    details = changes.details(before, after, changes_to(after, before))
    assert list(details.values()) == ["tool_ids -'a b' +'c,d'"]


def test_a_hat_that_serves_more_or_nobody_is_named() -> None:
    """A hat that changes teams, served the whole workspace before or is removed is not."""
    after = small_workspace()
    serve_workspace(part(after.hats, "engineer"))
    part(after.hats, "support-desk").team_ids[:] = ["engineering"]
    part(after.hats, "everyone").name = "All"
    part(after.hats, "customer-care").ClearField("team_ids")
    assert changes.widened_hats(small_workspace(), after) == ["engineer"]
    assert changes.unserving_hats(after) == ["customer-care"]
    assert details_of(after) == {
        "engineer": "team_ids -engineering; audience teams -> workspace; SERVES THE WHOLE WORKSPACE",
        "support-desk": "team_ids -support +engineering",
        "everyone": "name Everyone -> All",
        "customer-care": "team_ids -customer; SERVES NOBODY",
    }
    remove(after.hats, "engineer")
    assert changes.widened_hats(small_workspace(), after) == []


def test_an_audience_that_is_left_out_is_no_change() -> None:
    """It means the same as `teams`, which the service shows."""
    before, after = small_workspace(), small_workspace()
    engineer = part(before.hats, "engineer")
    engineer.audience = HAT_AUDIENCE_TEAMS
    part(after.hats, "engineer").name = "Engineers"
    found = changes.details(before, after, changes_to(after))
    assert list(found.values()) == ["name Engineer -> Engineers"]
