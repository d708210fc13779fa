"""Valid requests, and every text field in them: what tests of bad input start from."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from skilder.keys.v1 import (
    activity_service_pb2,
    audit_service_pb2,
    authorization_service_pb2,
    catalog_service_pb2,
    common_pb2,
    key_pb2,
    key_service_pb2,
    runtime_service_pb2,
    workspace_pb2,
)
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from google.protobuf.message import Message

    from skilder.keys.v1.workspace_pb2 import Workspace

_TOOL, _MEMBER = catalog_service_pb2.WORKSPACE_PART_TOOL, catalog_service_pb2.WORKSPACE_PART_MEMBER
_EXPIRIES: list[dict[str, Any]] = [
    {"expires_at": Timestamp(seconds=1_900_000_000)},
    {"lifetime": Duration(seconds=3600, nanos=5)},
]
_KEY_ID = "0198c2f4-7c3e-7a10-8f5e-3b1d2c4a5e6f"
_KEY_POLICY = workspace_pb2.KeyPolicy(
    max_lifetime=Duration(seconds=7_776_000),
    revoke_unused_after=Duration(seconds=7_776_000, nanos=5_000),
    max_active_keys_per_user=5,
    require_hat_limit=True,
    unique_descriptions=True,
)


_EVENTS = audit_service_pb2.EventFilter(
    key_id=_KEY_ID,
    user_id="bob",
    by=common_pb2.Principal(kind=common_pb2.PRINCIPAL_KIND_USER, id="ada"),
    actions=[audit_service_pb2.AUDIT_ACTION_KEY_ISSUED, audit_service_pb2.AUDIT_ACTION_KEY_REVOKED],
    after=Timestamp(seconds=1_600_000_000, nanos=5),
    before=Timestamp(seconds=1_800_000_000),
)


def valid_requests() -> dict[str, list[Message]]:
    """Return valid requests for every method, with every field set. None of them would change anything.

    Their workspaces, keys and actors do not exist in any test, and the workspace to apply has an impossible version.
    """
    order: dict[str, Any] = {
        "request_id": "r-1",
        "workspace_id": "nowhere",
        "description": "Slack Support Bot",
        "labels": {"team": "support", "example.com/env": ""},
        "actor": "nobody",
    }
    some_keys = key_service_pb2.KeyFilter(
        types=[key_pb2.KEY_TYPE_USER],
        states=[key_pb2.KEY_STATE_ACTIVE],
        user_ids=["bob", "ada"],
        runtime_ids=["runtime-7", "runtime-8"],
        created_by=common_pb2.Principal(kind=common_pb2.PRINCIPAL_KIND_USER, id="ada"),
        family_id=_KEY_ID,
        hint="WSK_4mBq8Jd41x",
        text="slack bot",
        labels=["team=support", "env"],
        created_after=Timestamp(seconds=1_600_000_000),
        created_before=Timestamp(seconds=1_800_000_000),
        expires_after=Timestamp(seconds=1_800_000_000),
        expires_before=Timestamp(seconds=1_900_000_000),
        unlimited=[key_pb2.KEY_LIMIT_HATS],
        unused_since=Timestamp(seconds=1_700_000_000, nanos=5),
        violating=[key_pb2.POLICY_RULE_MAX_LIFETIME],
    )
    some_activity = activity_service_pb2.ActivityFilter(
        key_id=_KEY_ID,
        family_id=_KEY_ID,
        user_id="ada",
        tool_id="web.search",
        caller="gateway",
        verdict=activity_service_pb2.VERDICT_DENIED,
        denial_reasons=[authorization_service_pb2.DENIAL_REASON_EXPIRED],
        after=Timestamp(seconds=1_700_000_000, nanos=5),
        before=Timestamp(seconds=1_700_086_400),
    )
    part_list: dict[str, Any] = {
        "workspace_id": "nowhere",
        "text": "slack desk",
        "page_size": 10,
        "page_token": "abc",
        "actor": "nobody",
    }
    limit = key_pb2.HatLimit(hat_ids=["everyone", "engineer"])
    name = common_pb2.ToolName(mcp_server="web", name="web_search")
    tools: list[dict[str, Any]] = [{"tool_id": "web.search"}, {"tool_name": name}]
    scopes: list[dict[str, Any]] = [
        {"tool_id": "web.search", "tool_set_version": "abc"},
        {"tool_name": name},
        {"mcp_server": "web"},
    ]
    issue, revoke = key_service_pb2.IssueKeyRequest, key_service_pb2.RevokeKeyRequest
    return {
        "KeyService/IssueKey": [
            issue(
                type=key_pb2.KEY_TYPE_USER,
                user_id="ada",
                hat_limit=limit,
                network_limit=key_pb2.NetworkLimit(networks=["10.0.0.0/8", "2001:db8::/32"]),
                expires_at=Timestamp(seconds=1_900_000_000),
                **order,
            ),
            issue(
                type=key_pb2.KEY_TYPE_WORKSPACE,
                unlimited=[key_pb2.KEY_LIMIT_HATS],
                lifetime=Duration(seconds=3600, nanos=5),
                **order,
            ),
            issue(
                type=key_pb2.KEY_TYPE_RUNTIME,
                runtime_id="runtime-7",
                previous_keys=key_service_pb2.PREVIOUS_KEYS_REVOKE,
                **order,
            ),
        ],
        "KeyService/RevokeKey": [
            revoke(key_id=_KEY_ID, reason="Leaked", actor="nobody", scope=key_service_pb2.REVOKE_SCOPE_FAMILY),
            revoke(token=f"WSK_{'0' * 71}", reason="Leaked", actor="nobody"),
        ],
        "KeyService/UpdateKey": [
            key_service_pb2.UpdateKeyRequest(
                key=key_pb2.Key(
                    id=_KEY_ID,
                    description="Bot",
                    hat_limit=limit,
                    network_limit=key_pb2.NetworkLimit(networks=["10.0.0.0/8"]),
                    labels={"team": "support"},
                    expires_at=Timestamp(seconds=1_900_000_000),
                ),
                update_mask=FieldMask(paths=["expires_at", "hat_limit", "network_limit", "labels", "description"]),
                expected_version=7,
                actor="nobody",
            ),
            key_service_pb2.UpdateKeyRequest(
                key=key_pb2.Key(id=_KEY_ID),
                update_mask=FieldMask(paths=["expires_at", "network_limit", "hat_limit"]),
                unlimited=[key_pb2.KEY_LIMIT_HATS, key_pb2.KEY_LIMIT_EXPIRY, key_pb2.KEY_LIMIT_NETWORKS],
                actor="nobody",
            ),
        ],
        "KeyService/SuspendKey": [
            key_service_pb2.SuspendKeyRequest(key_id=_KEY_ID, reason="Odd calls", actor="nobody")
        ],
        "KeyService/ResumeKey": [
            key_service_pb2.ResumeKeyRequest(key_id=_KEY_ID, reason="All was well", actor="nobody")
        ],
        "KeyService/RevokeKeys": [
            key_service_pb2.RevokeKeysRequest(
                workspace_id="nowhere",
                filter=some_keys,
                reason="Left",
                dry_run=dry_run,
                max_keys=5,
                actor="nobody",
            )
            for dry_run in (False, True)
        ],
        "KeyService/RotateKey": [
            key_service_pb2.RotateKeyRequest(
                request_id="r-1", key_id=_KEY_ID, grace=Duration(seconds=60), actor="nobody", **expiry
            )
            for expiry in _EXPIRIES
        ],
        "RuntimeService/RotateOwnKey": [
            # Longer than any key of a test lives.
            runtime_service_pb2.RotateOwnKeyRequest(
                request_id="r-1", grace=Duration(seconds=60), lifetime=Duration(seconds=300_000_000)
            )
        ],
        "KeyService/ListKeys": [
            key_service_pb2.ListKeysRequest(
                workspace_id="acme",
                filter=some_keys,
                order_by=key_service_pb2.KEY_ORDER_LEAST_RECENTLY_USED,
                page_size=10,
                page_token="abc",
                actor="nobody",
            )
        ],
        "KeyService/CountKeys": [
            key_service_pb2.CountKeysRequest(workspace_id="nowhere", filter=some_keys, actor="nobody")
        ],
        "KeyService/ExplainKey": [
            key_service_pb2.ExplainKeyRequest(
                key_id=_KEY_ID, source_ip="10.0.0.1", page_size=10, page_token="abc", actor="nobody", **tool
            )
            for tool in tools
        ],
        "KeyService/ListToolUsers": [
            key_service_pb2.ListToolUsersRequest(
                workspace_id="nowhere", page_size=10, page_token="abc", actor="nobody", **tool
            )
            for tool in tools
        ],
        "KeyService/GetKey": [key_service_pb2.GetKeyRequest(key_id=_KEY_ID, actor="nobody")],
        "ActivityService/ListActivity": [
            activity_service_pb2.ListActivityRequest(
                workspace_id="nowhere", filter=some_activity, page_size=10, page_token="abc", actor="nobody"
            ),
            activity_service_pb2.ListActivityRequest(
                filter=activity_service_pb2.ActivityFilter(caller="gateway"),
                unproven=True,
                page_token="abc",
                actor="nobody",
            ),
        ],
        "ActivityService/GetUsage": [
            activity_service_pb2.GetUsageRequest(
                workspace_id="nowhere",
                filter=some_activity,
                step=Duration(seconds=3600),
                group_by=activity_service_pb2.USAGE_GROUP_KEY,
                top=20,
                actor="nobody",
            )
        ],
        "CatalogService/ApplyWorkspace": [
            catalog_service_pb2.ApplyWorkspaceRequest(
                workspace=_full_workspace(), expected_version=7, actor="nobody", dry_run=dry_run, max_removals=5
            )
            for dry_run in (False, True)
        ],
        "CatalogService/UpdateWorkspace": [
            catalog_service_pb2.UpdateWorkspaceRequest(
                workspace_id="nowhere",
                expected_version=7,
                put=_all_parts(),
                remove=[catalog_service_pb2.PartRef(part=part, id="gone") for part in (_TOOL, _MEMBER)],
                dry_run=dry_run,
                actor="nobody",
            )
            for dry_run in (False, True)
        ],
        "CatalogService/GetWorkspace": [
            catalog_service_pb2.GetWorkspaceRequest(
                workspace_id="nowhere", actor="nobody", read_mask=FieldMask(paths=["id", "members"])
            )
        ],
        "CatalogService/ListWorkspaces": [
            catalog_service_pb2.ListWorkspacesRequest(
                page_size=10, page_token="abc", user_id="ada", actor="nobody", show_deleted=True
            )
        ],
        "CatalogService/ListMembers": [
            catalog_service_pb2.ListMembersRequest(
                team_id="support", role=workspace_pb2.MEMBER_ROLE_EDITOR, **part_list
            )
        ],
        "CatalogService/ListHats": [catalog_service_pb2.ListHatsRequest(user_id="ada", **part_list)],
        "CatalogService/ListTools": [
            catalog_service_pb2.ListToolsRequest(mcp_server="slack", skill_id="search", **part_list)
        ],
        "CatalogService/DeleteWorkspace": [
            catalog_service_pb2.DeleteWorkspaceRequest(workspace_id="nowhere", expected_version=7, actor="nobody")
        ],
        "AuditService/ListEvents": [
            audit_service_pb2.ListEventsRequest(
                workspace_id="nowhere", filter=_EVENTS, page_size=10, page_token="abc", actor="nobody"
            )
        ],
        "AuditService/FollowEvents": [
            audit_service_pb2.FollowEventsRequest(workspace_id="nowhere", filter=_EVENTS, cursor="abc", actor="nobody"),
            audit_service_pb2.FollowEventsRequest(workspace_id="nowhere", after_number=7, actor="nobody"),
        ],
        "AuthorizationService/Authorize": [
            authorization_service_pb2.AuthorizeRequest(
                token=f"WSK_{'0' * 71}", tool_id="web.search", tool_set_version="abc", source_ip="2001:db8::1"
            ),
            authorization_service_pb2.AuthorizeRequest(
                token=f"WSK_{'0' * 71}", tool_name=name, view=authorization_service_pb2.TOOL_SET_VIEW_BASIC
            ),
            authorization_service_pb2.AuthorizeRequest(
                token=f"WSK_{'0' * 71}", mcp_server="web", view=authorization_service_pb2.TOOL_SET_VIEW_FULL
            ),
        ],
        "AuthorizationService/BatchAuthorize": [
            authorization_service_pb2.BatchAuthorizeRequest(
                requests=[
                    authorization_service_pb2.AuthorizeRequest(token="no token"),
                    authorization_service_pb2.AuthorizeRequest(token=f"WSK_{'0' * 71}", source_ip="10.1.2.3", **scope),
                ]
            )
            for scope in scopes
        ],
        "AuthorizationService/ReadToolSet": [
            authorization_service_pb2.ReadToolSetRequest(
                request=authorization_service_pb2.AuthorizeRequest(
                    token=f"WSK_{'0' * 71}", tool_set_version="abc", source_ip="10.1.2.3"
                )
            ),
            authorization_service_pb2.ReadToolSetRequest(
                request=authorization_service_pb2.AuthorizeRequest(token=f"WSK_{'0' * 71}", mcp_server="web")
            ),
        ],
    }


def _full_workspace() -> Workspace:
    workspace = small_workspace("nowhere")
    workspace.teams[-1].parent_id = "customer"
    workspace.hats[-1].description = workspace.skills[-1].description = "What it is for"
    workspace.hats[-1].instructions = "What to do"
    workspace.key_policy.CopyFrom(_KEY_POLICY)
    return workspace


def _all_parts() -> catalog_service_pb2.WorkspaceParts:
    whole = _full_workspace()
    lists = {field.name: value for field, value in whole.ListFields() if field.is_repeated}
    return catalog_service_pb2.WorkspaceParts(name=whole.name, key_policy=_KEY_POLICY, **lists)


def with_each_text(request: Message, value: str) -> Iterator[tuple[str, Message]]:
    """Yield, for each text in the request, its path and the request with `value` in its place.

    Only the last part of each list is used, so that a bad reference is never reported before a bad id.
    """
    for path in _texts(request):
        changed = type(request)()
        changed.CopyFrom(request)
        *steps, (name, index) = path
        message: Any = changed
        for step, at in steps:
            message = getattr(message, step) if at is None else getattr(message, step)[at]
        if index is None:
            setattr(message, name, value)
        else:
            getattr(message, name)[index] = value
        yield ".".join(step if at is None else f"{step}[{at}]" for step, at in path), changed


_Path = list[tuple[str, int | None]]


def is_map(field: Any) -> bool:
    """Return whether a field is a map. Those of texts are labels, which have tests of their own."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def _texts(message: Message) -> Iterator[_Path]:
    for field, value in message.ListFields():
        if is_map(field):
            continue
        repeated = not isinstance(value, str) and hasattr(value, "append")
        index = len(value) - 1 if repeated else None
        step = [(field.name, index)]
        if field.type == FieldDescriptor.TYPE_STRING:
            yield step
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            for path in _texts(value[index] if repeated else value):
                yield step + path
