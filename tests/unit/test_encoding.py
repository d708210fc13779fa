"""The ready-made responses of Authorize."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings

from skilder.keys.v1 import authorization_service_pb2 as pb
from skilder.keys.v1 import key_pb2
from skilder_keys.app.authorization import encoding
from skilder_keys.domain.denial import DenialReason, Denied
from skilder_keys.domain.ids import HatId, RuntimeId, SkillId, ToolId, UserId
from skilder_keys.domain.permissions import Reach, ToolPath
from skilder_keys.domain.token import KeyType
from tests.support.catalogs import REACHES, catalogs
from tests.support.plain_keys import plain_key
from tests.support.snapshot_reads import encoded_of

if TYPE_CHECKING:
    from skilder_keys.domain.workspace import Catalog

NOW = datetime(2026, 1, 1, tzinfo=UTC)
KEY = plain_key(
    type=KeyType.USER,
    user_id=UserId("ada"),
    description="Slack Bot",
    created_at=NOW,
    last_used_at=NOW,
    user_is_member=True,
)
TOOL = encoding.tool_piece(ToolId("slack.post"), "slack_post_message", "slack")
SKILL = encoding.skill_piece(SkillId("replies"), "Replies", (ToolId("slack.post"),))
HAT = encoding.hat_piece(HatId("support"), "Support", (SkillId("replies"),))
ENCODED = encoding.tool_set("0" * 32, [HAT], [TOOL], [SKILL])
REFERENCE = encoding.tool_set_reference(ENCODED.version)
GRANTED_KEY = encoding.granted_key(KEY)


def granted(body: bytes) -> pb.Granted:
    """Parse a response, which must be a grant."""
    response = pb.AuthorizeResponse.FromString(body)
    assert response.WhichOneof("verdict") == "granted"
    return response.granted


def test_a_grant_of_a_tool_set_holds_all_of_it() -> None:
    """The key, its hats, their skills and the tools."""
    found = granted(encoding.granted(GRANTED_KEY, ENCODED.field))
    assert found.key == pb.KeyIdentity(
        id=str(KEY.id),
        type=key_pb2.KEY_TYPE_USER,
        workspace_id="acme",
        user_id="ada",
        description="Slack Bot",
        family_id=str(KEY.id),
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
    body = encoding.granted(GRANTED_KEY, REFERENCE)
    found = granted(body)
    assert found.WhichOneof("reach") == "tool_set_version"
    assert found.tool_set_version == ENCODED.version
    assert found.key == granted(encoding.granted(GRANTED_KEY, ENCODED.field)).key
    assert b"slack" not in body


def test_a_grant_of_one_tool_holds_its_ways() -> None:
    """In the given order, and nothing else of the tool set."""
    paths = (ToolPath(HatId("a"), SkillId("s")), ToolPath(HatId("b"), SkillId("r")))
    found = granted(encoding.granted(GRANTED_KEY, encoding.tool_grant_field(TOOL, paths, 7, ENCODED.version)))
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
    one = encoding.granted(GRANTED_KEY, REFERENCE)
    other = encoding.denied(Denied(DenialReason.UNKNOWN))
    found = pb.BatchAuthorizeResponse.FromString(encoding.batch([one, other, one], [ENCODED.field]))
    assert [response.SerializeToString() for response in found.responses] == [one, other, one]
    assert granted(one).tool_set_version == ENCODED.version
    assert list(found.tool_sets) == [pb.Granted.FromString(ENCODED.field).tool_set]
    assert pb.BatchAuthorizeResponse.FromString(encoding.batch([], [])) == pb.BatchAuthorizeResponse()


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
@given(catalogs(), REACHES)
def test_concatenated_responses_equal_those_that_protobuf_makes(catalog: Catalog, reach: Reach) -> None:
    """Byte for byte, so a response from memory looks like any other."""
    tools = encoded_of(catalog, reach)
    for each in (tools.field, encoding.tool_set_reference(tools.version)):
        body = encoding.granted(GRANTED_KEY, each)
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
