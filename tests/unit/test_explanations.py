"""What leads a key to a hat: the rule that decides, explained."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given, settings

from skilder_keys.domain.explanations import (
    HatReach,
    OutlinedHat,
    ToolUser,
    explain_hats,
    listed_tools,
    position_of,
)
from skilder_keys.domain.ids import HatId, TeamId, ToolId, UserId
from skilder_keys.domain.paging import listing
from skilder_keys.domain.permissions import Reach, reached_hats, with_teams_above
from skilder_keys.domain.tool_sets import ToolName
from skilder_keys.domain.workspace import Catalog, HatAudience
from tests.support.catalogs import REACHES, catalogs
from tests.support.ids import new_key_id

WORKSPACE, TEAMS = HatAudience.WORKSPACE, HatAudience.TEAMS
PARENTS = {TeamId("top"): None, TeamId("middle"): TeamId("top"), TeamId("low"): TeamId("middle"), TeamId("aside"): None}


def hat(id_: str, audience: HatAudience, *team_ids: str) -> OutlinedHat:
    """Return a hat."""
    return OutlinedHat(HatId(id_), id_, audience, tuple(map(TeamId, team_ids)))


def outlined(catalog: Catalog) -> list[OutlinedHat]:
    """Return the hats of a catalog."""
    return [OutlinedHat(each.id, each.name, each.audience, each.team_ids) for each in catalog.hats]


@settings(deadline=None)
@given(catalogs(), REACHES)
def test_the_explanation_agrees_with_the_rule(catalog: Catalog, reach: Reach) -> None:
    """Every hat is explained; those that are reached are just those that the rule returns."""
    parents = {team.id: team.parent_id for team in catalog.teams}
    found = explain_hats(outlined(catalog), parents, reach)
    assert [each.hat_id for each in found] == [each.id for each in catalog.hats]
    reached = [each.hat_id for each in found if each.is_reached]
    assert reached == [each.id for each in reached_hats(catalog.hats, parents, reach)]


@settings(deadline=None)
@given(catalogs(), REACHES)
def test_the_teams_lead_from_the_users_to_the_hats(catalog: Catalog, reach: Reach) -> None:
    """Each is below the next; and there is no shorter way."""
    parents = {team.id: team.parent_id for team in catalog.teams}
    for found, of in zip(explain_hats(outlined(catalog), parents, reach), catalog.hats, strict=True):
        if found.reach is not HatReach.TEAM:
            assert found.team_ids == ()
            continue
        assert reach.team_ids is not None
        assert found.team_ids[0] in reach.team_ids
        assert found.team_ids[-1] in of.team_ids
        assert all(parents[below] == above for below, above in pairwise(found.team_ids))
        shorter = len(found.team_ids) - 1
        level = reach.team_ids
        for _ in range(shorter):
            assert level.isdisjoint(of.team_ids)
            level = frozenset(above for each in level if (above := parents.get(each)) is not None)
        assert with_teams_above(reach.team_ids, parents) >= set(found.team_ids)


def test_each_reason_is_told_apart() -> None:
    """Of a user key with a limit, and of a key without a user."""
    hats = [
        hat("aside", TEAMS, "aside"),
        hat("everyone", WORKSPACE),
        hat("nobody", TEAMS),
        hat("other", WORKSPACE),
        hat("own", TEAMS, "low"),
        hat("top", TEAMS, "top", "aside"),
    ]
    named = frozenset(each.id for each in hats if each.id != "other")
    limited = explain_hats(hats, PARENTS, Reach(frozenset({TeamId("low")}), named))
    assert [(each.reach, each.team_ids) for each in limited] == [
        (HatReach.NO_TEAM, ()),
        (HatReach.WORKSPACE, ()),
        (HatReach.NO_TEAM, ()),
        (HatReach.OUTSIDE_LIMIT, ()),
        (HatReach.TEAM, ("low",)),
        (HatReach.TEAM, ("low", "middle", "top")),
    ]
    without_user = explain_hats(hats, PARENTS, Reach(None, None))
    reached = [HatReach.WORKSPACE] * 6
    reached[2] = HatReach.NO_TEAM
    assert [each.reach for each in without_user] == reached


def test_the_shortest_way_is_told() -> None:
    """Of several teams of the hat, and of several teams of the user."""
    (near,) = explain_hats([hat("h", TEAMS, "top", "middle")], PARENTS, Reach(frozenset({TeamId("low")}), None))
    assert near.team_ids == ("low", "middle")
    both = frozenset({TeamId("low"), TeamId("middle")})
    (nearer,) = explain_hats([hat("h", TEAMS, "top")], PARENTS, Reach(both, None))
    assert nearer.team_ids == ("middle", "top")


def test_a_cycle_of_teams_ends() -> None:
    """Should one ever pass the checks."""
    parents: dict[TeamId, TeamId | None] = {TeamId("a"): TeamId("b"), TeamId("b"): TeamId("a")}
    (found,) = explain_hats([hat("h", TEAMS, "b")], parents, Reach(frozenset({TeamId("a")}), None))
    assert found.team_ids == ("a", "b")


def test_positions_say_what_they_are_of() -> None:
    """A member's user id may look like a key."""
    key_id = new_key_id()
    assert position_of(key_id) == f"key {key_id}"
    assert ToolUser(UserId(f"key {key_id}"), ()).id == f"member key {key_id}"


def test_each_tool_has_a_listing_of_its_own() -> None:
    """A page token of one is not valid for another, also where server and name are swapped."""
    tools = [None, ToolId("a"), ToolId("b"), ToolName("a", "b"), ToolName("b", "a")]
    assert len({listing("ExplainKey", None, listed_tools("k", tool)) for tool in tools}) == len(tools)
