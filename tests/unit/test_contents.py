"""What a workspace's keys can reach, in memory: parts that are read anew give what a read of everything gives."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.app.authorization import encoding
from skilder_keys.app.authorization.contents import EMPTY, updated
from skilder_keys.app.authorization.held_parts import HeldHat
from skilder_keys.domain.difference import Part
from skilder_keys.domain.ids import HatId, SkillId, TeamId, ToolId
from skilder_keys.domain.permissions import Reach
from skilder_keys.domain.workspace import Catalog, Hat, HatAudience, Skill, Team, Tool
from tests.support.catalogs import REACHES, catalogs
from tests.support.snapshot_reads import contents_of, encoded_of, read_of, tool_set_of, tools_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ALL = Reach(None, None)
TOOL = Tool(ToolId("slack.post"), "slack_post_message", "slack", disabled=False)
SKILL = Skill(SkillId("replies"), "Replies", "", (TOOL.id,))
HAT = Hat(HatId("support"), "Support", "", "", HatAudience.WORKSPACE, (), (SKILL.id,))
CATALOG = Catalog((), (HAT,), (SKILL,), (TOOL,))


def changed(before: Iterable[Team | Hat | Skill | Tool], after: Iterable[Team | Hat | Skill | Tool]) -> set[str]:
    """Return the ids of the parts that differ."""
    old: dict[str, object] = {each.id: each for each in before}
    new: dict[str, object] = {each.id: each for each in after}
    return {id_ for id_ in old.keys() | new.keys() if old.get(id_) != new.get(id_)}


@settings(deadline=None)
@given(st.lists(catalogs(), min_size=2, max_size=5), st.lists(st.sampled_from(Part), max_size=3))
def test_parts_that_are_read_anew_give_what_a_read_of_everything_gives(steps: list[Catalog], whole: list[Part]) -> None:
    """After any change, if exactly the parts that differ are read; or all of their kind."""
    held = contents_of(steps[0])
    for before, after in pairwise(steps):
        wanted = {
            Part.TEAM: changed(before.teams, after.teams),
            Part.HAT: changed(before.hats, after.hats),
            Part.SKILL: changed(before.skills, after.skills),
            Part.TOOL: changed(before.tools, after.tools),
        }
        read = read_of(after, wanted={part: None if part in whole else ids for part, ids in wanted.items() if ids})
        former, kept = held, (dict(held.tools), dict(held.skills), dict(held.hats))
        names = {server: dict(tools) for server, tools in held.tools_by_name.items()}
        links = dict(held.skills_of), dict(held.hats_of)
        held = updated(held, read)
        expected = contents_of(after)
        assert (held.parents, held.hats, held.skills, held.tools, held.tools_by_name) == (
            expected.parents, expected.hats, expected.skills, expected.tools, expected.tools_by_name,
        )  # fmt: skip
        assert held.weight == expected.weight
        assert list(held.hats) == list(expected.hats)
        for found, right in ((held.skills_of, expected.skills_of), (held.hats_of, expected.hats_of)):
            assert {link: {*ids} for link, ids in found.items() if ids} == {link: {*ids} for link, ids in right.items()}
        assert kept == (former.tools, former.skills, former.hats), "the former contents stay"
        assert names == former.tools_by_name
        assert links == (former.skills_of, former.hats_of)


@settings(deadline=None)
@given(catalogs(), catalogs(), REACHES, REACHES)
def test_equal_versions_mean_equal_tool_sets(one: Catalog, other: Catalog, reach: Reach, second: Reach) -> None:
    """A version depends on the whole content of a tool set and on nothing else."""
    for of, by in ((one, reach), (other, reach), (one, second), (other, second)):
        equal = tools_of(one, reach) == tools_of(of, by)
        assert (tool_set_of(one, reach).version == tool_set_of(of, by).version) == equal


@pytest.mark.parametrize(
    "change",
    [
        lambda catalog: replace(catalog, hats=()),
        lambda catalog: replace(catalog, hats=(HAT, replace(HAT, id=HatId("desk")))),
        lambda catalog: replace(catalog, hats=(replace(HAT, id=HatId("desk")),)),
        lambda catalog: replace(catalog, hats=(replace(HAT, name="Support!"),)),
        lambda catalog: replace(catalog, hats=(replace(HAT, skill_ids=()),)),
        lambda catalog: replace(catalog, skills=(replace(SKILL, name="x"),)),
        lambda catalog: replace(catalog, skills=(replace(SKILL, tool_ids=()),)),
        lambda catalog: replace(catalog, tools=(replace(TOOL, name="x"),)),
        lambda catalog: replace(catalog, tools=(replace(TOOL, mcp_server="x"),)),
        lambda catalog: replace(catalog, tools=(replace(TOOL, disabled=True),)),
    ],
)
def test_any_change_gives_another_version(change: Callable[[Catalog], Catalog]) -> None:
    """For everything that a caller sees of a tool set."""
    assert tool_set_of(change(CATALOG), ALL).version != tool_set_of(CATALOG, ALL).version


def test_a_version_can_be_sent_back() -> None:
    """It is 32 hexadecimal digits, also in the message, and also for an empty tool set."""
    for catalog in (CATALOG, Catalog((), (), (), ())):
        tools = tool_set_of(catalog, ALL)
        assert len(bytes.fromhex(tools.version)) == 16
        assert pb.Granted.FromString(encoded_of(catalog, ALL).field).tool_set.version == tools.version
        assert pb.Granted.FromString(tools.reference).tool_set_version == tools.version


def test_one_changed_tool_is_encoded_alone() -> None:
    """The pieces of all others stay the same objects, so that a change of one tool costs as much as one tool."""
    tools = tuple(replace(TOOL, id=ToolId(f"tool-{number}")) for number in range(5))
    skills = tuple(replace(SKILL, id=SkillId(f"skill-{each.id}"), tool_ids=(each.id,)) for each in tools)
    hats = tuple(replace(HAT, id=HatId(f"hat-{each.id}"), skill_ids=(each.id,)) for each in skills)
    before = contents_of(Catalog((), hats, skills, tools))
    after = Catalog((), hats, skills, (replace(tools[0], name="other"), *tools[1:]))
    held = updated(before, read_of(after, wanted={Part.TOOL: {tools[0].id}}))
    assert [held.tools[each.id] is before.tools[each.id] for each in tools] == [False, True, True, True, True]
    assert [held.skills[each.id] is before.skills[each.id] for each in skills] == [False, True, True, True, True]
    assert [held.hats[each.id] is before.hats[each.id] for each in hats] == [False, True, True, True, True]


def test_tools_that_swap_their_names_may_be_read_one_after_the_other() -> None:
    """What a name means follows the tool that was read last, and no name is lost."""
    one = replace(TOOL, id=ToolId("one"), name="first")
    other = replace(TOOL, id=ToolId("other"), name="second")
    held = contents_of(Catalog((), (), (), (one, other)))
    after = Catalog((), (), (), (replace(one, name="second"), replace(other, name="first")))
    for id_ in (one.id, other.id):
        held = updated(held, read_of(after, wanted={Part.TOOL: {id_}}))
    assert held.tools_by_name == {"slack": {"second": one.id, "first": other.id}}


def test_a_part_that_names_another_that_is_missing_is_held_all_the_same() -> None:
    """A later change may have touched the other one. Nobody uses the contents until that is read."""
    held = updated(contents_of(CATALOG), read_of(Catalog((), (), (), ()), wanted={Part.SKILL: {SKILL.id}}))
    assert not held.skills
    assert held.hats[HAT.id].skill_ids == {SKILL.id}
    assert updated(EMPTY, read_of(CATALOG, wanted={Part.HAT: {HAT.id}})).hats.keys() == {HAT.id}


@pytest.mark.parametrize("size", [1, 20, 60, 2**20])
@settings(deadline=None)
@given(catalogs())
def test_the_parts_of_a_tool_set_together_are_the_tool_set(size: int, catalog: Catalog) -> None:
    """However small they are. Each has the version, and none is empty but the only one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encoding, "PART_BYTES", size)
        tools = encoded_of(catalog, ALL)
    parts = list(tools.parts())
    whole = pb.ToolSet()
    for part in parts:
        found = pb.ReadToolSetResponse.FromString(part)
        assert found.SerializeToString() == part
        assert found.tool_set.version == tools.version
        assert len(parts) == 1 or found.tool_set.hats or found.tool_set.skills or found.tool_set.tools
        whole.MergeFrom(found.tool_set)
    assert whole == pb.Granted.FromString(tools.field).tool_set
    if size == 1:
        assert len(parts) == max(1, len(whole.hats) + len(whole.tools) + len(whole.skills))


def test_a_part_has_a_mebibyte_or_one_element() -> None:
    """Parts are as large as allowed, and cut between elements."""
    tools = tuple(replace(TOOL, id=ToolId(f"{number:0>1000}")) for number in range(600))
    tool_ids = tuple(each.id for each in tools)
    skills = tuple(replace(SKILL, id=SkillId(f"skill-{number}"), tool_ids=tool_ids) for number in range(5))
    hat = replace(HAT, skill_ids=tuple(each.id for each in skills))
    sizes = [len(each) for each in encoded_of(Catalog((), (hat,), skills, tools), ALL).parts()]
    assert all(size <= encoding.PART_BYTES + 100 for size in sizes), "the version comes on top"
    assert len(sizes) == 6
    large = (SkillId("large"), "", [f"{number:0>1000}" for number in range(2000)])
    pieces = [encoding.skill_piece(each.id, "", each.tool_ids) for each in skills]
    encoded = encoding.tool_set("0" * 32, (), (), [*pieces, encoding.skill_piece(*large), pieces[0]])  # type: ignore[arg-type]
    sizes = [len(each) for each in encoded.parts()]
    assert [size > encoding.PART_BYTES for size in sizes] == [False] * 5 + [True, False]


@pytest.mark.parametrize(
    ("reach", "expected"),
    [
        (Reach(frozenset({TeamId("team-7")}), None), {"hat-7", "hat-all", "hat-top"}),
        (Reach(frozenset(), None), {"hat-all"}),
        (Reach(None, frozenset({HatId("hat-3"), HatId("hat-nobody"), HatId("hat-gone")})), {"hat-3", "hat-nobody"}),
        (Reach(frozenset({TeamId("team-7")}), frozenset({HatId("hat-3")})), {"hat-3"}),
    ],
)
def test_a_reach_looks_only_at_hats_that_it_may_have(
    reach: Reach, expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of its teams and of everybody, or those of its limit, however many the workspace has."""
    top = TeamId("top")
    teams = (Team(top, "", None), *(Team(TeamId(f"team-{number}"), "", top) for number in range(50)))
    served: dict[str, tuple[TeamId, ...]] = {f"hat-{number}": (TeamId(f"team-{number}"),) for number in range(50)}
    served |= {"hat-top": (top,), "hat-nobody": ()}
    hats = [replace(HAT, id=HatId(name), audience=HatAudience.TEAMS, team_ids=each) for name, each in served.items()]
    contents = contents_of(Catalog(teams, (*hats, replace(HAT, id=HatId("hat-all"))), (SKILL,), (TOOL,)))
    seen = set()

    def look(hat: HeldHat, name: str) -> Any:
        seen.add(object.__getattribute__(hat, "id"))
        return object.__getattribute__(hat, name)

    monkeypatch.setattr(HeldHat, "__getattribute__", look)
    contents.reached(reach)
    assert seen == expected
