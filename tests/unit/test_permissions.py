"""The permission rule, checked against a slow and obvious version of it, and by examples."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.domain.ids import HatId, TeamId
from skilder_keys.domain.permissions import NOTHING, Reach
from skilder_keys.domain.workspace import Catalog, Hat, HatAudience, Skill, Team, Tool
from tests.support.catalogs import HATS, REACHES, SKILLS, TEAMS, TOOLS, catalogs, some
from tests.support.snapshot_reads import Tools, tool_set_of, tools_of


def is_at_or_below(catalog: Catalog, team_id: TeamId, above: TeamId) -> bool:
    """Return whether a team is the other one or below it."""
    if team_id == above:
        return True
    return any(
        is_at_or_below(catalog, team.parent_id, above)
        for team in catalog.teams
        if team.id == team_id and team.parent_id is not None
    )


def hat_is_reached(catalog: Catalog, reach: Reach, hat: Hat) -> bool:
    """Return whether a hat is among the named ones and serves the user: the rule, word by word."""
    if reach.hat_ids is not None and hat.id not in reach.hat_ids:
        return False
    if hat.audience is HatAudience.WORKSPACE:
        return True
    if reach.team_ids is None:
        return hat.team_ids != ()
    return any(is_at_or_below(catalog, mine, served) for mine in reach.team_ids for served in hat.team_ids)


def reached(catalog: Catalog, reach: Reach, hat: Hat, skill: Skill, tool: Tool) -> bool:
    """Return whether this way leads from the key to the tool."""
    return (
        hat_is_reached(catalog, reach, hat)
        and skill.id in hat.skill_ids
        and tool.id in skill.tool_ids
        and not tool.disabled
    )


@settings(deadline=None)
@given(catalogs(), REACHES)
def test_the_reached_hats_skills_and_tools_are_those_of_the_rule(catalog: Catalog, reach: Reach) -> None:
    """Hats, their skills, those skills' enabled tools and all tools together, each once and sorted by id."""
    found = tools_of(catalog, reach)
    hats = [hat for hat in sorted(catalog.hats, key=lambda hat: hat.id) if hat_is_reached(catalog, reach, hat)]
    assert list(found.hats) == [(hat.id, hat.name, tuple(sorted(hat.skill_ids))) for hat in hats]
    assert list(found.skills) == [
        (
            skill.id,
            skill.name,
            tuple(sorted(tool.id for tool in catalog.tools if not tool.disabled and tool.id in skill.tool_ids)),
        )
        for skill in sorted(catalog.skills, key=lambda skill: skill.id)
        if any(skill.id in hat.skill_ids for hat in hats)
    ]
    assert list(found.tools) == [
        (tool.id, tool.name, tool.mcp_server)
        for tool in sorted(catalog.tools, key=lambda tool: tool.id)
        if any(reached(catalog, reach, hat, skill, tool) for hat in catalog.hats for skill in catalog.skills)
    ]


@settings(deadline=None)
@given(catalogs(), REACHES)
def test_every_way_to_a_tool_is_found(catalog: Catalog, reach: Reach) -> None:
    """A tool is found exactly where a way leads to it, with the first ten ways in order, and the number of all."""
    found = tool_set_of(catalog, reach)
    listed = {tool_id for tool_id, *_ in tools_of(catalog, reach).tools}
    for tool in catalog.tools:
        ways = sorted(
            (hat.id, skill.id)
            for hat in catalog.hats
            for skill in catalog.skills
            if reached(catalog, reach, hat, skill, tool)
        )
        field = found.grant(tool.id)
        assert (field is not None) == (tool.id in listed) == bool(ways)
        if field is not None:
            grant = pb.Granted.FromString(field).tool
            assert (grant.tool.id, grant.tool.name, grant.tool.mcp_server) == (tool.id, tool.name, tool.mcp_server)
            assert [(path.hat_id, path.skill_id) for path in grant.paths] == ways[:10]
            assert (grant.path_count, grant.tool_set_version) == (len(ways), found.version)


@settings(deadline=None)
@given(st.lists(catalogs(), min_size=1, max_size=4), REACHES, some([*HATS, HatId("hat-gone")]))
def test_no_change_to_hats_widens_a_limited_key(changes: list[Catalog], reach: Reach, limit: tuple[HatId, ...]) -> None:
    """After any change it reaches those named hats that a key without the limit would reach, and no other."""
    for catalog in changes:
        limited = tools_of(catalog, reach._replace(hat_ids=frozenset(limit)))
        unlimited = tools_of(catalog, reach._replace(hat_ids=None))
        assert limited.hats == tuple(hat for hat in unlimited.hats if hat[0] in limit)
        assert {skill[0] for skill in limited.skills} == {each for *_, skill_ids in limited.hats for each in skill_ids}
        assert {tool[0] for tool in limited.tools} == {each for *_, tool_ids in limited.skills for each in tool_ids}


@settings(deadline=None)
@given(catalogs())
def test_a_runtime_key_reaches_nothing(catalog: Catalog) -> None:
    """It has no hat, whatever the workspace holds."""
    assert tools_of(catalog, NOTHING) == Tools()


def hats_reached(reach: Reach) -> list[str]:
    """Return which hats of a small company are reached. `top` is above `left` and `right`, `low` is below `left`."""
    top, left, right, low = (TeamId(each) for each in ("top", "left", "right", "low"))
    teams = (Team(low, "", left), Team(top, "", None), Team(right, "", top), Team(left, "", top))
    of_teams = {"none": (), "of-top": (top,), "of-left": (left,), "of-low": (low,), "of-both": (right, low)}
    hats = [Hat(HatId(each), each, "", "", HatAudience.TEAMS, served, ()) for each, served in of_teams.items()]
    hats.append(Hat(HatId("all"), "all", "", "", HatAudience.WORKSPACE, (), ()))
    return [hat_id for hat_id, *_ in tools_of(Catalog(teams, tuple(hats), (), ()), reach).hats]


@pytest.mark.parametrize(
    ("teams", "expected"),
    [
        (None, ["all", "of-both", "of-left", "of-low", "of-top"]),
        (set(), ["all"]),
        ({"gone"}, ["all"]),
        ({"top"}, ["all", "of-top"]),
        ({"left"}, ["all", "of-left", "of-top"]),
        ({"right"}, ["all", "of-both", "of-top"]),
        ({"low"}, ["all", "of-both", "of-left", "of-low", "of-top"]),
    ],
)
def test_hats_come_from_the_own_team_and_those_above(teams: set[TeamId] | None, expected: list[str]) -> None:
    """A team's hat serves the team and those below, not above or beside; a hat without a team serves nobody."""
    assert hats_reached(Reach(None if teams is None else frozenset(teams), None)) == expected


@pytest.mark.parametrize(
    ("named", "expected"),
    [
        ({"of-top"}, ["of-top"]),
        ({"of-low", "all"}, ["all"]),
        ({"none"}, []),
        ({"gone"}, []),
        (set(), []),
        ({"gone", "all"}, ["all"]),
    ],
)
def test_a_limited_key_reaches_named_hats_only(named: set[HatId], expected: list[str]) -> None:
    """Naming a hat gives nothing that the user does not have. If all named hats are gone, nothing is left."""
    assert hats_reached(Reach(frozenset({TeamId("left")}), frozenset(named))) == expected


def test_a_workspace_key_limited_to_hats_that_are_gone_reaches_nothing() -> None:
    """The limit outlives the hats that it names."""
    assert hats_reached(Reach(None, frozenset({HatId("gone")}))) == []
    assert hats_reached(Reach(None, frozenset())) == []


@settings(deadline=None)
@given(catalogs(), REACHES)
def test_taking_something_away_never_widens(catalog: Catalog, reach: Reach) -> None:
    """Neither a team of a hat, up to its last, nor its audience, nor a team of the user gives a key more."""
    before = {*tools_of(catalog, reach).hats}
    for at, hat in enumerate(catalog.hats):
        less = [replace(hat, team_ids=hat.team_ids[:end]) for end in range(len(hat.team_ids))]
        for smaller in (*less, replace(hat, audience=HatAudience.TEAMS)):
            changed = replace(catalog, hats=(*catalog.hats[:at], smaller, *catalog.hats[at + 1 :]))
            assert {*tools_of(changed, reach).hats} <= before
    for team_id in reach.team_ids or ():
        smaller_reach = reach._replace(team_ids=(reach.team_ids or frozenset()) - {team_id})
        assert {*tools_of(catalog, smaller_reach).hats} <= before


@settings(deadline=None)
@given(catalogs(), REACHES)
def test_nobody_reaches_a_hat_without_a_team(catalog: Catalog, reach: Reach) -> None:
    """Whichever teams or named hats the key has, or none."""
    hats = tuple(replace(hat, audience=HatAudience.TEAMS, team_ids=()) for hat in catalog.hats)
    assert tools_of(replace(catalog, hats=hats), reach) == Tools()


def test_a_disabled_tool_is_not_granted() -> None:
    """It is in no list and has no ways; its skill stays."""
    tools = (Tool(TOOLS[0], "on", "s", disabled=False), Tool(TOOLS[1], "off", "s", disabled=True))
    skills = (Skill(SKILLS[0], "both", "", (TOOLS[1], TOOLS[0])), Skill(SKILLS[1], "off", "", (TOOLS[1],)))
    hats = (Hat(HATS[0], "hat", "", "", HatAudience.WORKSPACE, (), (SKILLS[1], SKILLS[0])),)
    catalog = Catalog((), hats, skills, tools)
    found = tools_of(catalog, Reach(None, None))
    assert [(skill_id, tool_ids) for skill_id, _, tool_ids in found.skills] == [
        (SKILLS[0], (TOOLS[0],)),
        (SKILLS[1], ()),
    ]
    assert found.tools == ((TOOLS[0], "on", "s"),)
    assert tool_set_of(catalog, Reach(None, None)).grant(TOOLS[1]) is None


def test_a_cycle_of_teams_ends() -> None:
    """If a cycle ever passed the checks, its teams would count as above each other, and nothing would hang."""
    teams = (Team(TEAMS[0], "", TEAMS[1]), Team(TEAMS[1], "", TEAMS[0]), Team(TEAMS[2], "", TEAMS[2]))
    hats = tuple(
        Hat(hat_id, "", "", "", HatAudience.TEAMS, (team.id,), ()) for hat_id, team in zip(HATS, teams, strict=False)
    )
    found = [tools_of(Catalog(teams, hats, (), ()), Reach(frozenset({team.id}), None)).hats for team in teams]
    assert [[hat_id for hat_id, *_ in each] for each in found] == [HATS[:2], HATS[:2], HATS[2:3]]
