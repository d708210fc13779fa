"""IssueKey: which key is issued, who may issue it, and what a retry does."""

from __future__ import annotations

import asyncio
import re
import time
from typing import TYPE_CHECKING, Any
from uuid import UUID

import grpc
import pytest

from skilder.keys.v1 import key_pb2, workspace_pb2
from skilder_keys.domain.token import Token
from tests.support.calls import caller, delete_workspace, get_key, remove, user
from tests.support.service import Client, Service, refusal
from tests.support.together import TOGETHER_IF_SHORT
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

pytestmark = GRPCIO_IF_SHORT

WORKSPACE: dict[str, Any] = {"type": key_pb2.KEY_TYPE_WORKSPACE}
USER: dict[str, Any] = {"type": key_pb2.KEY_TYPE_USER}
RUNTIME: dict[str, Any] = {"type": key_pb2.KEY_TYPE_RUNTIME, "runtime_id": "runtime-7"}
PREFIXES = {key_pb2.KEY_TYPE_WORKSPACE: "WSK", key_pb2.KEY_TYPE_USER: "USK", key_pb2.KEY_TYPE_RUNTIME: "RTK"}


async def actions(sql: asyncpg.Connection[Any]) -> list[str]:
    """Return what was done to keys, in order."""
    rows = await sql.fetch("SELECT action FROM audit_event WHERE key_id IS NOT NULL ORDER BY id")
    return [row["action"] for row in rows]


@pytest.mark.parametrize(
    "order",
    [
        pytest.param(WORKSPACE, id="workspace"),
        pytest.param(WORKSPACE | {"hat_limit": {"hat_ids": ["everyone", "engineer"]}, "actor": "ada"}, id="limited"),
        pytest.param(WORKSPACE | {"hat_limit": {"hat_ids": []}}, id="limited to no hat"),
        pytest.param(USER | {"user_id": "bob", "actor": "bob"}, id="user"),
        pytest.param(USER | {"user_id": "bob", "hat_limit": {"hat_ids": ["engineer"]}}, id="limited user"),
        pytest.param(RUNTIME, id="runtime"),
    ],
)
async def test_the_response_holds_the_whole_key(service: Service, order: dict[str, Any]) -> None:
    """Every field of the key, a token of its type and id, and GetKey returns the same key."""
    before = time.time()
    issued = await service.operator.issue(**order)
    assert re.fullmatch(rf"{PREFIXES[order['type']]}_[0-9A-Za-z]{{71}}", issued.token)
    token = Token.parse(issued.token)
    expected = key_pb2.Key(
        id=str(token.key_id),
        type=order["type"],
        workspace_id="acme",
        user_id=order.get("user_id", ""),
        runtime_id=order.get("runtime_id", ""),
        description="Slack Support Bot",
        hint=issued.token[:4] + issued.token[16:26],
        state=key_pb2.KEY_STATE_ACTIVE,
        created_at=issued.key.created_at,
        created_by=user(order["actor"]) if "actor" in order else caller("operator"),
        version=1,
        updated_at=issued.key.created_at,
        family_id=str(token.key_id),
        actions=[
            key_pb2.KEY_ACTION_UPDATE,
            key_pb2.KEY_ACTION_ROTATE,
            key_pb2.KEY_ACTION_SUSPEND,
            key_pb2.KEY_ACTION_REVOKE,
        ],
    )
    if order["type"] == key_pb2.KEY_TYPE_RUNTIME:
        expected.expires_at.CopyFrom(issued.key.created_at)
        expected.expires_at.seconds += 30 * 24 * 3600
    if "hat_limit" in order:
        expected.hat_limit.hat_ids.extend(sorted(order["hat_limit"]["hat_ids"]))
        expected.hat_limit.SetInParent()
    assert issued.key == expected
    assert before - 1 < issued.key.created_at.ToNanoseconds() / 1e9 < time.time() + 1
    assert (UUID(issued.key.id).version, UUID(issued.key.id).variant) == (7, "specified in RFC 4122")
    assert await get_key(service.operator, issued.key.id) == expected
    assert (await service.service.authorize(issued.token)).granted.key.id == issued.key.id


@pytest.mark.parametrize("description", ["x", "x" * 200, "\N{ROBOT FACE}" * 200, " inner and outer blanks ", "'; --"])
async def test_a_description_is_kept_as_it_is(service: Service, description: str) -> None:
    """1 to 200 characters, counted as people count them, not as bytes."""
    issued = await service.operator.issue(description=description)
    assert (await get_key(service.operator, issued.key.id)).description == description


@pytest.mark.parametrize(
    ("order", "faults"),
    [
        ({"description": ""}, {"description": "is required"}),
        ({"description": " "}, {"description": "is '<U+0020>', which has no visible character: write a text"}),
        ({"description": "x" * 201}, {"description": f"has 201 characters; at most 200 are allowed: '{'x' * 80}…'"}),
        (
            {"description": "two\nlines"},
            {
                "description": "is 'two<U+000A>lines': character 4 is U+000A LINE FEED, which is not allowed in a "
                "single line: leave it out"
            },
        ),
        ({"type": key_pb2.KEY_TYPE_UNSPECIFIED}, {"type": "is required"}),
        ({"workspace_id": ""}, {"workspace_id": "is required"}),
        (USER, {"user_id": "is required"}),
        ({"user_id": "bob"}, {"user_id": "is 'bob', but is for user keys only"}),
        ({"runtime_id": "r"}, {"runtime_id": "is 'r', but is for runtime keys only"}),
        ({"type": key_pb2.KEY_TYPE_RUNTIME}, {"runtime_id": "is required"}),
        (
            RUNTIME | {"hat_limit": {"hat_ids": ["everyone"]}},
            {"hat_limit": "must not be set: a runtime key has no tools"},
        ),
        ({"hat_limit": {"hat_ids": ["everyone", "everyone"]}}, {"hat_limit.hat_ids[1]": "names 'everyone' again"}),
        (
            {"hat_limit": {"hat_ids": [f"h{i}" for i in range(101)]}},
            {"hat_limit.hat_ids": "has 101 elements; at most 100 are allowed"},
        ),
        ({"hat_limit": {"hat_ids": ["everyone", ""]}}, {"hat_limit.hat_ids[1]": "is required"}),
        ({"request_id": "x" * 65}, {"request_id": f"has 65 characters; at most 64 are allowed: '{'x' * 65}'"}),
        (
            {"description": "", "user_id": "bob", "runtime_id": "r"},
            {
                "description": "is required",
                "user_id": "is 'bob', but is for user keys only",
                "runtime_id": "is 'r', but is for runtime keys only",
            },
        ),
    ],
)
@TOGETHER_IF_SHORT
async def test_all_fields_at_fault_are_reported(
    service: Service, order: dict[str, Any], faults: dict[str, str]
) -> None:
    """In one response."""
    refused = await refusal(service.operator.issue(**order))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert refused.fields == faults


async def test_hats_that_the_workspace_does_not_have_are_reported(service: Service) -> None:
    """Unknown ones, and those of another workspace, each by its index."""
    other = small_workspace("globex")
    other.hats.add(id="globex-only", name="Globex only")
    await service.operator.apply(other)
    refused = await refusal(
        service.operator.issue(hat_limit={"hat_ids": ["everyone", "globex-only", "engineer", "no-such-hat"]})
    )
    assert refused.code is grpc.StatusCode.INVALID_ARGUMENT
    assert refused.fields == {
        "hat_limit.hat_ids[1]": "names 'globex-only', which the workspace does not have",
        "hat_limit.hat_ids[3]": "names 'no-such-hat', which the workspace does not have",
    }


async def test_a_user_key_needs_a_member(service: Service) -> None:
    """The user is reported, together with other dangling references."""
    refused = await refusal(service.operator.issue(**USER, user_id="dan", hat_limit={"hat_ids": ["nope"]}))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert refused.fields == {
        "user_id": "names 'dan', who is not a member of the workspace",
        "hat_limit.hat_ids[0]": "names 'nope', which the workspace does not have",
    }


@pytest.mark.parametrize("actor", ["", "ada"])
async def test_an_unknown_and_a_deleted_workspace_have_different_errors(service: Service, actor: str) -> None:
    """One was never there, the other will never come back."""
    unknown = await refusal(service.operator.issue(workspace_id="nowhere", actor=actor))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "WORKSPACE_NOT_FOUND")
    await delete_workspace(service.operator)
    deleted = await refusal(service.operator.issue(actor=actor))
    assert (deleted.code, deleted.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WORKSPACE_DELETED")


@pytest.mark.parametrize(
    ("actor", "order", "reason"),
    [
        ("ada", WORKSPACE, None),
        ("ada", USER | {"user_id": "ada"}, None),
        ("ada", USER | {"user_id": "bob"}, "ACTOR_NOT_ALLOWED"),
        ("ada", RUNTIME, "ACTOR_NOT_ALLOWED"),
        ("bob", WORKSPACE, "ACTOR_NOT_ALLOWED"),
        ("bob", USER | {"user_id": "bob"}, None),
        ("bob", USER | {"user_id": "ada"}, "ACTOR_NOT_ALLOWED"),
        ("bob", RUNTIME, "ACTOR_NOT_ALLOWED"),
        ("cyd", WORKSPACE, "ACTOR_NOT_ALLOWED"),
        ("cyd", USER | {"user_id": "cyd"}, None),
        ("cyd", USER | {"user_id": "bob"}, "ACTOR_NOT_ALLOWED"),
        ("cyd", RUNTIME, "ACTOR_NOT_ALLOWED"),
        ("dan", WORKSPACE, "ACTOR_NOT_MEMBER"),
        ("dan", USER | {"user_id": "dan"}, "ACTOR_NOT_MEMBER"),
        ("dan", RUNTIME, "ACTOR_NOT_MEMBER"),
        ("eve", WORKSPACE, "ACTOR_NOT_MEMBER"),
        ("", WORKSPACE, None),
        ("", USER | {"user_id": "bob"}, None),
        ("", RUNTIME, None),
    ],
)
@TOGETHER_IF_SHORT
async def test_who_may_issue_which_keys(
    service: Service, actor: str, order: dict[str, Any], reason: str | None
) -> None:
    """Admins issue workspace keys, members their own user keys, nobody runtime keys; `dan` is of another workspace."""
    other = small_workspace("globex")
    other.members.add(user_id="dan", role=workspace_pb2.MEMBER_ROLE_ADMIN)
    await service.operator.apply(other)
    if reason is None:
        assert (await service.operator.issue(**order, actor=actor)).key.created_by == (
            user(actor) if actor else caller("operator")
        )
    else:
        refused = await refusal(service.operator.issue(**order, actor=actor))
        assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)


async def test_a_retry_before_the_first_use_returns_the_same_key_with_a_new_token(
    service: Service, sql: asyncpg.Connection[Any]
) -> None:
    """The first token, which may never have arrived, stops working; the trail records the renewal."""
    order = {"request_id": "r-1", "hat_limit": {"hat_ids": ["everyone", "engineer"]}, "actor": "ada"}
    first = await service.operator.issue(**order)
    again = await service.operator.issue(**order | {"hat_limit": {"hat_ids": ["engineer", "everyone"]}})
    assert again.key == first.key
    assert again.token != first.token
    assert Token.parse(again.token).key_id == Token.parse(first.token).key_id
    assert await service.service.denial(first.token) == "UNKNOWN"
    assert (await service.service.authorize(again.token)).granted.key.id == first.key.id
    assert await actions(sql) == ["key.issued", "key.renewed"]


async def test_a_retry_after_the_first_use_is_refused(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """The first response did arrive, so another secret would only break the agent. The error names the key."""
    first = await service.operator.issue(request_id="r-1")
    assert await service.service.denial(first.token, tool_id="no.such.tool") == "TOOL_NOT_ALLOWED"
    refused = await refusal(service.operator.issue(request_id="r-1"))
    assert (refused.code, refused.reason) == (grpc.StatusCode.ALREADY_EXISTS, "REQUEST_USED")
    assert refused.metadata == {"key_id": first.key.id}
    assert (await service.service.authorize(first.token)).HasField("granted")
    assert await actions(sql) == ["key.issued"]


async def test_a_retry_after_the_revocation_is_refused(service: Service) -> None:
    """A revoked key never comes back, used or not."""
    for request_id in ("unused", "used"):
        first = await service.operator.issue(request_id=request_id)
        if request_id == "used":
            await service.service.authorize(first.token)
        await service.operator.revoke(key_id=first.key.id)
        refused = await refusal(service.operator.issue(request_id=request_id))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "REQUEST_REVOKED")
        assert refused.metadata == {"key_id": first.key.id}
        assert await service.service.denial(first.token) == "REVOKED"


@pytest.mark.parametrize(
    "change",
    [
        {"description": "Another bot"},
        {"hat_limit": {"hat_ids": ["engineer"]}},
        {"hat_limit": {"hat_ids": []}},
        {"actor": ""},
        {"workspace_id": "globex"},
        USER | {"user_id": "ada"},
    ],
)
async def test_a_request_id_is_valid_for_one_request(service: Service, change: dict[str, Any]) -> None:
    """With any other argument it is refused, even after the first key was used, and that key stays as it is."""
    await service.operator.apply(small_workspace("globex"))
    order = {"request_id": "r-1", "hat_limit": {"hat_ids": ["everyone"]}, "actor": "ada"}
    first = await service.operator.issue(**order)
    for _ in range(2):
        refused = await refusal(service.operator.issue(**order | change))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert list(refused.fields) == ["request_id"]
        assert (await service.service.authorize(first.token)).HasField("granted")


async def test_a_retry_is_recognized_after_its_hat_was_removed(service: Service) -> None:
    """It is refused because of the missing hat, and the first token stays valid."""
    order = {"request_id": "r-1", "hat_limit": {"hat_ids": ["everyone", "engineer"]}}
    first = await service.operator.issue(**order)
    workspace = small_workspace()
    remove(workspace.hats, "engineer")
    await service.operator.apply(workspace)
    assert list((await refusal(service.operator.issue(**order))).fields) == ["hat_limit.hat_ids[1]"]
    assert list((await refusal(service.operator.issue(**order | {"hat_limit": {"hat_ids": ["everyone"]}}))).fields) == [
        "request_id"
    ]
    assert (await service.service.authorize(first.token)).HasField("granted")


async def test_a_request_whose_hat_came_back_can_be_retried(service: Service) -> None:
    """It returns the same key with its whole limit."""
    order = {"request_id": "r-1", "hat_limit": {"hat_ids": ["everyone", "engineer"]}}
    first = await service.operator.issue(**order)
    workspace = small_workspace()
    remove(workspace.hats, "engineer")
    await service.operator.apply(workspace)
    await service.operator.apply(small_workspace())
    again = await service.operator.issue(**order)
    assert (again.key.id, list(again.key.hat_limit.hat_ids)) == (first.key.id, ["engineer", "everyone"])
    assert await service.service.denial(first.token) == "UNKNOWN"
    granted = (await service.service.authorize(again.token)).granted
    assert [hat.id for hat in granted.tool_set.hats] == ["engineer", "everyone"]


async def test_two_callers_have_separate_request_ids(service: Service) -> None:
    """The same id from the operator and the console issues two keys, and each can retry."""
    clients: list[Client] = [service.operator, service.console]
    first = [await client.issue(request_id="r-1", actor="ada") for client in clients]
    again = [await client.issue(request_id="r-1", actor="ada") for client in clients]
    assert [each.key.id for each in again] == [each.key.id for each in first]
    assert len({each.key.id for each in first}) == 2


async def test_calls_without_a_request_id_issue_a_key_each(service: Service) -> None:
    """Nothing distinguishes a call from a retry."""
    issued = await asyncio.gather(*(service.operator.issue() for _ in range(10)))
    assert len({each.key.id for each in issued}) == 10


async def test_identical_requests_at_once_issue_one_key(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """All get the same key, and exactly one of their tokens is valid."""
    issued = await asyncio.gather(*(service.operator.issue(request_id="r-1") for _ in range(10)))
    assert len({each.key.id for each in issued}) == 1
    assert len({each.token for each in issued}) == 10
    decisions = [await service.service.authorize(each.token) for each in issued]
    assert sorted(each.WhichOneof("verdict") or "" for each in decisions) == ["denied"] * 9 + ["granted"]
    assert await actions(sql) == ["key.issued"] + ["key.renewed"] * 9
    assert await sql.fetchval("SELECT count(*) FROM key") == 1
