"""The checks of a desired workspace: each fault with the path of its field, and one canonical order."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.fields import quoted
from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId, UserId, WorkspaceId
from skilder_keys.domain.workspace import Catalog, Hat, HatAudience, Member, MemberRole, Skill, Team, Tool, Workspace
from skilder_keys.domain.workspace_checks import checked
from skilder_keys.rpc import convert_workspaces
from tests.support.workspaces import example_workspace, small_workspace

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from random import Random


def made(
    members: Iterable[Member] = (),
    teams: Iterable[Team] = (),
    hats: Iterable[Hat] = (),
    skills: Iterable[Skill] = (),
    tools: Iterable[Tool] = (),
) -> Workspace:
    """Make a workspace from some parts."""
    return Workspace(
        WorkspaceId("acme"), "Acme", tuple(members), Catalog(tuple(teams), tuple(hats), tuple(skills), tuple(tools))
    )


def member(user_id: str, *team_ids: str) -> Member:
    """Make a member."""
    return Member(UserId(user_id), MemberRole.VIEWER, tuple(map(TeamId, team_ids)))


def team(team_id: str, parent_id: str | None = None) -> Team:
    """Make a team."""
    return Team(TeamId(team_id), "a team", None if parent_id is None else TeamId(parent_id))


def hat(
    hat_id: str,
    team_ids: Sequence[str] = (),
    skill_ids: Sequence[str] = (),
    audience: HatAudience = HatAudience.TEAMS,
) -> Hat:
    """Make a hat."""
    teams, skills = tuple(map(TeamId, team_ids)), tuple(map(SkillId, skill_ids))
    return Hat(HatId(hat_id), "a hat", "", "", audience, teams, skills)


def skill(skill_id: str, *tool_ids: str) -> Skill:
    """Make a skill."""
    return Skill(SkillId(skill_id), "a skill", "", tuple(map(ToolId, tool_ids)))


def tool(tool_id: str, name: str = "run", server: str | None = None) -> Tool:
    """Make a tool of a server of its own."""
    return Tool(ToolId(tool_id), name, server or f"server of {tool_id}", disabled=False)


def faults(workspace: Workspace) -> dict[str, str]:
    """Return the errors about a workspace, which must be refused, by field; each field is reported once."""
    with pytest.raises(InvalidRequestError) as caught:
        checked(workspace)
    reported = [(each.field, each.description) for each in caught.value.violations]
    assert len(dict(reported)) == len(reported)
    return dict(reported)


@pytest.mark.parametrize("message", [small_workspace(), example_workspace()], ids=["small", "example"])
def test_the_workspaces_of_the_tests_pass(message: Any) -> None:
    """Nothing is lost, and what has passed once passes again unchanged."""
    workspace = convert_workspaces.workspace(message)
    once = checked(workspace)
    assert checked(once) == once
    assert {each.id for each in once.members} == {each.user_id for each in message.members}
    assert {each.id for each in once.catalog.tools} == {each.id for each in message.tools}


def test_an_empty_workspace_passes() -> None:
    """A workspace may have no members and no parts."""
    assert checked(made()) == made()


@settings(deadline=None)
@given(st.randoms(use_true_random=False))
def test_the_order_of_the_input_does_not_matter(order: Random) -> None:
    """However parts and references are shuffled, the result is the same workspace, sorted by id."""

    def shuffled(part: Any) -> Any:
        names = [name for name in ("team_ids", "skill_ids", "tool_ids") if hasattr(part, name)]
        return replace(part, **{name: mixed(getattr(part, name)) for name in names})

    def mixed(values: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(order.sample(values, len(values)))

    message = small_workspace()
    message.members[1].team_ids.append("customer")
    message.hats[3].team_ids.append("customer")
    small = convert_workspaces.workspace(message)
    catalog = small.catalog
    mixed_up = replace(
        small,
        members=mixed([shuffled(each) for each in small.members]),
        catalog=Catalog(
            teams=mixed(catalog.teams),
            hats=mixed([shuffled(each) for each in catalog.hats]),
            skills=mixed([shuffled(each) for each in catalog.skills]),
            tools=mixed(catalog.tools),
        ),
    )
    once = checked(mixed_up)
    assert once == checked(small)
    for parts in (once.members, once.catalog.teams, once.catalog.hats, once.catalog.skills, once.catalog.tools):
        ids = [each.id for each in parts]
        assert ids == sorted(ids)
    references: list[Sequence[str]] = [each.team_ids for each in once.members]
    references += [each.team_ids for each in once.catalog.hats]
    references += [each.skill_ids for each in once.catalog.hats]
    references += [each.tool_ids for each in once.catalog.skills]
    assert [list(each) for each in references] == [sorted(each) for each in references]
    assert max(map(len, references)) == 2


@pytest.mark.parametrize(
    ("workspace", "field"),
    [
        (made(members=[member("ada", "gone")]), "workspace.members[0].team_ids[0]"),
        (made(teams=[team("a"), team("b", "gone")]), "workspace.teams[1].parent_id"),
        (made(teams=[team("a")], hats=[hat("h"), hat("i", ["a", "gone"])]), "workspace.hats[1].team_ids[1]"),
        (made(hats=[hat("h", (), ["gone"])]), "workspace.hats[0].skill_ids[0]"),
        (made(skills=[skill("s", "t", "gone")], tools=[tool("t")]), "workspace.skills[0].tool_ids[1]"),
    ],
)
def test_a_dangling_reference_is_reported(workspace: Workspace, field: str) -> None:
    """With the index of the part, the index of the reference in it, and the missing id."""
    entry = field.split(".")[1].removesuffix("s[0]").removesuffix("s[1]")
    ids = {"member": "ada", "team": "b", "hat": "i" if "[1]" in field else "h", "skill": "s"}
    assert faults(workspace) == {field: f"of '{ids[entry]}' names 'gone', which does not exist"}


@pytest.mark.parametrize(
    ("workspace", "field"),
    [
        (made(members=[member("x"), member("y"), member("x")]), "workspace.members[2].user_id"),
        (made(teams=[team("x"), team("x")]), "workspace.teams[1].id"),
        (made(hats=[hat("x"), hat("x")]), "workspace.hats[1].id"),
        (made(skills=[skill("x"), skill("x")]), "workspace.skills[1].id"),
        (made(tools=[tool("x", "one"), tool("x", "two")]), "workspace.tools[1].id"),
        (made([member("ada", "a", "a")], [team("a")]), "workspace.members[0].team_ids[1]"),
        (made(teams=[team("a")], hats=[hat("h", ["a", "a"])]), "workspace.hats[0].team_ids[1]"),
        (made(hats=[hat("h", (), ["s", "s"])], skills=[skill("s")]), "workspace.hats[0].skill_ids[1]"),
        (made(skills=[skill("s", "t", "t")], tools=[tool("t")]), "workspace.skills[0].tool_ids[1]"),
        (made(tools=[tool("t", "run", "s"), tool("u", "run", "s")]), "workspace.tools[1].name"),
    ],
)
def test_a_duplicate_is_reported(workspace: Workspace, field: str) -> None:
    """Ids, references, and tool names within a server must be unique."""
    assert list(faults(workspace)) == [field]


def test_tools_of_two_servers_may_share_a_name() -> None:
    """A tool's name is unique within its server only."""
    workspace = made(tools=[tool("t", "run", "one"), tool("u", "run", "two")])
    assert checked(workspace) == workspace


@pytest.mark.parametrize("length", [1, 2, 3, 10])
def test_a_cycle_of_teams_is_reported_on_each_team(length: int) -> None:
    """From a team that is its own parent to longer cycles."""
    ring = made(teams=[team(f"t{at}", f"t{(at + 1) % length}") for at in range(length)])
    assert faults(ring) == {
        f"workspace.teams[{at}].parent_id": f"of 't{at}' makes 't{at}' its own ancestor" for at in range(length)
    }


def test_a_team_below_a_cycle_is_refused_too() -> None:
    """It never leads to a top team."""
    found = faults(made(teams=[team("a", "b"), team("b", "a"), team("c", "a")]))
    assert list(found) == [f"workspace.teams[{at}].parent_id" for at in range(3)]


@pytest.mark.parametrize("reverse", [False, True])
def test_ten_levels_of_teams_pass_and_the_eleventh_does_not(*, reverse: bool) -> None:
    """Only the team that is too deep is reported, in whatever order they come."""
    tower = [team("t0"), *(team(f"t{at}", f"t{at - 1}") for at in range(1, 11))]
    passed = made(teams=sorted(tower[:10], key=lambda each: each.id, reverse=reverse))
    assert len(checked(passed).catalog.teams) == 10
    refused = tower[::-1] if reverse else tower
    at = refused.index(tower[10])
    assert faults(made(teams=refused)) == {
        f"workspace.teams[{at}].parent_id": "of 't10' puts 't10' deeper than 10 levels"
    }


@pytest.mark.parametrize("name", ["", " ", "\n", "a\nb", "a\x00", "a\u202eb", "n" * 256])
def test_a_bad_name_is_reported_in_every_kind_of_part(name: str) -> None:
    """Every name is checked against its bounds."""
    bad = made(
        teams=[replace(team("a"), name=name)],
        hats=[replace(hat("h"), name=name)],
        skills=[replace(skill("s"), name=name)],
        tools=[replace(tool("t"), name=name, mcp_server=name)],
    )
    parts = ["teams[0].name", "hats[0].name", "skills[0].name", "tools[0].name", "tools[0].mcp_server"]
    assert list(faults(bad)) == [f"workspace.{each}" for each in parts]
    assert list(faults(replace(made(), name=name))) == ["workspace.name"]


@pytest.mark.parametrize("bad", ["", " a", "a ", "a\tb", "a\u2066b", "\u200b", "i" * 256])
def test_a_bad_id_is_reported_in_every_place(bad: str) -> None:
    """Every id is checked against its bounds."""
    parts = made([member(bad)], [team(bad)], [hat(bad)], [skill(bad)], [tool(bad, server="s")])
    ids = ["members[0].user_id", "teams[0].id", "hats[0].id", "skills[0].id", "tools[0].id"]
    assert list(faults(parts)) == [f"workspace.{each}" for each in ids]
    assert list(faults(replace(made(), id=WorkspaceId(bad)))) == ["workspace.id"]


@pytest.mark.parametrize("id_", ["u" * 255, "🤖" * 255, "Alice Smith", "-é%~", "=", "a\u0301", "á"])
def test_foreign_ids_may_hold_any_text(id_: str) -> None:
    """Users, tools and MCP servers are named by other systems; our own ids have up to 64 plain characters."""
    foreign = made([member(id_)], tools=[Tool(ToolId(id_), id_, id_, disabled=False)])
    assert checked(foreign) == foreign
    own = made(teams=[team(id_)], hats=[hat(id_)], skills=[skill(id_)])
    assert list(faults(own)) == [f"workspace.{part}[0].id" for part in ("teams", "hats", "skills")]
    assert checked(made(teams=[team("t" * 64)])).catalog.teams[0].id == "t" * 64


def test_ids_that_look_alike_stay_different() -> None:
    """A composed and a decomposed accent: both ids stay as they were written."""
    ids = ["\xe9", "e\u0301", "E\u0301"]
    found = checked(made([member(each) for each in ids], tools=[tool(each) for each in ids]))
    assert {str(each.id) for each in found.members} == set(ids)
    assert {str(each.id) for each in found.catalog.tools} == set(ids)


def test_an_error_names_its_entry_by_id() -> None:
    """Where the id itself is at fault, the error quotes it."""
    hats = [*(hat(f"h{at}") for at in range(299)), replace(hat("support"), name="abc\u202egnp.exe")]
    rule = ", which is not allowed: leave it out"
    reported = f"of 'support' is 'abc<U+202E>gnp.exe': character 4 is U+202E RIGHT-TO-LEFT OVERRIDE{rule}"
    assert faults(made(hats=hats)) == {"workspace.hats[299].name": reported}
    reported = f"is 'al<U+0007>ice': character 3 is U+0007{rule}"
    assert faults(made([member("al\x07ice")])) == {"workspace.members[0].user_id": reported}
    assert faults(made(teams=[replace(team(""), name="")])) == {
        "workspace.teams[0].id": "is required",
        "workspace.teams[0].name": "is required",
    }


def test_the_lengths_of_descriptions_and_instructions_are_bounded() -> None:
    """500 and 10,000 characters pass, line breaks and tabs included; one more does not."""
    text, instructions = "line\n\tof text\u00e9 " + "d" * 485, "i" * 10_000
    good_hat = replace(hat("h"), description=text, instructions=instructions)
    good_skill = replace(skill("s"), description=text)
    assert len(text) == 500
    assert checked(made(hats=[good_hat], skills=[good_skill])) == made(hats=[good_hat], skills=[good_skill])
    bad_hat = replace(hat("h"), description=text + "d", instructions=instructions + "i")
    assert faults(made(hats=[bad_hat], skills=[replace(skill("s"), description=text + "d")])) == {
        "workspace.hats[0].description": f"of 'h' has 501 characters; at most 500 are allowed: {quoted(text)}",
        "workspace.hats[0].instructions": f"of 'h' has 10001 characters; at most 10000 are allowed: '{'i' * 80}…'",
        "workspace.skills[0].description": f"of 's' has 501 characters; at most 500 are allowed: {quoted(text)}",
    }


def test_a_list_that_is_too_long_is_one_fault() -> None:
    """10,001 members give one error, not 10,001, even if each of them is bad."""
    assert list(faults(made([member("")] * 10_001))) == ["workspace.members"]
    assert len(checked(made(member(f"u{at}") for at in range(10_000))).members) == 10_000


def test_the_ways_to_tools_are_bounded() -> None:
    """50,000 ways of hat, skill and tool pass, one more does not."""
    tools = [tool(f"t{at}") for at in range(500)]
    skills = [skill("all", *(each.id for each in tools)), skill("one", tools[0].id)]
    hats = [hat(f"h{at}", (), ["all"]) for at in range(100)]
    assert len(checked(made(hats=hats, skills=skills, tools=tools)).catalog.hats) == 100
    found = faults(made(hats=[*hats, hat("more", (), ["one"])], skills=skills, tools=tools))
    assert found == {"workspace.hats": "reach tools by 50001 paths; at most 50000 are allowed"}


def test_the_bytes_of_a_skills_tool_ids_are_bounded() -> None:
    """3 MiB pass, one more byte does not; each skill counts alone."""
    tools = [tool(f"{at:0>128}") for at in range(20_000)]
    ids = [each.id for each in tools]
    skills = [skill(f"s{at}", *ids[at * 5000 : at * 5000 + 5000]) for at in range(4)]
    assert len(checked(made(skills=skills, tools=tools)).catalog.skills) == 4
    largest = [replace(tool("x"), id=ToolId(f"{at:\N{ROBOT FACE}>255}"), name=str(at)) for at in range(3_200)]
    size = sum(len(each.id.encode()) for each in largest)
    found = faults(made(skills=[skill("one", *(each.id for each in largest))], tools=largest))
    fault = f"of 'one' have {size} bytes together; at most {3 * 2**20} are allowed"
    assert found == {"workspace.skills[0].tool_ids": fault}


def test_a_hat_for_the_whole_workspace_has_no_teams() -> None:
    """One that has them says two things; one without either is accepted, and serves nobody."""
    everybody = HatAudience.WORKSPACE
    hats = [hat("nobody"), hat("all", audience=everybody), hat("both", ["a"], audience=everybody), hat("team", ["a"])]
    assert faults(made(teams=[team("a")], hats=hats)) == {
        "workspace.hats[2].audience": "of 'both' is the whole workspace, but the hat has team_ids too: leave one out"
    }


def test_several_faults_are_reported_at_once() -> None:
    """So a caller can fix a workspace in one go: first its bounds, then its references, then its teams."""
    bad = made(
        [member("ada", "gone"), member("ada")],
        [team("a", "a"), team("b", "gone")],
        [hat("h", ["gone"], ["gone", "s", "s"]), hat("i i")],
        [skill("s", "gone")],
    )
    assert list(faults(replace(bad, name=""))) == [
        "workspace.name",
        "workspace.hats[1].id",
        "workspace.members[1].user_id",
        "workspace.members[0].team_ids[0]",
        "workspace.hats[0].team_ids[0]",
        "workspace.hats[0].skill_ids[0]",
        "workspace.hats[0].skill_ids[2]",
        "workspace.skills[0].tool_ids[0]",
        "workspace.teams[0].parent_id",
        "workspace.teams[1].parent_id",
    ]


LONG = "x" * 100_000


@pytest.mark.parametrize(
    "workspace",
    [
        made(teams=[team("a", LONG)]),
        made([member("ada", LONG)]),
        made(hats=[hat("h", [LONG], [LONG])]),
        made(skills=[skill("s", LONG)]),
        made(teams=[team(LONG), team(LONG)]),
        made(teams=[team(LONG, LONG)]),
        made(tools=[tool("t", LONG, LONG), tool("u", LONG, LONG)]),
        made(hats=[hat("h", [LONG, LONG])], teams=[team(LONG)]),
        made(teams=[team("t0"), *(team(f"t{at}", f"t{at - 1}") for at in range(1, 10)), team(LONG, "t9")]),
    ],
    ids=["parent", "member", "hat", "skill", "team twice", "own parent", "tool twice", "reference twice", "deep"],
)
def test_the_error_about_a_field_stays_short(workspace: Workspace) -> None:
    """Errors travel in a trailer, so they quote only a part of the request."""
    assert max(map(len, found_in(workspace))) < 1000


def found_in(workspace: Workspace) -> list[str]:
    """Return all errors about a workspace, which must be refused."""
    with pytest.raises(InvalidRequestError) as caught:
        checked(workspace)
    return [each.description for each in caught.value.violations]
