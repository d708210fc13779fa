"""Strategies for hypothesis: catalogs of a workspace, and how much of them a key may see."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import strategies as st

from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId
from skilder_keys.domain.permissions import Reach
from skilder_keys.domain.workspace import Catalog, Hat, HatAudience, Skill, Team, Tool

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import TypeVar

    Id = TypeVar("Id", TeamId, HatId, SkillId, ToolId)

TEAMS = [TeamId(f"team-{letter}") for letter in "abcde"]
HATS = [HatId(f"hat-{letter}") for letter in "abcd"]
SKILLS = [SkillId(f"skill-{letter}") for letter in "abcde"]
SERVERS = ["slack", "git"]
_TEXTS = st.sampled_from(["", "a text", "long " * 50])
TOOLS = [ToolId(f"tool-{letter}") for letter in "abcdef"]


def some(ids: Sequence[Id]) -> st.SearchStrategy[tuple[Id, ...]]:
    """Draw some of the ids, each at most once, in any order."""
    return st.lists(st.sampled_from(ids), unique=True).map(tuple) if ids else st.just(())


@st.composite
def catalogs(draw: st.DrawFn) -> Catalog:
    """Draw a catalog that passes the checks: a forest of teams, no dangling reference, nothing sorted."""
    teams: list[Team] = []
    for team_id in draw(some(TEAMS)):
        teams.append(Team(team_id, team_id, draw(st.sampled_from([None, *(team.id for team in teams)]))))
    tools = tuple(
        Tool(each, f"name of {each}", draw(st.sampled_from(SERVERS)), draw(st.booleans())) for each in draw(some(TOOLS))
    )
    tool_ids = [tool.id for tool in tools]
    skills = tuple(Skill(each, f"name of {each}", draw(_TEXTS), draw(some(tool_ids))) for each in draw(some(SKILLS)))
    team_ids, skill_ids = [team.id for team in teams], [skill.id for skill in skills]
    hats: list[Hat] = []
    for each in draw(some(HATS)):
        audience = draw(st.sampled_from(HatAudience))
        served = draw(some(team_ids)) if audience is HatAudience.TEAMS else ()
        hats.append(Hat(each, f"name of {each}", draw(_TEXTS), draw(_TEXTS), audience, served, draw(some(skill_ids))))
    return Catalog(tuple(draw(st.permutations(teams))), tuple(hats), skills, tools)


# Also teams and hats that are not in the catalog, or no longer.
REACHES = st.builds(
    Reach,
    team_ids=st.none() | some([*TEAMS, TeamId("team-gone")]).map(frozenset),
    hat_ids=st.none() | some([*HATS, HatId("hat-gone")]).map(frozenset),
)
