"""UpdateWorkspace changes what it names, and leaves everything else as it is."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder.keys.v1.workspace_pb2 import (
    HAT_AUDIENCE_WORKSPACE,
    MEMBER_ROLE_ADMIN,
    MEMBER_ROLE_VIEWER,
    Hat,
    Member,
    Skill,
    Team,
    Tool,
    Workspace,
)
from skilder_keys.domain.workspace_checks import MAX_BYTES
from tests.support.calls import call, delete_workspace, get_workspace, part, remove
from tests.support.fence import epoch, insert_laggard
from tests.support.largest import largest_workspace
from tests.support.lengths import ONLY_IF_LONG, by_form
from tests.support.service import Refusal, refusal
from tests.support.shapes import canonical
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT, ONLY_GRPCIO
from tests.support.updates import LISTS, REFS, as_applied, random_update, update
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from tests.support.service import Client, Service

EVERYTHING = "SELECT version, updated_at FROM workspace UNION ALL SELECT id, at FROM audit_event"
pytestmark = GRPCIO_IF_SHORT

DAN = Member(user_id="dan", role=MEMBER_ROLE_VIEWER, team_ids=["support"])


async def refused_update(client: Client, **fields: Any) -> Refusal:
    """Make an update that must be refused."""
    return await refusal(update(client, **fields))


async def test_a_part_of_each_kind_is_added_replaced_and_removed(service: Service) -> None:
    """In one call each; the response and the version are those of an apply."""
    added = pb.WorkspaceParts(
        members=[DAN],
        teams=[Team(id="sales", name="Sales", parent_id="customer")],
        hats=[Hat(id="seller", name="Seller", team_ids=["sales"], skill_ids=["offers"])],
        skills=[Skill(id="offers", name="Offers", tool_ids=["mail.send"])],
        tools=[Tool(id="mail.send", name="send", mcp_server="mail")],
    )
    response = await update(service.operator, put=added)
    assert (response.version, response.change_count) == (2, 5)
    assert [(each.part, each.id, each.action) for each in response.changes] == [
        (pb.WORKSPACE_PART_MEMBER, "dan", pb.CHANGE_ACTION_ADDED),
        (pb.WORKSPACE_PART_TEAM, "sales", pb.CHANGE_ACTION_ADDED),
        (pb.WORKSPACE_PART_HAT, "seller", pb.CHANGE_ACTION_ADDED),
        (pb.WORKSPACE_PART_SKILL, "offers", pb.CHANGE_ACTION_ADDED),
        (pb.WORKSPACE_PART_TOOL, "mail.send", pb.CHANGE_ACTION_ADDED),
    ]
    replaced = pb.WorkspaceParts(
        name="Acme & Sons",
        members=[Member(user_id="dan", role=MEMBER_ROLE_ADMIN)],
        teams=[Team(id="sales", name="Sales")],
        hats=[Hat(id="seller", name="Seller", description="Sells", audience=HAT_AUDIENCE_WORKSPACE)],
        skills=[Skill(id="offers", name="Offers and orders")],
        tools=[Tool(id="mail.send", name="send", mcp_server="mail", disabled=True)],
    )
    response = await update(service.operator, put=replaced)
    assert (response.version, response.change_count) == (3, 6)
    assert {each.action for each in response.changes} == {pb.CHANGE_ACTION_UPDATED}
    found = (await get_workspace(service.operator)).workspace
    assert found.name == "Acme & Sons"
    for name in LISTS:
        (wanted,) = getattr(replaced, name)
        assert part(getattr(found, name), wanted.user_id if name == "members" else wanted.id) == wanted
    refs = [("hats", "seller"), ("skills", "offers"), ("tools", "mail.send"), ("teams", "sales"), ("members", "dan")]
    response = await update(service.operator, remove=[pb.PartRef(part=REFS[name], id=id_) for name, id_ in refs])
    assert (response.version, {each.action for each in response.changes}) == (4, {pb.CHANGE_ACTION_REMOVED})
    expected = small_workspace()
    expected.name = "Acme & Sons"
    assert (await get_workspace(service.operator)).workspace == canonical(expected)


async def test_a_key_reaches_what_an_update_gives_and_no_longer_what_it_takes(service: Service) -> None:
    """As soon as the update has returned."""
    token = (await service.operator.issue()).token
    assert (await service.service.authorize(token, tool_id="web.search")).HasField("granted")
    off = Tool(id="web.search", name="web_search", mcp_server="web", disabled=True)
    await update(service.operator, put=pb.WorkspaceParts(tools=[off]))
    assert await service.service.denial(token, tool_id="web.search") == "TOOL_NOT_ALLOWED"
    off.disabled = False
    await update(service.operator, put=pb.WorkspaceParts(tools=[off]))
    assert (await service.service.authorize(token, tool_id="web.search")).HasField("granted")


async def test_removing_what_is_not_there_is_no_error(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """Nothing is written for it."""
    rows = await sql.fetch(EVERYTHING)
    gone = [pb.PartRef(part=each, id="nobody") for each in REFS.values()]
    assert await update(service.operator, remove=gone) == pb.UpdateWorkspaceResponse(version=1)
    assert await update(service.operator) == pb.UpdateWorkspaceResponse(version=1)
    assert await sql.fetch(EVERYTHING) == rows


async def test_an_update_that_changes_nothing_waits_for_the_fence_and_leaves_no_trace(
    service: Service, sql: asyncpg.Connection[Any]
) -> None:
    """A retry cannot know whether the first try waited. A dry run has nothing to wait for."""
    rows = await sql.fetch(EVERYTHING)
    laggard = await insert_laggard(sql, 3600)
    same = pb.WorkspaceParts(members=small_workspace().members)
    await update(service.operator, put=same, dry_run=True)
    with pytest.raises(grpc.aio.AioRpcError) as late:
        await update(service.operator, put=same, timeout=0.5)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await sql.execute("DELETE FROM reader WHERE id = $1", laggard)
    assert (await update(service.operator, put=same)).version == 1
    assert await sql.fetch(EVERYTHING) == rows


async def test_a_dry_run_writes_nothing(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """And returns what the update returns."""
    rows, before = await sql.fetch(EVERYTHING), await epoch(sql)
    seen = await update(service.operator, put=pb.WorkspaceParts(members=[DAN]), dry_run=True)
    assert await sql.fetch(EVERYTHING) == rows
    assert await epoch(sql) == before
    assert await update(service.operator, put=pb.WorkspaceParts(members=[DAN])) == seen


async def test_the_event_of_an_update_is_like_that_of_an_apply(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """With an action of its own, and with whom it was made for."""
    await update(service.console, put=pb.WorkspaceParts(members=[DAN]), actor="ada")
    event = await sql.fetchrow("SELECT * FROM audit_event ORDER BY id DESC LIMIT 1")
    assert event is not None
    assert (event["action"], event["caller"], event["actor"]) == ("workspace.updated", "console", "ada")
    assert json.loads(event["details"]) == {
        "version": 2,
        "changes": {"member": {"added": ["dan"]}},
        "diff": [["member.dan", None, {"role": "viewer", "team_ids": ["support"]}]],
    }


async def test_only_an_admin_may_update(service: Service) -> None:
    """Of the present state: nobody makes themselves one."""
    promoted = pb.WorkspaceParts(members=[Member(user_id="bob", role=MEMBER_ROLE_ADMIN)])
    for actor, reason in (("bob", "ACTOR_NOT_ALLOWED"), ("dan", "ACTOR_NOT_MEMBER")):
        for dry_run in (True, False):
            refused = await refused_update(service.console, put=promoted, actor=actor, dry_run=dry_run)
            assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)
    assert (await update(service.console, put=promoted, actor="ada")).version == 2
    assert (await update(service.console, put=pb.WorkspaceParts(members=[DAN]), actor="bob")).version == 3


async def test_the_expected_version_guards_an_update(service: Service) -> None:
    """Another one is ABORTED, with the current one."""
    refused = await refused_update(service.operator, put=pb.WorkspaceParts(members=[DAN]), expected_version=2)
    assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "VERSION_MISMATCH")
    assert refused.metadata == {"current_version": "1"}
    assert (await update(service.operator, put=pb.WorkspaceParts(members=[DAN]), expected_version=1)).version == 2


async def test_only_a_workspace_that_exists_is_updated(service: Service) -> None:
    """Neither a deleted one, nor one that never was."""
    await service.operator.apply(small_workspace("gone"))
    await delete_workspace(service.operator, "gone")
    for id_, reason in (("gone", "WORKSPACE_DELETED"), ("nowhere", "WORKSPACE_NOT_FOUND")):
        for dry_run in (True, False):
            refused = await refused_update(service.operator, workspace_id=id_, dry_run=dry_run)
            assert refused.reason == reason


TEAM, SKILL, TOOL = pb.WORKSPACE_PART_TEAM, pb.WORKSPACE_PART_SKILL, pb.WORKSPACE_PART_TOOL
_CHAIN = [Team(id=f"t{number}", name="T", parent_id=f"t{number - 1}" if number else "") for number in range(9)]
FAULTS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "no kind": ({"remove": [pb.PartRef(id="x")]}, {"remove[0].part": "is required"}),
    "the workspace": (
        {"remove": [pb.PartRef(part=pb.WORKSPACE_PART_WORKSPACE, id="acme")]},
        {"remove[0].part": "is required: name a member, team, hat, skill or tool"},
    ),
    "put and removed": (
        {"put": pb.WorkspaceParts(members=[DAN]), "remove": [pb.PartRef(part=pb.WORKSPACE_PART_MEMBER, id="dan")]},
        {"remove[0].id": "names the member 'dan', which is in put too"},
    ),
    "removed twice": ({"remove": [pb.PartRef(part=TEAM, id="x")] * 2}, {"remove[1].id": "names the team 'x' again"}),
    "put twice": (
        {"put": pb.WorkspaceParts(members=[DAN, DAN])},
        {"put.members[1].user_id": "is 'dan', which another"},
    ),
    "an empty name": ({"put": pb.WorkspaceParts(name="")}, {"put.name": "is required"}),
    "no role": (
        {"put": pb.WorkspaceParts(members=[Member(user_id="x")])},
        {"put.members[0].role": "of 'x' is required"},
    ),
    "no such team": (
        {"put": pb.WorkspaceParts(members=[DAN, Member(user_id="e", role=MEMBER_ROLE_VIEWER, team_ids=["x"])])},
        {"put.members[1].team_ids[0]": "of 'e' names 'x', which does not exist"},
    ),
    "no such skill": (
        {"put": pb.WorkspaceParts(hats=[Hat(id="h", name="H", skill_ids=["search", "x"])])},
        {"put.hats[0].skill_ids[1]": "of 'h' names 'x', which does not exist"},
    ),
    "no such tool": (
        {"put": pb.WorkspaceParts(skills=[Skill(id="s", name="S", tool_ids=["x"])])},
        {"put.skills[0].tool_ids[0]": "of 's' names 'x', which does not exist"},
    ),
    "no such parent": (
        {"put": pb.WorkspaceParts(teams=[Team(id="t", name="T", parent_id="x")])},
        {"put.teams[0].parent_id": "of 't' names 'x', which does not exist"},
    ),
    "a team that is removed": (
        {"put": pb.WorkspaceParts(members=[DAN]), "remove": [pb.PartRef(part=TEAM, id="support")]},
        {
            "put.members[0].team_ids[0]": "of 'dan' names 'support', which",
            "remove[0].id": "is the team 'support', which",
        },
    ),
    "a team that is named": (
        {"remove": [pb.PartRef(part=TEAM, id="customer"), pb.PartRef(part=TEAM, id="engineering")]},
        {
            "remove[0].id": "is the team 'customer', which the hat 'customer-care' and the team 'support' still name",
            "remove[1].id": "is the team 'engineering', which the member 'cyd' and the hat 'engineer' still name",
        },
    ),
    "a skill that is named": (
        {"remove": [pb.PartRef(part=SKILL, id="search")]},
        {"remove[0].id": "is the skill 'search', which 2 hats ('engineer', …) still name: take it out there"},
    ),
    "a tool that is named": (
        {"remove": [pb.PartRef(part=TOOL, id="git.push")]},
        {"remove[0].id": "is the tool 'git.push', which the skill 'code' still names"},
    ),
    "a name that is taken": (
        {"put": pb.WorkspaceParts(tools=[Tool(id="t", name="git_push", mcp_server="git")])},
        {"put.tools[0].name": "of 't' is 'git_push' on 'git', which the tool 'git.push' has already"},
    ),
    "a cycle": (
        {"put": pb.WorkspaceParts(teams=[Team(id="customer", name="Customer", parent_id="support")])},
        {"put.teams[0].parent_id": "of 'customer' makes 'customer' its own ancestor"},
    ),
    "a team too deep": (
        {"put": pb.WorkspaceParts(teams=[*_CHAIN, Team(id="customer", name="Customer", parent_id="t8")])},
        {"put.teams[9].parent_id": "of 'customer' puts 'support', which is below it, deeper than 10 levels"},
    ),
    "an audience and teams": (
        {"put": pb.WorkspaceParts(hats=[Hat(id="h", name="H", audience=HAT_AUDIENCE_WORKSPACE, team_ids=["support"])])},
        {"put.hats[0].audience": "of 'h' is the whole workspace, but the hat has team_ids too: leave one out"},
    ),
    "too many parts": (
        {
            "put": pb.WorkspaceParts(tools=[Tool(id=f"{number}") for number in range(5_000)]),
            "remove": [pb.PartRef(part=TOOL, id="git.push")],
        },
        {"put": "and remove have 5001 parts together; at most 5000 are allowed"},
    ),
}


@pytest.mark.parametrize("name", FAULTS)
@TOGETHER_IF_SHORT
async def test_an_update_with_a_fault_is_refused_with_its_field(service: Service, name: str) -> None:
    """In a dry run too, and nothing changes."""
    fields, expected = FAULTS[name]
    for dry_run in (True, False):
        refused = await refused_update(service.operator, dry_run=dry_run, **fields)
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        for field, words in expected.items():
            assert refused.fields[field].startswith(words), refused.fields
    assert (await get_workspace(service.operator)).version == 1


async def test_what_names_a_removed_part_may_change_in_the_same_request(service: Service) -> None:
    """It is replaced, or removed too. Names of tools may be swapped."""
    hats = [each for each in small_workspace().hats if each.id in {"everyone", "engineer"}]
    for hat in hats:
        hat.skill_ids.remove("search")
    response = await update(
        service.operator,
        put=pb.WorkspaceParts(
            hats=hats,
            tools=[
                Tool(id="slack.post", name="slack_get_channel_history", mcp_server="slack"),
                Tool(id="slack.history", name="slack_post_message", mcp_server="slack"),
                Tool(id="another", name="web_search", mcp_server="web"),
            ],
        ),
        remove=[pb.PartRef(part=SKILL, id="search"), pb.PartRef(part=TOOL, id="web.search")],
    )
    assert response.change_count == 7


async def totals(sql: asyncpg.Connection[Any]) -> dict[str, Any]:
    """Return what is noted of the contents of `acme`."""
    row = await sql.fetchrow("SELECT * FROM workspace_content WHERE workspace_id = 'acme'")
    assert row is not None
    return {name: value for name, value in row.items() if name != "digests"}


@ONLY_GRPCIO
@pytest.mark.long
async def test_an_update_does_what_an_apply_of_the_whole_does(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """For random updates: the same state, changes and totals; and what one refuses, the other refuses."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"random.Random({seed})")  # noqa: T201 - pytest shows it where the test fails
    source = random.Random(seed)  # noqa: S311 - chance, not a secret
    done = 0
    for _ in range(by_form(20, 500, 1500)):
        before = (await get_workspace(service.operator)).workspace
        request = random_update(source, before)
        desired = as_applied(before, request)
        outcomes: list[Any] = []
        for dry_run, ask in (
            (True, lambda: service.operator.apply(desired, dry_run=True, max_removals=1000)),  # noqa: B023 - used at once
            (False, lambda: service.operator.catalog.UpdateWorkspace(request)),  # noqa: B023 - used at once
        ):
            try:
                response = await ask()
            except grpc.aio.AioRpcError as error:
                outcomes.append((error.code(), Refusal.of(error).reason))
            else:
                outcomes.append((response.version, list(response.changes), response.change_count))
            assert dry_run or len(outcomes) == 2
        applied, updated = outcomes
        assert applied == updated, (request, desired)
        after = (await get_workspace(service.operator)).workspace
        assert after == (before if isinstance(applied[0], grpc.StatusCode) else canonical(desired))
        noted = await totals(sql)
        if source.random() < 0.1:
            # An apply of the same finds no difference, but counts again.
            await sql.execute("DELETE FROM workspace_content")
            after.name += "!"
            await service.operator.apply(after)
            assert {**await totals(sql), "version": 0} == {**noted, "version": 0, "bytes": noted["bytes"] + 1}
        done += not isinstance(applied[0], grpc.StatusCode)
    assert done > by_form(3, 80, 250), "too few updates were valid to say anything"


@ONLY_GRPCIO
async def test_a_change_by_hand_is_counted(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """What was noted before it is not used any more."""
    await update(service.operator, put=pb.WorkspaceParts(members=[DAN]))
    await sql.execute("DELETE FROM member WHERE user_id = 'cyd'")
    await update(service.operator, remove=[pb.PartRef(part=pb.WORKSPACE_PART_MEMBER, id="dan")])
    noted = await totals(sql)
    found = await get_workspace(service.operator)
    assert (noted["version"], noted["members"], noted["bytes"]) == (4, 2, found.workspace.ByteSize())


@ONLY_GRPCIO
@ONLY_IF_LONG
@pytest.mark.long
async def test_a_workspace_at_its_limits_takes_no_more(patient: Service) -> None:
    """Of parts, paths and bytes. What makes it smaller, or changes nothing in size, goes through.

    The long form also looks at the whole workspace afterwards.
    """
    whole = largest_workspace("largest")
    await patient.operator.apply(whole)
    one = Tool(id="one more", name="one more", mcp_server="server")
    faults: list[tuple[pb.WorkspaceParts, str, str]] = [
        (
            pb.WorkspaceParts(members=[Member(user_id="x", role=MEMBER_ROLE_ADMIN)]),
            "put.members",
            "would make it 10001 members",
        ),
        (pb.WorkspaceParts(teams=[Team(id="x", name="X")]), "put.teams", "would make it 1001 teams"),
        (pb.WorkspaceParts(hats=[Hat(id="x", name="X")]), "put.hats", "would make it 1001 hats"),
        (pb.WorkspaceParts(skills=[Skill(id="x", name="X")]), "put.skills", "would make it 5001 skills"),
        (pb.WorkspaceParts(tools=[one]), "put.tools", "would make it 20001 tools"),
    ]
    wider = Hat()
    wider.CopyFrom(whole.hats[0])
    wider.instructions = ""
    wider.skill_ids.append("skill-04000")
    faults.append((pb.WorkspaceParts(hats=[wider]), "put", "would let hats reach tools by 50005 paths"))
    for put, field, words in faults:
        refused = await refused_update(patient.operator, workspace_id="largest", put=put)
        assert refused.fields[field].startswith(words), refused.fields
    refused = await refused_update(patient.operator, workspace_id="largest", put=pb.WorkspaceParts(name="Largest!"))
    assert (refused.reason, refused.metadata) == (
        "WORKSPACE_TOO_LARGE",
        {"bytes": str(MAX_BYTES + 1), "limit": str(MAX_BYTES)},
    )
    swap = pb.UpdateWorkspaceRequest(
        workspace_id="largest",
        put=pb.WorkspaceParts(members=[Member(user_id="user-ööö", role=MEMBER_ROLE_ADMIN)]),
        remove=[pb.PartRef(part=pb.WORKSPACE_PART_MEMBER, id="user-000001")],
    )
    body = await call(patient.operator, "CatalogService/UpdateWorkspace", swap)
    assert pb.UpdateWorkspaceResponse.FromString(body).version == 2
    remove(whole.members, "user-000001")
    whole.members.append(swap.put.members[0])
    response = await patient.operator.apply(whole)
    assert (response.version, response.change_count) == (2, 0)


def test_the_parts_of_an_update_are_those_of_a_workspace() -> None:
    """By number and type."""
    parts = {each.number: (each.name, each.type, each.message_type) for each in pb.WorkspaceParts.DESCRIPTOR.fields}
    whole = {each.number: (each.name, each.type, each.message_type) for each in Workspace.DESCRIPTOR.fields}
    assert parts == {number: each for number, each in whole.items() if each[0] != "id"}
    one, other = pb.UpdateWorkspaceResponse.DESCRIPTOR, pb.ApplyWorkspaceResponse.DESCRIPTOR
    assert [(each.number, each.name, each.type, each.message_type) for each in one.fields] == [
        (each.number, each.name, each.type, each.message_type) for each in other.fields
    ]
