"""For each method, requests that do something or are refused, with every field set somewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1.activity_service_pb2 import (
    USAGE_GROUP_KEY,
    VERDICT_DENIED,
    ActivityFilter,
    GetUsageRequest,
    ListActivityRequest,
)
from skilder.keys.v1.audit_service_pb2 import (
    AUDIT_ACTION_KEY_ISSUED,
    AUDIT_ACTION_KEY_REVOKED,
    EventFilter,
    FollowEventsRequest,
    ListEventsRequest,
)
from skilder.keys.v1.authorization_service_pb2 import (
    DENIAL_REASON_TOOL_NOT_ALLOWED,
    DENIAL_REASON_UNKNOWN,
    TOOL_SET_VIEW_FULL,
    AuthorizeRequest,
    BatchAuthorizeRequest,
    ReadToolSetRequest,
)
from skilder.keys.v1.catalog_service_pb2 import (
    WORKSPACE_PART_MEMBER,
    WORKSPACE_PART_TOOL,
    ApplyWorkspaceRequest,
    DeleteWorkspaceRequest,
    GetWorkspaceRequest,
    ListHatsRequest,
    ListMembersRequest,
    ListToolsRequest,
    ListWorkspacesRequest,
    PartRef,
    UpdateWorkspaceRequest,
    WorkspaceParts,
)
from skilder.keys.v1.common_pb2 import PRINCIPAL_KIND_CALLER, Principal, ToolName
from skilder.keys.v1.key_pb2 import (
    KEY_LIMIT_EXPIRY,
    KEY_LIMIT_HATS,
    KEY_LIMIT_NETWORKS,
    KEY_STATE_ACTIVE,
    KEY_TYPE_RUNTIME,
    KEY_TYPE_USER,
    KEY_TYPE_WORKSPACE,
    POLICY_RULE_MAX_LIFETIME,
    HatLimit,
    Key,
    KeyLimit,
    NetworkLimit,
)
from skilder.keys.v1.key_service_pb2 import (
    KEY_ORDER_LEAST_RECENTLY_USED,
    PREVIOUS_KEYS_KEEP,
    REVOKE_SCOPE_FAMILY,
    CountKeysRequest,
    ExplainKeyRequest,
    GetKeyRequest,
    IssueKeyRequest,
    KeyFilter,
    ListKeysRequest,
    ListToolUsersRequest,
    ResumeKeyRequest,
    RevokeKeyRequest,
    RevokeKeysRequest,
    RotateKeyRequest,
    SuspendKeyRequest,
    UpdateKeyRequest,
)
from skilder.keys.v1.runtime_service_pb2 import RotateOwnKeyRequest
from skilder.keys.v1.workspace_pb2 import (
    MEMBER_ROLE_ADMIN,
    MEMBER_ROLE_EDITOR,
    KeyPolicy,
    Member,
    Workspace,
)
from skilder_keys.domain.key_update import FIELDS as UPDATABLE
from tests.support.activity_facts import Fact, insert_facts, insert_unproven
from tests.support.calls import get_workspace, list_keys, remove
from tests.support.effects import (
    NEAR,
    SOURCES,
    Case,
    World,
    counted,
    deleted,
    explained,
    followed,
    let_through,
    listed,
    power_of_the_changed_key,
    power_of_the_key,
    power_of_the_successor,
    read,
    resumed,
    revoked,
    send,
    state_of_the_workspace,
    suspended,
    used,
    whole_workspace,
)
from tests.support.sql import connected
from tests.support.updates import update
from tests.support.variants import fields_of

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from google.protobuf.message import Message

# A rule that is left out does not hold. That changes nothing that the cases measure, as it decides about no old key.
_POLICY = KeyPolicy(
    max_lifetime=Duration(seconds=7_776_000, nanos=5_000),
    revoke_unused_after=Duration(seconds=7_776_000, nanos=5_000),
    max_active_keys_per_user=5,
    require_hat_limit=True,
    unique_descriptions=True,
)
_PAST = Timestamp(seconds=1, nanos=5)
_NOWHERE = NetworkLimit(networks=["192.0.2.128/25"])
_FUTURE = Timestamp(seconds=4_000_000_000, nanos=5)
_NEXT_YEAR = Timestamp(seconds=int(time.time()) + 365 * 86400, nanos=5)


async def _one_tool(world: World, tool_id: str = "slack.history") -> AuthorizeRequest:
    return AuthorizeRequest(token=world.narrow, tool_id=tool_id, tool_set_version=await world.version(world.narrow))


async def _tool_out_of_reach(world: World) -> Message:
    return await _one_tool(world, "git.commit")


async def _near(world: World, source_ip: str = NEAR) -> AuthorizeRequest:
    return AuthorizeRequest(token=world.near, tool_id="slack.history", source_ip=source_ip)


async def _elsewhere(world: World) -> Message:
    return await _near(world, "192.0.2.1")


async def _by_name(
    world: World, mcp_server: str = "slack", name: str = "slack_get_channel_history"
) -> AuthorizeRequest:
    return AuthorizeRequest(token=world.narrow, tool_name=ToolName(mcp_server=mcp_server, name=name))


async def _name_out_of_reach(world: World) -> Message:
    return await _by_name(world, "git", "git_commit")


async def _a_server(world: World) -> AuthorizeRequest:
    """Return a request about one server, by a token that reaches others too."""
    return AuthorizeRequest(token=world.probes["cyd"], mcp_server="git", view=TOOL_SET_VIEW_FULL)


async def _a_set(world: World) -> AuthorizeRequest:
    return AuthorizeRequest(token=world.wide, tool_set_version=await world.version(world.wide))


async def _batch(world: World) -> Message:
    return BatchAuthorizeRequest(requests=[await _one_tool(world), await _a_set(world), await _near(world)])


async def _tool_set_near(world: World) -> Message:
    return ReadToolSetRequest(request=AuthorizeRequest(token=world.near, source_ip=NEAR))


async def _batch_of_variants(world: World) -> Message:
    return BatchAuthorizeRequest(requests=[await _by_name(world), await _a_server(world)])


async def _tool_set(world: World) -> Message:
    return ReadToolSetRequest(request=await _a_set(world))


async def _tool_set_of_a_server(world: World) -> Message:
    return ReadToolSetRequest(request=await _a_server(world))


def _issue(**fields: Any) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        return IssueKeyRequest(
            request_id=world.new("request"), workspace_id="acme", description="Slack Support Bot", **fields
        )

    return make


_PATHS = {
    KEY_LIMIT_HATS: "hat_limit",
    KEY_LIMIT_NETWORKS: "network_limit",
    KEY_LIMIT_EXPIRY: "expires_at",
}


def _update_key(
    *unlimited: KeyLimit.ValueType, actor: str = "ada", version: int | None = None, **fields: Any
) -> Callable[[World], Awaitable[Message]]:
    """Return what makes a request that widens a key of no hats and an unused network that expires in a day."""
    paths = [*fields, *(_PATHS[each] for each in unlimited)]

    async def make(world: World) -> Message:
        issued = await world.service.operator.issue(
            hat_limit=HatLimit(), network_limit=_NOWHERE, lifetime=Duration(seconds=86400)
        )
        world.probes[issued.key.id] = issued.token
        return UpdateKeyRequest(
            key=Key(id=issued.key.id, **fields),
            update_mask=FieldMask(paths=paths),
            unlimited=unlimited,
            expected_version=version,
            actor=actor,
        )

    return make


async def _suspend(world: World, actor: str = "ada") -> Message:
    name = world.new("target")
    issued = await world.service.operator.issue(description=name, unlimited=[KEY_LIMIT_HATS])
    return SuspendKeyRequest(key_id=issued.key.id, reason=name, actor=actor)


async def _suspend_by_bob(world: World) -> Message:
    return await _suspend(world, "bob")


async def _resume(world: World, actor: str = "ada") -> Message:
    name = world.new("target")
    issued = await world.service.operator.issue(
        type=KEY_TYPE_USER, user_id="bob", description=name, unlimited=[KEY_LIMIT_HATS]
    )
    await world.service.operator.keys.SuspendKey(SuspendKeyRequest(key_id=issued.key.id))
    return ResumeKeyRequest(key_id=issued.key.id, reason=name, actor=actor)


async def _resume_by_bob(world: World) -> Message:
    return await _resume(world, "bob")


def _rotate(actor: str, order: dict[str, Any], **fields: Any) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        issued = await world.service.operator.issue(lifetime=Duration(seconds=7200), **order)
        return RotateKeyRequest(
            request_id=world.new("request"),
            key_id=issued.key.id,
            grace=Duration(seconds=60, nanos=5000),
            actor=actor,
            **fields,
        )

    return make


async def _rotate_own(world: World) -> Message:
    return RotateOwnKeyRequest(
        request_id=world.new("request"),
        grace=Duration(seconds=60, nanos=5000),
        lifetime=Duration(seconds=3600, nanos=5000),
    )


def _revoke(*, by_token: bool, actor: str = "ada", **fields: Any) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        name = world.new("target")
        issued = await world.service.operator.issue(description=name, unlimited=[KEY_LIMIT_HATS])
        target: Any = {"token": issued.token} if by_token else {"key_id": issued.key.id}
        return RevokeKeyRequest(reason=name, actor=actor, **target, **fields)

    return make


_POST = ToolName(mcp_server="slack", name="slack_post_message")


async def _revoke_many(world: World, *, actor: str = "ada", **fields: Any) -> RevokeKeysRequest:
    name = world.new("target")
    await world.service.operator.issue(
        type=KEY_TYPE_USER,
        user_id="bob",
        description=name,
        unlimited=[KEY_LIMIT_HATS],
        labels={"team": "support", "env": ""},
        lifetime=Duration(seconds=10_000_000),
    )
    request = RevokeKeysRequest(workspace_id="acme", filter=_FILTER, reason=name, max_keys=1, actor=actor, **fields)
    request.filter.text = name
    return request


async def _revoke_many_dry(world: World) -> Message:
    return await _revoke_many(world, dry_run=True)


async def _revoke_many_by_a_member(world: World) -> Message:
    return await _revoke_many(world, actor="cyd")


async def _revoke_by_hint(world: World) -> Message:
    name = world.new("target")
    issued = await world.service.operator.issue(description=name)
    some = KeyFilter(hint=issued.key.hint)
    return RevokeKeysRequest(workspace_id="acme", filter=some, reason=name, max_keys=1, actor="ada")


async def _revoke_by_family(world: World) -> Message:
    name = world.new("target")
    issued = await world.service.operator.issue(description=name)
    some = KeyFilter(family_id=issued.key.family_id)
    return RevokeKeysRequest(workspace_id="acme", filter=some, reason=name, max_keys=1, actor="ada")


async def _revoke_of_a_runtime(world: World) -> Message:
    name = world.new("target")
    await world.service.operator.issue(type=KEY_TYPE_RUNTIME, runtime_id=name, description=name)
    some = KeyFilter(runtime_ids=[name])
    return RevokeKeysRequest(workspace_id="acme", filter=some, reason=name, max_keys=1, actor="ada")


# Keys that were issued before have no expiry. Those that are issued under it get one, so it refuses none.
_LONG_LIVES = KeyPolicy(max_lifetime=Duration(seconds=300_000_000))


async def _breaking_a_rule(world: World) -> KeyFilter:
    await update(world.service.operator, put=WorkspaceParts(key_policy=_LONG_LIVES))
    return KeyFilter(violating=[POLICY_RULE_MAX_LIFETIME])


async def _revoke_breaking_a_rule(world: World) -> Message:
    name, client = world.new("target"), world.service.operator
    await update(client, put=WorkspaceParts(key_policy=KeyPolicy()))
    await client.issue(description=name)
    some = await _breaking_a_rule(world)
    some.text = name
    return RevokeKeysRequest(workspace_id="acme", filter=some, reason=name, max_keys=1, actor="ada")


async def _keys_breaking_a_rule(world: World) -> Message:
    return ListKeysRequest(workspace_id="acme", filter=await _breaking_a_rule(world), actor="ada")


async def _count_breaking_a_rule(world: World) -> Message:
    return CountKeysRequest(workspace_id="acme", filter=await _breaking_a_rule(world), actor="ada")


_FILTER = KeyFilter(
    types=[KEY_TYPE_WORKSPACE, KEY_TYPE_USER],
    states=[KEY_STATE_ACTIVE],
    user_ids=["bob"],
    created_by=Principal(kind=PRINCIPAL_KIND_CALLER, id="operator"),
    text="slack bot",
    labels=["team=support", "env"],
    created_after=_PAST,
    created_before=_FUTURE,
    expires_after=_PAST,
    expires_before=_FUTURE,
    unused_since=_FUTURE,
    unlimited=[KEY_LIMIT_HATS],
)
_RUNTIMES = KeyFilter(runtime_ids=["runtime-1", "runtime-2"])


async def _keys(_: World) -> Message:
    order: Any = {"order_by": KEY_ORDER_LEAST_RECENTLY_USED}
    return ListKeysRequest(workspace_id="acme", filter=_FILTER, page_size=2, actor="ada", **order)


async def _runtimes(_: World) -> Message:
    return ListKeysRequest(workspace_id="acme", filter=_RUNTIMES, actor="ada")


async def _by_family(world: World) -> Message:
    (page,) = await send(world.service.console, "KeyService/ListKeys", await _own_keys(world))
    return ListKeysRequest(workspace_id="acme", filter=KeyFilter(family_id=page.keys[0].family_id), actor="ada")


async def _count_by_family(world: World) -> Message:
    request: Any = await _by_family(world)
    return CountKeysRequest(workspace_id="acme", filter=request.filter, actor="ada")


async def _by_hint(world: World) -> Message:
    (page,) = await send(world.service.console, "KeyService/ListKeys", await _own_keys(world))
    return ListKeysRequest(workspace_id="acme", filter=KeyFilter(hint=page.keys[0].hint), actor="ada")


async def _count_runtimes(_: World) -> Message:
    return CountKeysRequest(workspace_id="acme", filter=_RUNTIMES, actor="ada")


async def _count_by_hint(world: World) -> Message:
    request: Any = await _by_hint(world)
    return CountKeysRequest(workspace_id="acme", filter=request.filter, actor="ada")


async def _more_keys(world: World) -> Message:
    request = ListKeysRequest(workspace_id="acme", filter=_FILTER, page_size=2, actor="ada")
    (page,) = await send(world.service.console, "KeyService/ListKeys", request)
    request.page_token = page.next_page_token
    return request


async def _own_keys(_: World) -> Message:
    return ListKeysRequest(workspace_id="acme", actor="bob")


async def _count(_: World) -> Message:
    return CountKeysRequest(workspace_id="acme", filter=_FILTER, actor="ada")


async def _own_count(_: World) -> Message:
    return CountKeysRequest(workspace_id="acme", actor="bob")


def _key(actor: str) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        (page,) = await send(world.service.console, "KeyService/ListKeys", await _own_keys(world))
        return GetKeyRequest(key_id=page.keys[0].id, actor=actor)

    return make


def _explained(actor: str, *, more: bool = False, **fields: Any) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        (page,) = await send(world.service.console, "KeyService/ListKeys", await _own_keys(world))
        request = ExplainKeyRequest(key_id=page.keys[0].id, source_ip="10.0.0.1", actor=actor, page_size=1, **fields)
        if more:
            (found,) = await send(world.service.console, "KeyService/ExplainKey", request)
            request.page_token = found.next_page_token
        return request

    return make


def _tool_users(*, more: bool = False, **fields: Any) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        request = ListToolUsersRequest(workspace_id="acme", **fields)
        if more:
            (page,) = await send(world.service.console, "KeyService/ListToolUsers", request)
            request.page_token = page.next_page_token
        return request

    return make


async def _activity(world: World) -> ActivityFilter:
    """Write activity of two keys, and return a filter for a part of that of the first."""
    keys = (await list_keys(world.service.operator, filter=KeyFilter(types=[KEY_TYPE_USER], user_ids=["bob"]))).keys
    runtime = (await list_keys(world.service.operator, filter=KeyFilter(types=[KEY_TYPE_RUNTIME]))).keys[0]
    minute = int(time.time()) // 60 - 5
    async with connected(world.service.database_url) as sql:
        if not await sql.fetchval("SELECT EXISTS (SELECT FROM activity_minute)"):
            facts = [
                Fact(minute - ago, UUID(key.id), tool, caller, outcome, count=3)
                for key in (keys[0], runtime)
                for ago in (0, 1, 7)
                for tool in ("slack.post", "web.search")
                for caller in ("gateway", "console")
                for outcome in (0, DENIAL_REASON_TOOL_NOT_ALLOWED)
            ]
            await insert_facts(sql, facts)
            await insert_unproven(sql, minute, ["gateway", "console"], DENIAL_REASON_UNKNOWN, "USK_4mBq8Jd41x")
    return ActivityFilter(
        key_id=keys[0].id,
        family_id=keys[0].id,
        user_id="bob",
        tool_id="slack.post",
        caller="gateway",
        verdict=VERDICT_DENIED,
        denial_reasons=[DENIAL_REASON_TOOL_NOT_ALLOWED],
        after=Timestamp(seconds=(minute - 2) * 60 - 1, nanos=5),
        before=Timestamp(seconds=(minute + 1) * 60 - 1, nanos=5),
    )


def _list_activity(
    *, filtered: bool = False, more: bool = False, **fields: Any
) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        wanted = await _activity(world)
        request = ListActivityRequest(workspace_id="acme", filter=wanted if filtered else None, **fields)
        if more:
            (page,) = await send(world.service.console, "ActivityService/ListActivity", request)
            assert page.next_page_token
            request.page_token = page.next_page_token
        return request

    return make


async def _unproven(world: World) -> Message:
    await _activity(world)
    wanted = ActivityFilter(caller="gateway", denial_reasons=[DENIAL_REASON_UNKNOWN])
    return ListActivityRequest(unproven=True, filter=wanted)


def _usage(*, filtered: bool = False, **fields: Any) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        wanted = await _activity(world)
        return GetUsageRequest(
            workspace_id="acme", filter=wanted if filtered else None, step=Duration(seconds=60), **fields
        )

    return make


def _apply(*more: Member, shorter: bool = False, **fields: Any) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        workspace = whole_workspace()
        workspace.members.extend(more)
        workspace.key_policy.CopyFrom(_POLICY)
        if shorter:
            del workspace.members[-1]
        version = (await get_workspace(world.service.operator)).version
        defaults: dict[str, Any] = {"expected_version": version, "actor": "ada", "max_removals": 0}
        return ApplyWorkspaceRequest(workspace=workspace, **defaults | fields)

    return make


def _update(**fields: Any) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        version = (await get_workspace(world.service.operator)).version
        lists = {field.name: value for field, value in whole_workspace().ListFields() if field.is_repeated}
        removed = [(WORKSPACE_PART_TOOL, "git.commit"), (WORKSPACE_PART_MEMBER, "cyd")]
        put = WorkspaceParts(name="Another name", key_policy=_POLICY, **lists)
        defaults: dict[str, Any] = {"expected_version": version, "actor": "ada", "put": put}
        request = UpdateWorkspaceRequest(workspace_id="acme", **defaults | fields)
        remove(request.put.tools, "git.commit")
        remove(request.put.members, "cyd")
        request.put.skills[-1].tool_ids.remove("git.commit")
        request.remove.extend(PartRef(part=part, id=id_) for part, id_ in removed)
        return request

    return make


def _get_workspace(actor: str, *names: str) -> Callable[[World], Awaitable[Message]]:
    async def make(_: World) -> Message:
        mask = FieldMask(paths=names) if names else None
        return GetWorkspaceRequest(workspace_id="acme", actor=actor, read_mask=mask)

    return make


def _workspaces(*, more: bool = False, **fields: Any) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        request = ListWorkspacesRequest(page_size=1, **fields)
        if more:
            (page,) = await send(world.service.operator, "CatalogService/ListWorkspaces", request)
            request.page_token = page.next_page_token
        return request

    return make


def _part_list(
    kind: type[Message], method: str, *, more: bool = False, **fields: Any
) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        request: Any = kind(**{"workspace_id": "acme"} | fields)
        if more:
            (page,) = await send(world.service.console, method, request)
            assert page.next_page_token
            request.page_token = page.next_page_token
        return request  # type: ignore[no-any-return]

    return make


def _delete(version: int = 1, actor: str = "ada") -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        id_ = world.new("doomed")
        members = [Member(user_id="ada", role=MEMBER_ROLE_ADMIN), Member(user_id="bob", role=MEMBER_ROLE_EDITOR)]
        await world.service.operator.apply(Workspace(id=id_, name="Doomed", members=members))
        return DeleteWorkspaceRequest(workspace_id=id_, expected_version=version, actor=actor)

    return make


_DISABLED = "ApplyWorkspace is exact: a tool without `disabled` is switched on, as a tool that is not sent is removed."
_PUT = "A part that is put is the whole part, so a tool without `disabled` is put as one that is switched on."
_STAYS = "What is not removed stays as it was before the call: a removal that is left out gives nobody anything new."
_DRY_RUN = "A call without `dry_run` is meant to change something (AIP-163)."
_SERVER = "A scope that is not set asks about everything, which the kind of reach says too; an empty one is refused."
_NO_EXPIRY = "A key without an expiry is meant to live until it is revoked. A time or length of zero is refused."
_ANYWHERE = "A key without networks is meant to be used from anywhere. A limit without a network is refused."
_GUARD = "A guard that is left out does not guard. Without `max_removals`, half of the parts is still the most."
_ADMIN = Member(user_id="eve", role=MEMBER_ROLE_ADMIN)
_WORKSPACE_KEY: dict[str, Any] = {"type": KEY_TYPE_WORKSPACE, "unlimited": [KEY_LIMIT_HATS]}
_LIMIT = HatLimit(hat_ids=["customer-care", "engineer", "everyone"])
_OWN_LIMIT = HatLimit(hat_ids=["support-desk"])
_BOBS_KEY: dict[str, Any] = {"type": KEY_TYPE_USER, "user_id": "bob", "hat_limit": _OWN_LIMIT}
_RUNTIME_KEY: dict[str, Any] = {"type": KEY_TYPE_RUNTIME, "runtime_id": "r", "previous_keys": PREVIOUS_KEYS_KEEP}


def _cases(method: str, caller: str, measure: Any, *kinds: tuple[str, Any, dict[str, Any]]) -> Iterator[Case]:
    for name, make, more in kinds:
        yield Case(method, name, caller, make, measure, **more)


def _part_list_cases(kind: type[Message], parts: str, narrow: dict[str, Any]) -> Iterator[Case]:
    method = f"CatalogService/List{parts.title()}"
    return _cases(
        method,
        "console",
        listed,
        ("chosen", _part_list(kind, method, actor="cyd", **narrow), {"narrows": tuple(narrow)}),
        ("second page", _part_list(kind, method, more=True, actor="ada", page_size=1), {}),
        ("by nobody", _part_list(kind, method, actor="nobody"), {"refused": True}),
    )


async def _some_events(world: World) -> EventFilter:
    (page,) = await send(world.service.console, "KeyService/ListKeys", await _own_keys(world))
    return EventFilter(
        key_id=page.keys[-1].id,
        user_id="bob",
        by=Principal(kind=PRINCIPAL_KIND_CALLER, id="operator"),
        actions=[AUDIT_ACTION_KEY_ISSUED, AUDIT_ACTION_KEY_REVOKED],
        after=_PAST,
        before=_FUTURE,
    )


def _events(actor: str, *, more: bool = False) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        request = ListEventsRequest(workspace_id="acme", actor=actor, page_size=1)
        if more:
            (page,) = await send(world.service.console, "AuditService/ListEvents", request)
            request.page_token = page.next_page_token
        else:
            request.filter.CopyFrom(await _some_events(world))
        return request

    return make


def _follow(actor: str) -> Callable[[World], Awaitable[Message]]:
    async def make(world: World) -> Message:
        some = await _some_events(world)
        return FollowEventsRequest(workspace_id="acme", filter=some, after_number=0, actor=actor)

    return make


async def _follow_all(world: World) -> Message:
    everything = FollowEventsRequest(all_workspaces=True)
    (response,) = await send(world.service.operator, "AuditService/FollowEvents", everything)
    await world.service.operator.issue(description=world.new("followed"))
    return FollowEventsRequest(all_workspaces=True, cursor=response.cursor)


CASES = [
    *_cases(
        "AuditService/ListEvents",
        "console",
        listed,
        ("by an admin", _events("ada"), {"narrows": ("filter",)}),
        ("second page", _events("ada", more=True), {}),
        ("by a member", _events("bob"), {"refused": True}),
    ),
    *_cases(
        "AuditService/FollowEvents",
        "console",
        followed,
        ("by an admin", _follow("ada"), {"narrows": ("filter",)}),
        ("by a member", _follow("bob"), {"refused": True}),
    ),
    *_cases("AuditService/FollowEvents", "operator", followed, ("of all workspaces", _follow_all, {})),
    *_cases(
        "AuthorizationService/Authorize",
        "service",
        let_through,
        ("about a tool", _one_tool, {}),
        ("about everything", _a_set, {}),
        ("about a tool out of reach", _tool_out_of_reach, {"refused": True}),
        ("from where it is allowed", _near, {}),
        ("from elsewhere", _elsewhere, {"refused": True}),
        ("about a tool by its name", _by_name, {}),
        ("about a name out of reach", _name_out_of_reach, {"refused": True}),
        ("about a server", _a_server, {"narrows": ("mcp_server",)}),
    ),
    *_cases(
        "AuthorizationService/BatchAuthorize",
        "service",
        let_through,
        ("about both", _batch, {}),
        ("about variants", _batch_of_variants, {"meant": {"requests.mcp_server": _SERVER}}),
    ),
    *_cases(
        "AuthorizationService/ReadToolSet",
        "service",
        let_through,
        ("about everything", _tool_set, {}),
        ("from where it is allowed", _tool_set_near, {}),
        ("about a server", _tool_set_of_a_server, {"meant": {"request.mcp_server": _SERVER}}),
    ),
    *_cases(
        "KeyService/IssueKey",
        "console",
        power_of_the_key,
        (
            "of a workspace",
            _issue(
                type=KEY_TYPE_WORKSPACE,
                actor="ada",
                hat_limit=_LIMIT,
                network_limit=SOURCES,
                expires_at=_NEXT_YEAR,
                labels={"team": "support", "env": ""},
            ),
            {"meant": {"expires_at": _NO_EXPIRY, "network_limit": _ANYWHERE}},
        ),
        (
            "without a limit",
            _issue(actor="ada", lifetime=Duration(seconds=90, nanos=5), **_WORKSPACE_KEY),
            {"meant": {"lifetime": _NO_EXPIRY}},
        ),
        ("of a user", _issue(type=KEY_TYPE_USER, user_id="bob", actor="bob", hat_limit=_OWN_LIMIT), {}),
        ("by a member", _issue(actor="bob", **_WORKSPACE_KEY), {"refused": True}),
        ("of a runtime by a person", _issue(type=KEY_TYPE_RUNTIME, runtime_id="r", actor="ada"), {"refused": True}),
    ),
    *_cases(
        "KeyService/IssueKey",
        "operator",
        power_of_the_key,
        (
            "of a runtime",
            _issue(type=KEY_TYPE_RUNTIME, runtime_id="runtime-7", previous_keys=PREVIOUS_KEYS_KEEP),
            {},
        ),
    ),
    *_cases(
        "KeyService/RotateKey",
        "console",
        power_of_the_key,
        ("of a workspace", _rotate("ada", {"hat_limit": _LIMIT}, expires_at=_NEXT_YEAR), {}),
        ("of a user", _rotate("bob", _BOBS_KEY, lifetime=Duration(seconds=90, nanos=5)), {}),
        ("of another user", _rotate("ada", _BOBS_KEY), {"refused": True}),
        ("by a member", _rotate("bob", {"hat_limit": _LIMIT}), {"refused": True}),
        ("of a runtime by a person", _rotate("ada", _RUNTIME_KEY), {"refused": True}),
    ),
    *_cases("RuntimeService/RotateOwnKey", "of a runtime", power_of_the_successor, ("its own", _rotate_own, {})),
    *_cases(
        "KeyService/RevokeKey",
        "console",
        revoked,
        ("by id", _revoke(by_token=False), {}),
        ("by token", _revoke(by_token=True), {}),
        ("of a family", _revoke(by_token=False, scope=REVOKE_SCOPE_FAMILY), {}),
        ("by a member", _revoke(by_token=False, actor="bob"), {"refused": True}),
    ),
    *_cases(
        "KeyService/UpdateKey",
        "console",
        power_of_the_changed_key,
        (
            "by values",
            _update_key(
                description="Another",
                expires_at=_NEXT_YEAR,
                hat_limit=_LIMIT,
                network_limit=SOURCES,
                labels={"team": "a"},
            ),
            {},
        ),
        ("without limits", _update_key(KEY_LIMIT_HATS, KEY_LIMIT_NETWORKS, KEY_LIMIT_EXPIRY), {}),
        (
            "at another version",
            _update_key(KEY_LIMIT_HATS, KEY_LIMIT_NETWORKS, version=99),
            {"refused": True, "meant": {"expected_version": _GUARD}},
        ),
        ("by a member", _update_key(KEY_LIMIT_HATS, actor="bob"), {"refused": True}),
    ),
    *_cases(
        "KeyService/SuspendKey",
        "console",
        suspended,
        ("by an admin", _suspend, {}),
        ("by a member", _suspend_by_bob, {"refused": True}),
    ),
    *_cases(
        "KeyService/ResumeKey",
        "console",
        resumed,
        ("by an admin", _resume, {}),
        ("by a member", _resume_by_bob, {"refused": True}),
    ),
    *_cases(
        "KeyService/RevokeKeys",
        "console",
        revoked,
        ("with a filter", _revoke_many, {}),
        ("as a dry run", _revoke_many_dry, {"refused": True, "meant": {"dry_run": _DRY_RUN}}),
        ("by hint", _revoke_by_hint, {}),
        ("by family", _revoke_by_family, {}),
        ("of a runtime", _revoke_of_a_runtime, {}),
        ("that break a rule", _revoke_breaking_a_rule, {}),
        ("by a member", _revoke_many_by_a_member, {"refused": True}),
    ),
    *_cases(
        "KeyService/ListKeys",
        "console",
        listed,
        ("first page", _keys, {"narrows": ("filter",)}),
        ("second page", _more_keys, {"narrows": ("filter",)}),
        ("of runtimes", _runtimes, {"narrows": ("filter",)}),
        ("by hint", _by_hint, {"narrows": ("filter",)}),
        ("by family", _by_family, {"narrows": ("filter",)}),
        ("that break a rule", _keys_breaking_a_rule, {"narrows": ("filter",)}),
        ("of a member", _own_keys, {}),
    ),
    *_cases(
        "KeyService/CountKeys",
        "console",
        counted,
        ("with a filter", _count, {"narrows": ("filter",)}),
        ("of runtimes", _count_runtimes, {"narrows": ("filter",)}),
        ("by hint", _count_by_hint, {"narrows": ("filter",)}),
        ("by family", _count_by_family, {"narrows": ("filter",)}),
        ("that break a rule", _count_breaking_a_rule, {"narrows": ("filter",)}),
        ("of a member", _own_count, {}),
    ),
    *_cases(
        "KeyService/ExplainKey",
        "console",
        explained,
        ("of a member", _explained("bob"), {}),
        ("second page", _explained("bob", more=True), {}),
        ("about a tool", _explained("bob", tool_id="slack.post"), {"narrows": ("tool_id",)}),
        ("about a name", _explained("bob", tool_name=_POST), {"narrows": ("tool_name",)}),
        ("of another member", _explained("cyd"), {"refused": True}),
    ),
    *_cases(
        "KeyService/ListToolUsers",
        "console",
        listed,
        ("by an admin", _tool_users(actor="ada", tool_id="slack.history"), {}),
        ("by the name of the tool", _tool_users(actor="ada", tool_name=_POST), {}),
        ("second page", _tool_users(more=True, actor="ada", tool_id="slack.history", page_size=1), {}),
        ("by a member", _tool_users(actor="bob", tool_id="slack.history"), {}),
        ("by nobody", _tool_users(actor="nobody", tool_id="slack.history"), {"refused": True}),
    ),
    *_cases(
        "ActivityService/ListActivity",
        "console",
        listed,
        ("chosen", _list_activity(filtered=True, actor="ada"), {"narrows": ("filter",)}),
        ("second page", _list_activity(more=True, page_size=1, actor="ada"), {}),
        ("of a member", _list_activity(actor="bob"), {}),
        ("by nobody", _list_activity(actor="nobody"), {"refused": True}),
    ),
    *_cases(
        "ActivityService/ListActivity",
        "operator",
        listed,
        ("of tokens without a key", _unproven, {"narrows": ("filter",)}),
    ),
    *_cases(
        "ActivityService/GetUsage",
        "console",
        used,
        ("chosen", _usage(filtered=True, group_by=USAGE_GROUP_KEY, top=1, actor="ada"), {"narrows": ("filter",)}),
        ("of a member", _usage(group_by=USAGE_GROUP_KEY, top=1, actor="bob"), {}),
        ("by nobody", _usage(actor="nobody"), {"refused": True}),
    ),
    *_cases(
        "KeyService/GetKey",
        "console",
        read,
        ("of a member", _key("bob"), {}),
        ("of another member", _key("cyd"), {"refused": True}),
    ),
    *_cases(
        "CatalogService/ApplyWorkspace",
        "console",
        state_of_the_workspace,
        ("the same", _apply(), {"meant": {"workspace.tools.disabled": _DISABLED}}),
        ("as a dry run", _apply(_ADMIN, dry_run=True), {"meant": {"dry_run": _DRY_RUN}, "shallow": True}),
        ("with too many removals", _apply(shorter=True), {"meant": {"max_removals": _GUARD}, "shallow": True}),
        (
            "at another version",
            _apply(_ADMIN, expected_version=99),
            {"meant": {"expected_version": _GUARD}, "shallow": True},
        ),
        ("by a member", _apply(_ADMIN, actor="bob"), {"shallow": True}),
    ),
    *_cases(
        "CatalogService/UpdateWorkspace",
        "console",
        state_of_the_workspace,
        ("of everything", _update(), {"meant": {"put.tools.disabled": _PUT, "remove": _STAYS}}),
        ("as a dry run", _update(dry_run=True), {"meant": {"dry_run": _DRY_RUN}, "shallow": True}),
        (
            "at another version",
            _update(expected_version=99),
            {"meant": {"expected_version": _GUARD}, "shallow": True},
        ),
        ("by a member", _update(actor="bob"), {"shallow": True}),
    ),
    *_cases(
        "CatalogService/GetWorkspace",
        "console",
        read,
        ("by a member", _get_workspace("bob"), {}),
        ("with a mask", _get_workspace("bob", "members", "name"), {"narrows": ("read_mask",)}),
        ("by nobody", _get_workspace("nobody"), {"refused": True}),
    ),
    *_cases(
        "CatalogService/ListWorkspaces",
        "console",
        listed,
        ("first page", _workspaces(actor="ada"), {}),
        ("second page", _workspaces(more=True, actor="ada"), {}),
        ("of another user", _workspaces(user_id="bob", actor="ada"), {"narrows": ("user_id",)}),
    ),
    *_cases("CatalogService/ListWorkspaces", "operator", listed, ("deleted too", _workspaces(show_deleted=True), {})),
    *_part_list_cases(ListMembersRequest, "members", {"text": "b", "team_id": "support", "role": MEMBER_ROLE_EDITOR}),
    *_part_list_cases(ListHatsRequest, "hats", {"text": "support desk", "user_id": "bob"}),
    *_part_list_cases(
        ListToolsRequest, "tools", {"text": "slack HISTORY", "mcp_server": "slack", "skill_id": "slack-replies"}
    ),
    *_cases(
        "CatalogService/DeleteWorkspace",
        "console",
        deleted,
        ("by an admin", _delete(), {}),
        ("at another version", _delete(99), {"refused": True, "meant": {"expected_version": _GUARD}}),
        ("by a member", _delete(actor="bob"), {"refused": True}),
    ),
]

REFUSED_FIELDS = {
    "AuthorizationService/ReadToolSet": dict.fromkeys(
        ("request.tool_id", "request.tool_name", "request.tool_name.mcp_server", "request.tool_name.name"),
        "ReadToolSet sends everything, so it refuses a tool.",
    ),
    "ActivityService/GetUsage": {"step.nanos": "A step is a whole minute, hour or day."},
    "KeyService/UpdateKey": {
        f"key.{path}": "UpdateKey refuses what cannot be changed."
        for path in fields_of(Key.DESCRIPTOR)
        if path.partition(".")[0] not in {"id", *UPDATABLE}
    },
}
"""Fields that no request of a method may set, so that no case can have them, and why."""
