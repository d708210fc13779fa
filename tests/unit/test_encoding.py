"""The ready-made responses of Authorize."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder_keys.app.authorization import encoding
from skilder_keys.domain.denial import DenialReason, Denied
from skilder_keys.domain.ids import HatId, RuntimeId, SkillId, ToolId, UserId, WorkspaceId
from skilder_keys.domain.keys import Key
from skilder_keys.domain.permissions import ReachedHat, ReachedSkill, ToolGrant, ToolPath, ToolSet
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.domain.token import KeyType
from skilder_keys.domain.workspace import Tool
from tests.support.ids import new_key_id

if TYPE_CHECKING:
    from collections.abc import Callable

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = Key(
    id=new_key_id(),
    type=KeyType.USER,
    workspace_id=WorkspaceId("acme"),
    user_id=UserId("ada"),
    runtime_id=None,
    description="Slack Bot",
    hat_ids=None,
    created_at=NOW,
    created_by=Principal(PrincipalKind.USER, "bob"),
    last_used_at=NOW,
    revocation=None,
    workspace_deleted=False,
    user_is_member=True,
)
TOOL = Tool(ToolId("slack.post"), "slack_post_message", "slack", disabled=False)
SKILL = ReachedSkill(SkillId("replies"), "Replies", (TOOL.id,))
HAT = ReachedHat(HatId("support"), "Support", (SKILL.id,))
TOOLS = ToolSet((HAT,), (SKILL,), (TOOL,))
ENCODED = encoding.tool_set(TOOLS)
GRANTED_KEY = encoding.granted_key(KEY)


def granted(body: bytes) -> pb.Granted:
    """Parse a response, which must be a grant."""
    response = pb.AuthorizeResponse.FromString(body)
    assert response.WhichOneof("verdict") == "granted"
    return response.granted


WORDS = st.sampled_from(["", "a", "b", "ab"])
SKILLS = st.builds(ReachedSkill, WORDS.map(SkillId), WORDS, st.lists(WORDS.map(ToolId), max_size=2).map(tuple))
HATS = st.builds(ReachedHat, WORDS.map(HatId), WORDS, st.lists(WORDS.map(SkillId), max_size=2).map(tuple))
REACHED = st.builds(Tool, WORDS.map(ToolId), WORDS, WORDS, st.just(value=True))
TOOL_SETS = st.builds(ToolSet, *(st.lists(each, max_size=2).map(tuple) for each in (HATS, SKILLS, REACHED)))


@settings(deadline=None)
@given(TOOL_SETS, TOOL_SETS)
def test_equal_versions_mean_equal_tool_sets(one: ToolSet, other: ToolSet) -> None:
    """A version depends on the whole content of a tool set and on nothing else."""
    assert (encoding.tool_set(one).version == encoding.tool_set(other).version) == (one == other)
    assert encoding.tool_set(one) == encoding.tool_set(ToolSet(one.hats, one.skills, one.tools))


@pytest.mark.parametrize(
    "change",
    [
        lambda tools: replace(tools, hats=()),
        lambda tools: replace(tools, tools=()),
        lambda tools: replace(tools, hats=(HAT, HAT)),
        lambda tools: replace(tools, hats=(replace(HAT, id=HatId("desk")),)),
        lambda tools: replace(tools, hats=(replace(HAT, name="Support!"),)),
        lambda tools: replace(tools, hats=(replace(HAT, skill_ids=()),)),
        lambda tools: replace(tools, hats=(replace(HAT, skill_ids=(SkillId("x"),)),)),
        lambda tools: replace(tools, skills=()),
        lambda tools: replace(tools, skills=(replace(SKILL, id=SkillId("x")),)),
        lambda tools: replace(tools, skills=(replace(SKILL, name="x"),)),
        lambda tools: replace(tools, skills=(replace(SKILL, tool_ids=()),)),
        lambda tools: replace(tools, tools=(replace(TOOL, id=ToolId("x")),)),
        lambda tools: replace(tools, tools=(replace(TOOL, name="x"),)),
        lambda tools: replace(tools, tools=(replace(TOOL, mcp_server="x"),)),
    ],
)
def test_any_change_gives_another_version(change: Callable[[ToolSet], ToolSet]) -> None:
    """For everything that a caller sees of a tool set."""
    assert encoding.tool_set(change(TOOLS)).version != encoding.tool_set(TOOLS).version


def test_a_version_can_be_sent_back() -> None:
    """It is 32 hexadecimal digits, also in the message, and also for an empty tool set."""
    for tools in (TOOLS, ToolSet()):
        encoded = encoding.tool_set(tools)
        assert len(bytes.fromhex(encoded.version)) == 16
        assert pb.Granted.FromString(encoded.field).tool_set.version == encoded.version


def test_a_grant_of_a_tool_set_holds_all_of_it() -> None:
    """The key, its hats, their skills and the tools."""
    found = granted(encoding.granted(GRANTED_KEY, ENCODED.field))
    assert found.key == pb.KeyIdentity(
        id=str(KEY.id), type=key_pb2.KEY_TYPE_USER, workspace_id="acme", user_id="ada", description="Slack Bot"
    )
    assert found.tool_set == pb.ToolSet(
        version=ENCODED.version,
        hats=[pb.ReachedHat(id="support", name="Support", skill_ids=["replies"])],
        tools=[pb.ReachedTool(id="slack.post", name="slack_post_message", mcp_server="slack")],
        skills=[pb.ReachedSkill(id="replies", name="Replies", tool_ids=["slack.post"])],
    )


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"type": KeyType.WORKSPACE, "user_id": None}, {"type": key_pb2.KEY_TYPE_WORKSPACE, "user_id": ""}),
        (
            {"type": KeyType.RUNTIME, "user_id": None, "runtime_id": RuntimeId("rt-1")},
            {"type": key_pb2.KEY_TYPE_RUNTIME, "user_id": "", "runtime_id": "rt-1"},
        ),
    ],
)
def test_a_grant_names_the_owner_of_the_key(change: dict[str, Any], expected: dict[str, Any]) -> None:
    """Each key type with its own fields."""
    key = granted(encoding.granted(encoding.granted_key(replace(KEY, **change)), ENCODED.field)).key
    assert {name: getattr(key, name) for name in expected} == expected


def test_a_grant_that_names_a_tool_set_carries_no_tools() -> None:
    """The caller has them already, or reads them; the key is there as always."""
    body = encoding.granted(GRANTED_KEY, encoding.tool_set_reference(ENCODED))
    found = granted(body)
    assert found.WhichOneof("reach") == "tool_set_version"
    assert found.tool_set_version == ENCODED.version
    assert found.key == granted(encoding.granted(GRANTED_KEY, ENCODED.field)).key
    assert b"slack" not in body


def test_a_grant_of_one_tool_holds_its_ways() -> None:
    """In the given order, and nothing else of the tool set."""
    paths = (ToolPath(HatId("a"), SkillId("s")), ToolPath(HatId("b"), SkillId("r")))
    found = granted(encoding.granted(GRANTED_KEY, encoding.tool_grant_field(ToolGrant(TOOL, paths, 7), ENCODED)))
    assert found.WhichOneof("reach") == "tool"
    assert found.key.id == str(KEY.id)
    assert found.tool == pb.ToolGrant(
        tool=pb.ReachedTool(id="slack.post", name="slack_post_message", mcp_server="slack"),
        paths=[pb.ToolPath(hat_id="a", skill_id="s"), pb.ToolPath(hat_id="b", skill_id="r")],
        path_count=7,
        tool_set_version=ENCODED.version,
    )


def test_a_grant_in_a_batch_names_its_tool_set() -> None:
    """The tool set itself is in the batch once, however many grants name it."""
    one = encoding.granted(GRANTED_KEY, encoding.tool_set_reference(ENCODED))
    other = encoding.denied(Denied(DenialReason.UNKNOWN))
    found = pb.BatchAuthorizeResponse.FromString(encoding.batch([one, other, one], [ENCODED.field]))
    assert [response.SerializeToString() for response in found.responses] == [one, other, one]
    assert granted(one).tool_set_version == ENCODED.version
    assert list(found.tool_sets) == [pb.Granted.FromString(ENCODED.field).tool_set]
    assert pb.BatchAuthorizeResponse.FromString(encoding.batch([], [])) == pb.BatchAuthorizeResponse()


@pytest.mark.parametrize("size", [1, 20, 60, 2**20])
@settings(deadline=None)
@given(TOOL_SETS)
def test_the_parts_of_a_tool_set_together_are_the_tool_set(size: int, tools: ToolSet) -> None:
    """However small they are. Each has the version, and none is empty but the only one."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encoding, "PART_BYTES", size)
        encoded = encoding.tool_set(tools)
    parts = list(encoded.parts())
    whole = pb.ToolSet()
    for part in parts:
        found = pb.ReadToolSetResponse.FromString(part)
        assert found.SerializeToString() == part
        assert found.tool_set.version == encoded.version
        assert len(parts) == 1 or found.tool_set.hats or found.tool_set.skills or found.tool_set.tools
        whole.MergeFrom(found.tool_set)
    assert whole == pb.Granted.FromString(encoded.field).tool_set
    if size == 1:
        assert len(parts) == max(1, len(tools.hats) + bool(tools.tools) + len(tools.skills))


def test_a_part_has_a_mebibyte_or_one_element() -> None:
    """Parts are as large as allowed, and cut between elements."""
    tool_ids = tuple(ToolId(f"{number:0>1000}") for number in range(600))
    skills = tuple(ReachedSkill(SkillId(f"skill-{number}"), "", tool_ids) for number in range(5))
    sizes = [len(each) for each in encoding.tool_set(ToolSet((HAT,), skills)).parts()]
    assert all(size <= encoding.PART_BYTES + 100 for size in sizes), "the version comes on top"
    assert len(sizes) == 5
    large = ReachedSkill(SkillId("large"), "", tool_ids * 3)
    sizes = [len(each) for each in encoding.tool_set(ToolSet((HAT,), (*skills, large, SKILL))).parts()]
    assert [size > encoding.PART_BYTES for size in sizes] == [False] * 5 + [True, False]


@pytest.mark.parametrize("reason", DenialReason)
def test_a_denial_is_the_same_in_both_methods(reason: DenialReason) -> None:
    """The fields have one number, so that one serialised denial serves both."""
    body = encoding.denied(Denied(reason, KEY.id))
    part = pb.ReadToolSetResponse.FromString(body)
    assert part.SerializeToString() == body
    assert part.denied == pb.AuthorizeResponse.FromString(body).denied


@pytest.mark.parametrize("length", [0, 1, 127, 128, 129, 2**14 - 1, 2**14, 2**21, 2**21 + 1])
def test_a_field_of_any_length_is_encoded_as_protobuf_does(length: int) -> None:
    """Its length is a varint, which grows by a byte at each power of 128."""
    text = b"x" * length
    written = pb.AuthorizeRequest(token=text.decode()).SerializeToString() or b"\x0a\x00"
    assert encoding.delimited(b"\x0a", text[:5], text[5:]) == written


@settings(deadline=None)
@given(TOOL_SETS)
def test_concatenated_responses_equal_those_that_protobuf_makes(tools: ToolSet) -> None:
    """Byte for byte, so a response from memory looks like any other."""
    encoded = encoding.tool_set(tools)
    for reach in (encoded.field, encoding.tool_set_reference(encoded)):
        body = encoding.granted(GRANTED_KEY, reach)
        assert pb.AuthorizeResponse.FromString(body).SerializeToString() == body


@pytest.mark.parametrize("reason", DenialReason)
def test_every_denial_reason_has_its_enum_value(reason: DenialReason) -> None:
    """With the same name and its sentence; the key is there only where the token was verified."""
    for key_id in (None, KEY.id):
        response = pb.AuthorizeResponse.FromString(encoding.denied(Denied(reason, key_id)))
        assert response.WhichOneof("verdict") == "denied"
        assert pb.DenialReason.Name(response.denied.reason) == f"DENIAL_REASON_{reason.name}"
        assert response.denied.message == reason.value
        assert response.denied.key_id == ("" if key_id is None else str(key_id))


def test_every_enum_value_of_a_denial_is_used() -> None:
    """The contract has no reason that is never sent, except UNSPECIFIED."""
    names = {name.removeprefix("DENIAL_REASON_") for name in pb.DenialReason.keys()}  # noqa: SIM118 - it is no dictionary
    assert names == {reason.name for reason in DenialReason} | {"UNSPECIFIED"}
