"""Conversion between protobuf and domain: nothing is lost, and a value without meaning is refused by its field."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import catalog_service_pb2, common_pb2, key_pb2, workspace_pb2
from skilder.keys.v1 import key_service_pb2 as pb
from skilder.keys.v1.key_service_pb2 import IssueKeyRequest
from skilder_keys.domain.access import Caller, CallerRole
from skilder_keys.domain.difference import Action, Change, Part
from skilder_keys.domain.errors import InvalidRequestError
from skilder_keys.domain.ids import HatId, RuntimeId, SkillId, TeamId, ToolId, UserId, WorkspaceId
from skilder_keys.domain.key_filter import KeyFilter, KeyListing, KeyOrder
from skilder_keys.domain.key_policy import PolicyRule
from skilder_keys.domain.key_spec import KeySpec
from skilder_keys.domain.keys import KeyAction, KeyLimit, KeyState, Revocation
from skilder_keys.domain.labels import Label
from skilder_keys.domain.principal import Principal, PrincipalKind
from skilder_keys.domain.token import KeyType
from skilder_keys.domain.workspace import Hat, HatAudience, Member, MemberRole, Tool, WorkspaceStatus
from skilder_keys.domain.workspace_lists import ListedWorkspace
from skilder_keys.rpc import convert, convert_catalog_lists, convert_workspaces
from skilder_keys.rpc.convert_key_filters import key_filter, key_listing
from tests.support.plain_keys import plain_key
from tests.support.workspaces import example_workspace, small_workspace

ACME = WorkspaceId("acme")
NOW = datetime(2026, 7, 31, 12, 30, 15, 123456, tzinfo=UTC)
KEY = plain_key(created_at=NOW)
CALLER = Caller("console", CallerRole.CONSOLE)


def refused_field(convert_it: Any, message: Any) -> str:
    """Return the only field for which a message is refused."""
    with pytest.raises(InvalidRequestError) as caught:
        convert_it(message)
    (violation,) = caught.value.violations
    return violation.field


def refused_filter(**fields: Any) -> str:
    """Return the only field for which a filter is refused."""
    return refused_field(lambda message: key_filter("acme", message), pb.KeyFilter(**fields))


@pytest.mark.parametrize("message", [small_workspace(), example_workspace()], ids=["small", "example"])
def test_a_workspace_survives_the_round_trip(message: workspace_pb2.Workspace) -> None:
    """In both directions; only an audience that was left out comes back set."""
    workspace = convert_workspaces.workspace(message)
    status = WorkspaceStatus(workspace.id, workspace.name, 1, NOW, NOW, None)
    shown = catalog_service_pb2.GetWorkspaceResponse.FromString(
        convert_workspaces.get_response(status, workspace)
    ).workspace
    assert convert_workspaces.workspace(shown) == workspace
    for hat in message.hats:
        hat.audience = hat.audience or workspace_pb2.HAT_AUDIENCE_TEAMS
    assert shown == message


def test_a_hat_serves_its_teams_by_default() -> None:
    """An audience that is left out never means the whole workspace."""
    hats = [workspace_pb2.Hat(id=str(each), audience=each) for each in workspace_pb2.HatAudience.values()]
    found = convert_workspaces.workspace(workspace_pb2.Workspace(id="acme", hats=hats)).catalog.hats
    assert [hat.audience for hat in found] == [HatAudience.TEAMS, HatAudience.TEAMS, HatAudience.WORKSPACE]


@pytest.mark.parametrize("audience", [3, -1, 2**31 - 1])
def test_an_unknown_audience_is_refused_by_its_field(audience: Any) -> None:
    """One of a later version never becomes some other audience."""
    message = small_workspace()
    message.hats[1].audience = audience
    assert refused_field(convert_workspaces.workspace, message) == "workspace.hats[1].audience"


@pytest.mark.parametrize("role", [0, 4, -1, 2**31 - 1])
def test_an_unknown_role_is_refused_by_its_field(role: Any) -> None:
    """A role that is unset or of a later version never becomes some other role."""
    message = small_workspace()
    message.members[1].role = role
    assert refused_field(convert_workspaces.workspace, message) == "workspace.members[1].role"


def test_all_unknown_roles_are_reported_with_the_other_faults() -> None:
    """So a caller can fix them all at once."""
    message = small_workspace()
    message.name = ""
    for at in (0, 2):
        message.members[at].ClearField("role")
    message.hats[1].team_ids.append("gone")
    with pytest.raises(InvalidRequestError) as caught:
        convert_workspaces.workspace(message)
    fields = [
        "workspace.members[0].role",
        "workspace.members[2].role",
        "workspace.name",
        "workspace.hats[1].team_ids[1]",
    ]
    assert [each.field for each in caught.value.violations] == fields


@pytest.mark.parametrize("number", [0, 4, -1])
def test_an_unknown_key_type_is_refused(number: Any) -> None:
    """A type that is unset or of a later version is refused."""
    assert refused_field(convert.key_spec, IssueKeyRequest(type=number, workspace_id="acme")) == "type"


def test_a_key_spec_has_every_field_of_the_request() -> None:
    """An empty user or runtime becomes None."""
    request = IssueKeyRequest(type=key_pb2.KEY_TYPE_USER, workspace_id="acme", user_id="ada", description="x")
    spec = KeySpec(KeyType.USER, ACME, UserId("ada"), None, "x", None, ())
    assert convert.key_spec(request) == spec
    request.hat_limit.hat_ids.extend("ba")
    request.unlimited.append(key_pb2.KEY_LIMIT_HATS)
    both = replace(spec, hat_ids=(HatId("b"), HatId("a")), unlimited=(KeyLimit.HATS,))
    assert convert.key_spec(request) == both
    request.labels.update({"team": "support", "app": ""})
    both = replace(both, labels=(Label("app", ""), Label("team", "support")))
    assert convert.key_spec(request) == both
    request.expires_at.CopyFrom(convert.timestamp(NOW))
    assert convert.key_spec(request) == replace(both, expires_at=NOW)
    request.lifetime.FromTimedelta(timedelta(hours=12))
    assert convert.key_spec(request) == replace(both, lifetime=timedelta(hours=12))
    request = IssueKeyRequest(type=key_pb2.KEY_TYPE_RUNTIME, workspace_id="acme", runtime_id="rt-1")
    assert convert.key_spec(request) == KeySpec(KeyType.RUNTIME, ACME, None, RuntimeId("rt-1"), "", None, ())


def test_a_limit_without_hats_is_a_limit() -> None:
    """It is not taken for no limit."""
    request = IssueKeyRequest(type=key_pb2.KEY_TYPE_WORKSPACE, hat_limit=key_pb2.HatLimit())
    assert convert.key_spec(request).hat_ids == ()


@pytest.mark.parametrize("number", [0, 98, -1])
def test_an_unknown_limit_is_refused_by_its_place(number: Any) -> None:
    """It is neither left out nor taken for another one."""
    request = IssueKeyRequest(type=key_pb2.KEY_TYPE_USER, unlimited=[key_pb2.KEY_LIMIT_HATS, number])
    assert refused_field(convert.key_spec, request) == "unlimited[1]"


def test_a_filter_has_every_field_of_the_request() -> None:
    """A field that is unset filters nothing. A value that is there twice is there once."""
    assert key_filter("acme", pb.KeyFilter()) == KeyFilter(ACME)
    message = pb.KeyFilter(
        types=[key_pb2.KEY_TYPE_RUNTIME, key_pb2.KEY_TYPE_USER, key_pb2.KEY_TYPE_RUNTIME],
        user_ids=["ada", "ada"],
        states=[key_pb2.KEY_STATE_REVOKED],
        runtime_ids=["rt-1", "rt-2"],
        created_by=common_pb2.Principal(kind=common_pb2.PRINCIPAL_KIND_CALLER, id="console"),
        family_id="0198c2f4-7c3e-7a10-8f5e-3b1d2c4a5e6f",
        hint="WSK_0123456789",
        text="slack bot",
        labels=["team", "team", "a=b"],
        created_after=convert.timestamp(NOW),
        created_before=convert.timestamp(NOW + timedelta(days=1)),
        expires_after=convert.timestamp(NOW + timedelta(days=3)),
        expires_before=convert.timestamp(NOW + timedelta(days=4)),
        unused_since=convert.timestamp(NOW + timedelta(days=2)),
        unlimited=[key_pb2.KEY_LIMIT_HATS],
        violating=[key_pb2.POLICY_RULE_MAX_LIFETIME],
    )
    assert {field.name for field, _ in message.ListFields()} == {field.name for field in pb.KeyFilter.DESCRIPTOR.fields}
    assert key_filter("acme", message) == KeyFilter(
        ACME,
        types=(KeyType.RUNTIME, KeyType.USER),
        states=(KeyState.REVOKED,),
        user_ids=(UserId("ada"),),
        runtime_ids=(RuntimeId("rt-1"), RuntimeId("rt-2")),
        created_by=Principal(PrincipalKind.CALLER, "console"),
        family_id="0198c2f4-7c3e-7a10-8f5e-3b1d2c4a5e6f",
        hint="WSK_0123456789",
        text="slack bot",
        labels=("team", "a=b"),
        created_after=NOW,
        created_before=NOW + timedelta(days=1),
        expires_after=NOW + timedelta(days=3),
        expires_before=NOW + timedelta(days=4),
        unused_since=NOW + timedelta(days=2),
        unlimited=(KeyLimit.HATS,),
        violating=(PolicyRule.MAX_LIFETIME,),
    )


def test_an_order_that_is_not_set_is_newest_first() -> None:
    """An unknown one is refused."""
    request = pb.ListKeysRequest(workspace_id="acme")
    assert key_listing(request) == KeyListing(KeyFilter(ACME), KeyOrder.NEWEST)
    request.order_by = pb.KEY_ORDER_LEAST_RECENTLY_USED
    assert key_listing(request).order is KeyOrder.LEAST_RECENTLY_USED
    assert refused_field(key_listing, pb.ListKeysRequest(order_by=99)) == "order_by"  # type: ignore[arg-type] # unknown


@pytest.mark.parametrize("kind", [0, 99])
def test_a_principal_without_a_known_kind_is_refused(kind: Any) -> None:
    """A filter by it would find the keys of users, or of callers, or all."""
    assert refused_filter(created_by=common_pb2.Principal(kind=kind, id="ada")) == "filter.created_by.kind"


@pytest.mark.parametrize("field", ["types", "states"])
@pytest.mark.parametrize("number", [0, 98, 99, -1])
def test_an_unknown_filter_value_is_refused_by_its_place(field: str, number: int) -> None:
    """It is not treated as no filter, even if it is unspecified."""
    fields: dict[str, Any] = {field: [1, number]}
    assert refused_filter(**fields) == f"filter.{field}[1]"


@pytest.mark.parametrize(
    ("seconds", "nanos"), [(10**15, 0), (-(10**15), 0), (253402300800, 0), (2**63 - 1, 0), (0, -1), (0, 10**9)]
)
def test_an_invalid_time_is_refused_by_its_field(seconds: int, nanos: int) -> None:
    """A time outside the years 1 to 9999, or with invalid nanoseconds."""
    assert refused_filter(unused_since=Timestamp(seconds=seconds, nanos=nanos)) == "filter.unused_since"


@pytest.mark.parametrize("moment", [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC), NOW])
def test_a_time_survives_the_round_trip(moment: datetime) -> None:
    """To the microsecond, from the first to the last possible time. A filter at the epoch is still a filter."""
    message = pb.KeyFilter(unused_since=convert.timestamp(moment))
    assert key_filter("acme", message).unused_since == moment
    elsewhere = convert.timestamp(NOW.astimezone(timezone(timedelta(hours=-7))))
    assert elsewhere == convert.timestamp(NOW)
    early = pb.KeyFilter(
        created_before=Timestamp(seconds=1, nanos=1_001), created_after=Timestamp(seconds=1, nanos=999)
    )
    # A part of a microsecond is rounded up: nothing at 1.000001 s is at or after the first, all of it is before.
    assert key_filter("acme", early).created_after == datetime(1970, 1, 1, 0, 0, 1, 1, tzinfo=UTC)
    assert key_filter("acme", early).created_before == datetime(1970, 1, 1, 0, 0, 1, 2, tzinfo=UTC)
    epoch = pb.KeyFilter(unused_since=Timestamp())
    assert key_filter("acme", epoch).unused_since == datetime(1970, 1, 1, tzinfo=UTC)


def test_an_unused_active_key_leaves_out_unset_fields() -> None:
    """Times that never happened are unset, and a key without a limit has no limit field."""
    message = convert.key_message(KEY, CALLER)
    assert message == key_pb2.Key(
        id=str(KEY.id),
        type=key_pb2.KEY_TYPE_WORKSPACE,
        workspace_id="acme",
        description="a key",
        hint=KEY.hint,
        state=key_pb2.KEY_STATE_ACTIVE,
        created_at=convert.timestamp(NOW),
        created_by=common_pb2.Principal(kind=common_pb2.PRINCIPAL_KIND_USER, id="ada"),
        version=1,
        updated_at=convert.timestamp(NOW),
        family_id=str(KEY.id),
    )
    labelled = convert.key_message(replace(KEY, labels=(Label("a", "b"), Label("team", ""))), CALLER)
    assert labelled.labels == {"a": "b", "team": ""}


def test_a_used_limited_revoked_key_has_every_field() -> None:
    """A limit whose hats are all gone is still a limit."""
    later = NOW + timedelta(days=1)
    revocation = Revocation(later, Principal(PrincipalKind.CALLER, "console"), "it leaked")
    user, runtime, hats = UserId("ada"), RuntimeId("rt-1"), (HatId("a"), HatId("b"))
    key = replace(KEY, user_id=user, runtime_id=runtime, hat_ids=hats, last_used_at=later, revocation=revocation)
    key = replace(key, expires_at=later, expired=True, version=7, updated_at=later)
    message = convert.key_message(key, CALLER)
    assert message.expires_at == message.updated_at == convert.timestamp(later)
    assert message.version == 7
    assert (message.user_id, message.runtime_id) == ("ada", "rt-1")
    assert list(message.hat_limit.hat_ids) == ["a", "b"]
    assert message.last_used_at == message.revoked_at == convert.timestamp(later)
    assert message.state == key_pb2.KEY_STATE_REVOKED
    assert message.revoked_by == common_pb2.Principal(kind=common_pb2.PRINCIPAL_KIND_CALLER, id="console")
    assert message.revoke_reason == "it leaked"
    everything = replace(KEY, actions=tuple(KeyAction))
    assert list(convert.key_message(everything, CALLER).actions) == [1, 2, 3, 4, 5]
    assert not convert.key_message(everything, Caller("a", CallerRole.AUDITOR)).actions
    gone = convert.key_message(replace(KEY, hat_ids=()), CALLER)
    assert gone.HasField("hat_limit")
    assert not gone.hat_limit.hat_ids


@pytest.mark.parametrize("message", [small_workspace(), example_workspace()], ids=["small", "example"])
def test_a_workspace_is_measured_as_it_is_shown(message: workspace_pb2.Workspace) -> None:
    """To the byte."""
    workspace = convert_workspaces.workspace(message)
    status = WorkspaceStatus(workspace.id, workspace.name, 1, NOW, NOW, None)
    shown = catalog_service_pb2.GetWorkspaceResponse.FromString(
        convert_workspaces.get_response(status, workspace)
    ).workspace
    assert convert_workspaces.workspace_bytes(workspace) == shown.ByteSize()


@pytest.mark.parametrize("count", [0, 1, 9_999, 10_000, 10_001, 36_000])
@pytest.mark.parametrize("id_", ["x", "\U0001f916" * 255], ids=["short", "longest"])
def test_a_response_has_as_many_changes_as_fit(id_: str, count: int) -> None:
    """The first 10,000, or 3 MiB of them, and the number of all."""
    change = Change(Part.TOOL, id_, Action.REMOVED)
    body = convert_workspaces.apply_response(7, [change] * count)
    response = catalog_service_pb2.ApplyWorkspaceResponse.FromString(body)
    assert (response.version, response.change_count) == (7, count)
    assert (
        set(map(str, response.changes)) == {str(convert_workspaces.change_message(change))}
        if count
        else not response.changes
    )
    one = catalog_service_pb2.ApplyWorkspaceResponse(changes=[convert_workspaces.change_message(change)]).ByteSize()
    assert len(response.changes) == min(count, 10_000, 3 * 2**20 // one)
    assert len(body) <= 3 * 2**20 + 32


def test_a_summary_and_a_change_have_every_field() -> None:
    """Each domain field has its place in the message."""
    later = NOW + timedelta(days=1)
    status = WorkspaceStatus(ACME, "Acme", 7, NOW, later, later + timedelta(days=1))
    summary = convert_workspaces.summary_message(ListedWorkspace(status, MemberRole.EDITOR))
    assert summary == workspace_pb2.WorkspaceSummary(
        id="acme",
        name="Acme",
        version=7,
        created_at=convert.timestamp(NOW),
        updated_at=convert.timestamp(later),
        member_role=workspace_pb2.MEMBER_ROLE_EDITOR,
        deleted_at=convert.timestamp(later + timedelta(days=1)),
    )
    assert {field.name for field, _ in summary.ListFields()} == set(summary.DESCRIPTOR.fields_by_name)
    change = convert_workspaces.change_message(Change(Part.SKILL, "search", Action.REMOVED))
    assert change == catalog_service_pb2.WorkspaceChange(
        part=catalog_service_pb2.WORKSPACE_PART_SKILL, id="search", action=catalog_service_pb2.CHANGE_ACTION_REMOVED
    )


def test_a_summary_of_a_hat_is_no_hat() -> None:
    """It has the fields of a hat with their numbers, but not the instructions, which a copy would remove."""
    fields = {field.name: field.number for field in workspace_pb2.Hat.DESCRIPTOR.fields}
    assert {field.name: field.number for field in workspace_pb2.HatSummary.DESCRIPTOR.fields} == {
        name: number for name, number in fields.items() if name != "instructions"
    }


def test_the_elements_of_lists_have_every_field() -> None:
    """Each domain field has its place in the message; a hat leaves its instructions out."""
    hat = Hat(HatId("h"), "H", "D", "I", HatAudience.TEAMS, (TeamId("t"),), (SkillId("s"),))
    summary = convert_catalog_lists.hat_summary_message(hat)
    assert {field.name for field, _ in summary.ListFields()} == set(summary.DESCRIPTOR.fields_by_name)
    member = convert_workspaces.member_message(Member(UserId("ada"), MemberRole.ADMIN, (TeamId("t"),)))
    assert {field.name for field, _ in member.ListFields()} == set(member.DESCRIPTOR.fields_by_name)
    tool = convert_workspaces.tool_message(Tool(ToolId("t"), "T", "m", disabled=True))
    assert {field.name for field, _ in tool.ListFields()} == set(tool.DESCRIPTOR.fields_by_name)
