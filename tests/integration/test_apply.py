"""ApplyWorkspace makes a workspace exactly what is given, or refuses all of it; GetWorkspace shows it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1 import workspace_pb2
from skilder.keys.v1.workspace_pb2 import MEMBER_ROLE_ADMIN, MEMBER_ROLE_EDITOR
from skilder_keys.rpc.decoding import SLICE_BYTES
from tests.support.calls import delete_workspace, get_workspace, list_workspaces, part, remove
from tests.support.changes import CHANGES
from tests.support.service import Client, Service, refusal
from tests.support.shapes import big_workspace, canonical
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import example_workspace, small_workspace

if TYPE_CHECKING:
    from skilder.keys.v1.workspace_pb2 import Workspace

pytestmark = GRPCIO_IF_SHORT


def changes_in(response: pb.ApplyWorkspaceResponse) -> list[str]:
    """Return the changes of a response, like `hat support-desk added`."""
    return [
        f"{pb.WorkspacePart.Name(each.part).removeprefix('WORKSPACE_PART_').lower()} {each.id} "
        f"{pb.ChangeAction.Name(each.action).removeprefix('CHANGE_ACTION_').lower()}"
        for each in response.changes
    ]


async def test_a_new_workspace_starts_at_version_1(empty_service: Service) -> None:
    """Every part is reported as added, sorted by kind and id."""
    response = await empty_service.operator.apply(small_workspace(), expected_version=0)
    assert response.version == 1
    assert changes_in(response)[:3] == ["workspace acme added", "member ada added", "member bob added"]
    assert {change.rpartition(" ")[2] for change in changes_in(response)} == {"added"}
    assert len(response.changes) == 1 + 3 + 3 + 4 + 4 + 5


@pytest.mark.parametrize("workspace", [small_workspace(), example_workspace()], ids=["small", "example"])
async def test_get_workspace_shows_what_was_applied(empty_service: Service, workspace: Workspace) -> None:
    """In canonical order. Applying that, or the original, again changes nothing."""
    await empty_service.operator.apply(workspace)
    shown = await get_workspace(empty_service.operator)
    assert shown.workspace == canonical(workspace)
    assert shown.version == 1
    assert shown.created_at == shown.updated_at
    for same in (shown.workspace, workspace):
        response = await empty_service.operator.apply(same)
        assert (response.version, changes_in(response)) == (1, [])
    assert await get_workspace(empty_service.operator) == shown


async def test_every_kind_of_change_is_applied_and_reported(service: Service) -> None:
    """Each makes the next version, is shown as given, and is undone by applying the previous state."""
    version = 1
    for name, change, expected in CHANGES:
        workspace = small_workspace()
        change(workspace)
        response = await service.operator.apply(workspace)
        assert (response.version, changes_in(response)) == (version + 1, expected), name
        shown = await get_workspace(service.operator)
        assert (shown.version, shown.workspace) == (version + 1, canonical(workspace)), name
        assert shown.updated_at.ToNanoseconds() > shown.created_at.ToNanoseconds(), name
        version = (await service.operator.apply(small_workspace())).version
        assert version == shown.version + 1, name
    (summary,) = (await list_workspaces(service.operator)).workspaces
    assert (summary.version, summary.created_at) == (version, shown.created_at)


async def test_texts_are_kept_unchanged(service: Service) -> None:
    """Up to the longest allowed, with line breaks, tabs and characters of every width."""
    workspace = small_workspace()
    workspace.name = "\N{ROBOT FACE}" * 128
    hat = part(workspace.hats, "engineer")
    hat.description, hat.instructions = "é" * 500, "Line\n\tü, \N{ROBOT FACE}\n" + "x" * 9985
    tool = part(workspace.tools, "git.commit")
    tool.name, tool.mcp_server = "'; DROP TABLE key; --", "\N{CJK UNIFIED IDEOGRAPH-9375}" * 255
    part(workspace.skills, "code").description = "{}\\u0041\\x00%s$1"
    await service.operator.apply(workspace)
    assert (await get_workspace(service.operator)).workspace == canonical(workspace)


async def test_the_expected_version_guards_a_change(service: Service) -> None:
    """With any other than the current version a change is refused with the current one, and nothing changes."""
    before = await get_workspace(service.operator)
    workspace = small_workspace()
    workspace.name = "Acme Ltd"
    for wrong in (0, 2, 2**63 - 1):
        refused = await refusal(service.operator.apply(workspace, expected_version=wrong))
        assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "VERSION_MISMATCH")
        assert refused.metadata == {"current_version": "1"}
    assert await get_workspace(service.operator) == before
    assert (await service.operator.apply(workspace, expected_version=1)).version == 2
    refused = await refusal(service.operator.apply(workspace, expected_version=1))
    assert refused.metadata == {"current_version": "2"}
    new = await refusal(service.operator.apply(small_workspace("globex"), expected_version=1))
    assert (new.reason, new.metadata) == ("VERSION_MISMATCH", {"current_version": "0"})
    assert [each.id for each in (await list_workspaces(service.operator)).workspaces] == ["acme"]
    negative = await refusal(service.operator.apply(workspace, expected_version=-1))
    assert (negative.code, negative.fields) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        {"expected_version": "is -1; 0 or more is allowed"},
    )


async def refused_fields(client: Client, workspace: Workspace) -> dict[str, str]:
    """Apply a workspace that must be refused as malformed, and return the fields at fault."""
    refused = await refusal(client.apply(workspace))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    return refused.fields


async def test_every_broken_bound_is_reported(service: Service) -> None:
    """All in one response, from the workspace's name to the last tool; nothing has changed."""
    before = await get_workspace(service.operator)
    bad = small_workspace()
    bad.name = ""
    bad.members.add(user_id=" no one", role=MEMBER_ROLE_EDITOR)
    bad.teams[1].name = "x" * 129
    bad.hats[2].instructions = "x" * 10_001
    bad.skills[0].description = "bell\a"
    bad.tools[3].mcp_server = ""
    assert await refused_fields(service.operator, bad) == {
        "workspace.name": "is required",
        "workspace.members[3].user_id": "is ' no one': character 1 is U+0020 SPACE: leave it out",
        "workspace.teams[1].name": f"of 'support' has 129 characters; at most 128 are allowed: '{'x' * 80}…'",
        "workspace.hats[2].instructions": f"of 'support-desk' has 10001 characters; at most 10000 are allowed: "
        f"'{'x' * 80}…'",
        "workspace.skills[0].description": "of 'search' is 'bell<U+0007>': character 5 is U+0007, which is not "
        "allowed: leave it out",
        "workspace.tools[3].mcp_server": "of 'git.commit' is required",
    }
    assert await get_workspace(service.operator) == before


async def test_every_bad_reference_is_reported(service: Service) -> None:
    """Dangling ones, cycles and duplicates, all in one response; nothing has changed."""
    before = await get_workspace(service.operator)
    bad = small_workspace()
    bad.members.add(user_id="ada", role=MEMBER_ROLE_EDITOR, team_ids=["nowhere"])
    bad.teams[0].parent_id = "support"
    bad.teams.add(id="lost", name="Lost", parent_id="nowhere")
    bad.hats[3].team_ids.append("engineering")
    bad.hats[3].skill_ids.append("juggling")
    bad.skills[0].tool_ids.append("ball")
    bad.tools.add(id="git.other", name="git_push", mcp_server="git")
    assert await refused_fields(service.operator, bad) == {
        "workspace.members[3].user_id": "is 'ada', which another entry has already",
        "workspace.members[3].team_ids[0]": "of 'ada' names 'nowhere', which does not exist",
        "workspace.teams[0].parent_id": "of 'customer' makes 'customer' its own ancestor",
        "workspace.teams[1].parent_id": "of 'support' makes 'support' its own ancestor",
        "workspace.teams[3].parent_id": "of 'lost' names 'nowhere', which does not exist",
        "workspace.hats[3].team_ids[1]": "of 'engineer' names 'engineering' again",
        "workspace.hats[3].skill_ids[2]": "of 'engineer' names 'juggling', which does not exist",
        "workspace.skills[0].tool_ids[1]": "of 'search' names 'ball', which does not exist",
        "workspace.tools[5].name": "of 'git.other' is 'git_push' on 'git', which another entry has already",
    }
    assert await get_workspace(service.operator) == before


async def test_bounds_and_references_are_reported_together(service: Service) -> None:
    """So that a whole file can be fixed at once, as the contract says."""
    bad = small_workspace()
    bad.tools[0].mcp_server = ""
    bad.hats[0].skill_ids.append("juggling")
    assert await refused_fields(service.operator, bad) == {
        "workspace.tools[0].mcp_server": "of 'web.search' is required",
        "workspace.hats[0].skill_ids[1]": "of 'everyone' names 'juggling', which does not exist",
    }


async def test_every_missing_role_is_reported(service: Service) -> None:
    """By its index, together with the other fields at fault."""
    bad = small_workspace()
    for member in bad.members[:2]:
        member.ClearField("role")
    bad.teams[0].name = ""
    assert await refused_fields(service.operator, bad) == {
        "workspace.members[0].role": "of 'ada' is required",
        "workspace.members[1].role": "of 'bob' is required",
        "workspace.teams[0].name": "of 'customer' is required",
    }


async def test_a_team_that_a_hat_names_cannot_be_left_out(service: Service) -> None:
    """Otherwise the hat would silently serve nobody any more."""
    workspace = small_workspace()
    remove(workspace.teams, "engineering")
    remove(workspace.members, "cyd")
    fault = {"workspace.hats[3].team_ids[0]": "of 'engineer' names 'engineering', which does not exist"}
    assert await refused_fields(service.operator, workspace) == fault
    part(workspace.hats, "engineer").team_ids[:] = ["support"]
    assert changes_in(await service.operator.apply(workspace)) == [
        "member cyd removed",
        "team engineering removed",
        "hat engineer updated",
    ]


async def test_the_largest_lists_and_the_deepest_tree(empty_service: Service) -> None:
    """Ten levels of teams are applied. An eleventh level, or one element too many in any list, is reported."""
    tree = workspace_pb2.Workspace(id="tree", name="Tree")
    for level in range(10):
        tree.teams.add(id=f"t{level}", name="T", parent_id=f"t{level - 1}" if level else "")
    await empty_service.operator.apply(tree)
    tree.teams.add(id="t10", name="T", parent_id="t9")
    fault = {"workspace.teams[10].parent_id": "of 't10' puts 't10' deeper than 10 levels"}
    assert await refused_fields(empty_service.operator, tree) == fault
    for name, maximum in (("members", 10_000), ("teams", 1_000), ("hats", 1_000), ("skills", 5_000), ("tools", 20_000)):
        full = workspace_pb2.Workspace(id="full", name="Full")
        id_name = "user_id" if name == "members" else "id"
        for index in range(maximum + 1):
            getattr(full, name).add(**{id_name: f"i{index}"})
        for member in full.members:
            member.role = MEMBER_ROLE_EDITOR
        # A long request is refused at the first list that is too long; the other lists are not counted.
        counted = f"has {maximum + 1}" if full.ByteSize() <= SLICE_BYTES else f"has more than {maximum}"
        fault = {f"workspace.{name}": f"{counted} elements; at most {maximum} are allowed"}
        assert await refused_fields(empty_service.operator, full) == fault
    wide = big_workspace()
    for hat in wide.hats[:5]:
        hat.skill_ids[:] = [skill.id for skill in wide.skills]
    fault = {"workspace.hats": "reach tools by 59000 paths; at most 50000 are allowed"}
    assert await refused_fields(empty_service.operator, wide) == fault
    assert len((await list_workspaces(empty_service.operator)).workspaces) == 1


async def test_a_big_workspace_is_applied_and_read_back(empty_service: Service) -> None:
    """10,000 tools, 200 skills, 50 hats: as new, unchanged and changed, within the time limit of an ordinary call."""
    workspace = big_workspace()
    response = await empty_service.operator.apply(workspace)
    assert (response.version, response.change_count, len(response.changes)) == (1, 10_251, 10_000)
    assert (await get_workspace(empty_service.operator, "big")).workspace == canonical(workspace)
    assert (await empty_service.operator.apply(workspace)).version == 1
    issued = await empty_service.operator.issue(workspace_id="big")
    granted = (await empty_service.service.authorize(issued.token)).granted
    assert [tool.id for tool in granted.tool_set.tools] == [tool.id for tool in workspace.tools]
    for tool in workspace.tools:
        tool.disabled = True
    assert len((await empty_service.operator.apply(workspace)).changes) == 10_000
    granted = (await empty_service.service.authorize(issued.token)).granted
    assert (len(granted.tool_set.hats), len(granted.tool_set.tools)) == (50, 0)


@pytest.mark.parametrize(
    ("actor", "reason"), [("", None), ("ada", None), ("bob", "ACTOR_NOT_ALLOWED"), ("dan", "ACTOR_NOT_MEMBER")]
)
async def test_the_actor_must_be_an_admin(service: Service, actor: str, reason: str | None) -> None:
    """Of the current state, even where the change would make them one; of the new state if the workspace is new."""
    workspace = small_workspace()
    remove(workspace.members, "ada")
    part(workspace.members, "bob").role = MEMBER_ROLE_ADMIN
    workspace.members.add(user_id="dan", role=MEMBER_ROLE_ADMIN)
    new = small_workspace("globex")
    if reason is None:
        assert (await service.operator.apply(workspace, actor=actor)).version == 2
        assert (await service.operator.apply(new, actor=actor)).version == 1
        return
    for refused in (
        await refusal(service.operator.apply(workspace, actor=actor)),
        await refusal(service.operator.apply(new, actor=actor)),
    ):
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)
    assert [each.id for each in (await list_workspaces(service.operator)).workspaces] == ["acme"]
    assert (await get_workspace(service.operator)).version == 1


async def test_two_concurrent_changes_are_applied_one_after_the_other(service: Service) -> None:
    """The result is one of the two states, two versions later. With an expected version, one of them is refused."""
    one, other = small_workspace(), small_workspace()
    remove(one.hats, "engineer")
    remove(one.tools, "git.push")
    part(one.skills, "code").tool_ids[:] = ["git.commit"]
    remove(other.members, "cyd")
    part(other.tools, "git.commit").name = "renamed"
    for round_ in range(5):
        version = (await get_workspace(service.operator)).version
        responses = await asyncio.gather(*(service.operator.apply(each) for each in (one, other)))
        assert sorted(each.version for each in responses) == [version + 1, version + 2], round_
        last = one if responses[0].version > responses[1].version else other
        shown = await get_workspace(service.operator)
        assert (shown.version, shown.workspace) == (version + 2, canonical(last))
        await service.operator.apply(small_workspace())
    version = (await get_workspace(service.operator)).version
    outcomes = await asyncio.gather(
        *(service.operator.apply(each, expected_version=version) for each in (one, other)), return_exceptions=True
    )
    errors = [each for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
    assert [error.code() for error in errors] == [grpc.StatusCode.ABORTED]


async def test_a_new_workspace_applied_concurrently_is_created_once(empty_service: Service) -> None:
    """Of five calls that expect a new one, one creates it and four get its current version in the error."""
    outcomes: list[Any] = await asyncio.gather(
        *(empty_service.operator.apply(small_workspace(), expected_version=0) for _ in range(5)), return_exceptions=True
    )
    errors = [each for each in outcomes if isinstance(each, grpc.aio.AioRpcError)]
    assert [error.code() for error in errors] == [grpc.StatusCode.ABORTED] * 4
    assert (await get_workspace(empty_service.operator)).version == 1


async def test_the_id_of_a_deleted_workspace_is_not_used_again(service: Service) -> None:
    """Whatever version is expected, and whoever calls."""
    await delete_workspace(service.operator)
    requests: list[dict[str, Any]] = [{}, {"expected_version": 0}, {"expected_version": 2}, {"actor": "ada"}]
    for fields in requests:
        refused = await refusal(service.operator.apply(small_workspace(), **fields))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WORKSPACE_DELETED")


@pytest.mark.parametrize("workspace_id", ["", "no where", "x" * 65, "nowhere"])
async def test_a_workspace_that_is_not_there_is_not_shown(service: Service, workspace_id: str) -> None:
    """A malformed id is reported by its field, an unknown one is not found."""
    refused = await refusal(get_workspace(service.operator, workspace_id))
    if workspace_id == "nowhere":
        assert (refused.code, refused.reason) == (grpc.StatusCode.NOT_FOUND, "WORKSPACE_NOT_FOUND")
    else:
        assert (refused.code, list(refused.fields)) == (grpc.StatusCode.INVALID_ARGUMENT, ["workspace_id"])
