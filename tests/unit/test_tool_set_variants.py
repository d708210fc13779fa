"""Variants of tool sets: of one MCP server, and with the texts of hats and skills."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder_keys.app.authorization.contents import updated
from skilder_keys.app.authorization.tool_sets import Servers, SharedToolSet
from skilder_keys.domain.difference import Part
from skilder_keys.domain.ids import HatId, SkillId, ToolId
from skilder_keys.domain.permissions import Reach, reached_hats
from skilder_keys.domain.tool_sets import ToolName, ToolSetView, Variant
from skilder_keys.domain.workspace import Catalog, Hat, HatAudience, Skill, Tool
from tests.support.catalogs import REACHES, SERVERS, catalogs
from tests.support.snapshot_reads import contents_of, read_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from skilder_keys.app.authorization.contents import Contents

ALL = Reach(None, None)
BASIC, FULL = ToolSetView.BASIC, ToolSetView.FULL
VARIANTS = st.builds(Variant, st.sampled_from([None, *SERVERS, "nothing there"]), st.sampled_from([BASIC, FULL]))
POST = Tool(ToolId("slack.post"), "post", "slack", disabled=False)
PUSH = Tool(ToolId("git.push"), "push", "git", disabled=False)
REPLIES = Skill(SkillId("replies"), "Replies", "How to reply", (POST.id,))
WORK = Skill(SkillId("work"), "Work", "How to work", (POST.id, PUSH.id))
DESK = Hat(HatId("desk"), "Desk", "At the desk", "Be kind", HatAudience.WORKSPACE, (), (REPLIES.id,))
DEVELOPER = Hat(HatId("dev"), "Developer", "", "Be brief", HatAudience.WORKSPACE, (), (REPLIES.id, WORK.id))
CATALOG = Catalog((), (DESK, DEVELOPER), (REPLIES, WORK), (POST, PUSH))


def shared(contents: Contents, reach: Reach = ALL) -> SharedToolSet:
    """Return the whole tool set of a key."""
    return SharedToolSet(Servers(contents, lambda _: None), contents.reached(reach))


def variant_in(tools: SharedToolSet, variant: Variant) -> SharedToolSet:
    """Return a variant of a tool set, as the service makes it."""
    server = variant.mcp_server
    contents = tools.servers.find(server)
    if contents is None:
        assert server is not None
        contents = tools.servers.keep(server, tools.servers.make(server))
    return tools.variant(variant, contents)


def sent(contents: Contents, reach: Reach, variant: Variant) -> pb.ToolSet:
    """Return a variant of what a key reaches, as a response has it."""
    field = variant_in(shared(contents, reach), variant).encode().field
    return pb.Granted.FromString(field).tool_set


def expected(catalog: Catalog, reach: Reach, variant: Variant) -> pb.ToolSet:
    """Return the same by the rule alone, without a version."""
    full = variant.view is FULL
    tools = {each.id: each for each in catalog.tools if not each.disabled}
    if variant.mcp_server is not None:
        tools = {id_: each for id_, each in tools.items() if each.mcp_server == variant.mcp_server}
    skills = {each.id: sorted(each.tool_ids & tools.keys()) for each in map(_with_set, catalog.skills)}
    if variant.mcp_server is not None:
        skills = {id_: ids for id_, ids in skills.items() if ids}
    parents = {team.id: team.parent_id for team in catalog.teams}
    hats = sorted(reached_hats(catalog.hats, parents, reach), key=lambda hat: hat.id)
    grouped = {hat.id: sorted(skills.keys() & set(hat.skill_ids)) for hat in hats}
    if variant.mcp_server is not None:
        hats = [hat for hat in hats if grouped[hat.id]]
    reached = sorted({skill_id for hat in hats for skill_id in grouped[hat.id]})
    texts = {each.id: each for each in catalog.skills}
    return pb.ToolSet(
        hats=[
            pb.ReachedHat(
                id=hat.id,
                name=hat.name,
                skill_ids=grouped[hat.id],
                description=hat.description if full else "",
                instructions=hat.instructions if full else "",
            )
            for hat in hats
        ],
        skills=[
            pb.ReachedSkill(
                id=each,
                name=texts[each].name,
                tool_ids=skills[each],
                description=texts[each].description if full else "",
            )
            for each in reached
        ],
        tools=[
            pb.ReachedTool(id=each, name=tools[each].name, mcp_server=tools[each].mcp_server)
            for each in sorted({tool_id for skill_id in reached for tool_id in skills[skill_id]})
        ],
    )


class _with_set:  # noqa: N801 - a view of a skill
    def __init__(self, skill: Skill) -> None:
        self.id = skill.id
        self.tool_ids = set(skill.tool_ids)


@settings(deadline=None)
@given(catalogs(), REACHES, VARIANTS)
def test_a_variant_is_what_the_rule_says(catalog: Catalog, reach: Reach, variant: Variant) -> None:
    """Of one server: its tools, the skills that have any of them, and the hats that have any of these, with no more."""
    found = sent(contents_of(catalog), reach, variant)
    assert len(bytes.fromhex(found.version)) == 16
    found.version = ""
    assert found == expected(catalog, reach, variant)


@settings(deadline=None)
@given(catalogs(), catalogs(), REACHES, VARIANTS)
def test_a_variant_after_a_change_is_that_of_a_new_process(
    before: Catalog, after: Catalog, reach: Reach, variant: Variant
) -> None:
    """Also where only the parts that differ are read."""
    wanted = {
        part: {each.id for each in {*getattr(before, name)} ^ {*getattr(after, name)}}
        for part, name in ((Part.TEAM, "teams"), (Part.HAT, "hats"), (Part.SKILL, "skills"), (Part.TOOL, "tools"))
    }
    held = updated(contents_of(before), read_of(after, wanted={part: ids for part, ids in wanted.items() if ids}))
    assert sent(held, reach, variant) == sent(contents_of(after), reach, variant)


@settings(deadline=None)
@given(catalogs(), catalogs(), REACHES, VARIANTS, VARIANTS)
def test_equal_versions_mean_equal_variants(
    one: Catalog, other: Catalog, reach: Reach, first: Variant, second: Variant
) -> None:
    """A caller that holds a version has the content of just that variant."""
    found, of = sent(contents_of(one), reach, first), sent(contents_of(other), reach, second)
    if found.version == of.version:
        assert found == of
    elif first == second:
        assert found != of


@pytest.mark.parametrize(
    "change",
    [
        lambda catalog: replace(catalog, hats=(replace(DESK, description="x"), DEVELOPER)),
        lambda catalog: replace(catalog, hats=(replace(DESK, instructions="x"), DEVELOPER)),
        lambda catalog: replace(
            catalog, hats=(replace(DESK, description="Be kind", instructions="At the desk"), DEVELOPER)
        ),
        lambda catalog: replace(catalog, skills=(replace(REPLIES, description="x"), WORK)),
    ],
)
def test_a_changed_text_gives_another_full_version(change: Callable[[Catalog], Catalog]) -> None:
    """And leaves the basic one, so that nobody reads a tool set again for a text that they do not have."""
    before, after = contents_of(CATALOG), contents_of(change(CATALOG))
    for server in (None, "slack"):
        full, basic = Variant(server, FULL), Variant(server, BASIC)
        assert sent(before, ALL, full).version != sent(after, ALL, full).version
        assert sent(before, ALL, basic).version == sent(after, ALL, basic).version
    assert sent(before, ALL, Variant("git", BASIC)).version == sent(after, ALL, Variant("git", BASIC)).version


def test_a_variant_is_made_once_for_all_keys() -> None:
    """Keys of other reach share what is made for the server; the same reach shares the variant."""
    servers = Servers(contents_of(CATALOG), lambda _: None)
    hats = servers.contents.reached(ALL)
    tools, fewer = SharedToolSet(servers, hats), SharedToolSet(servers, hats[:1])
    variant = Variant("slack", FULL)
    made = variant_in(tools, variant)
    assert variant_in(tools, variant) is made
    assert tools.variants == {variant: made}
    held = servers.find("slack")
    variant_in(fewer, variant)
    assert servers.find("slack") is held


def test_the_memory_of_variants_is_counted_and_that_of_made_up_servers_does_not_grow() -> None:
    """Each variant adds to the weight of its workspace; a server that nobody has leaves nothing behind."""
    charges: list[int] = []
    servers = Servers(contents_of(CATALOG), charges.append)
    tools = SharedToolSet(servers, servers.contents.reached(ALL))
    charges.clear()
    made = variant_in(tools, Variant("slack", FULL))
    made.keep(made.encode())
    held = servers.find("slack")
    assert held is not None
    assert made.encoded is not None
    assert sum(charges) >= held.weight + len(made.encoded.field)
    charges.clear()
    for number in range(100):
        nothing = variant_in(tools, Variant(f"made-up-{number}", BASIC))
        nothing.keep(nothing.encode())
        assert not pb.Granted.FromString(nothing.encode().field).tool_set.hats
    assert charges == []
    assert len(tools.variants) == 1


@settings(deadline=None)
@given(catalogs(), REACHES)
def test_a_tool_is_granted_by_its_name_as_by_its_id(catalog: Catalog, reach: Reach) -> None:
    """And not by the name of a disabled one, or by its name on another server."""
    tools = shared(contents_of(catalog), reach)
    for tool in catalog.tools:
        granted = tools.grant_by_name(ToolName(tool.mcp_server, tool.name))
        assert granted == tools.grant(tool.id)
        assert tools.grant_by_name(ToolName("another", tool.name)) is None
        assert tools.grant_by_name(ToolName(tool.mcp_server, tool.id)) is None
