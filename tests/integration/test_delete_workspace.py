"""DeleteWorkspace empties a workspace for good; only its name and its keys stay on record."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from skilder.keys.v1 import key_pb2
from tests.support.calls import delete_workspace, get_key, get_workspace, list_workspaces
from tests.support.service import Service, refusal
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

pytestmark = GRPCIO_IF_SHORT

PARTS = ("member", "team", "team_member", "hat", "hat_team", "hat_skill", "skill", "skill_tool", "tool")


async def test_a_deleted_workspace_is_gone(service: Service) -> None:
    """From the list and from GetWorkspace. Its keys are denied as such, and no key is issued there again."""
    await service.operator.apply(small_workspace("globex"))
    issued = await service.operator.issue(request_id="r-1")
    before = time.time()
    deleted_at = (await delete_workspace(service.operator)).deleted_at
    assert before - 1 < deleted_at.ToNanoseconds() / 1e9 < time.time() + 1
    assert [each.id for each in (await list_workspaces(service.operator)).workspaces] == ["globex"]
    gone = await refusal(get_workspace(service.operator))
    assert (gone.code, gone.reason) == (grpc.StatusCode.NOT_FOUND, "WORKSPACE_NOT_FOUND")
    assert await service.service.denial(issued.token) == "WORKSPACE_GONE"
    for request_id in ("", "r-1", "r-2"):
        refused = await refusal(service.operator.issue(request_id=request_id))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WORKSPACE_DELETED")


async def test_the_parts_are_deleted_and_the_keys_stay(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """No member and no part is kept; another workspace keeps everything."""
    issued = await service.operator.issue(hat_limit={"hat_ids": ["everyone"]})
    await service.operator.apply(small_workspace("globex"))
    await service.operator.issue(workspace_id="globex", hat_limit={"hat_ids": ["everyone"]})
    count = " UNION ALL ".join(f"SELECT '{table}', count(*) FROM {table} WHERE workspace_id = $1" for table in PARTS)  # noqa: S608
    before = dict(await sql.fetch(count, "globex"))
    assert dict(await sql.fetch(count, "acme")) == before
    assert min(before.values()) > 0
    await delete_workspace(service.operator)
    assert dict(await sql.fetch(count, "acme")) == dict.fromkeys(PARTS, 0)
    assert dict(await sql.fetch(count, "globex")) == before
    key = await get_key(service.operator, issued.key.id)
    assert (key.state, list(key.hat_limit.hat_ids)) == (key_pb2.KEY_STATE_WORKSPACE_GONE, ["everyone"])


async def test_deleting_again_changes_nothing(service: Service, sql: asyncpg.Connection[Any]) -> None:
    """The response is the same, whatever version is expected and whoever calls; the trail records it once."""
    first = await delete_workspace(service.operator)
    requests: list[dict[str, Any]] = [{}, {"expected_version": 1}, {"actor": "ada"}]
    assert [await delete_workspace(service.operator, **fields) for fields in requests] == [first] * 3
    assert await sql.fetchval("SELECT count(*) FROM audit_event WHERE action = 'workspace.deleted'") == 1
    assert await sql.fetchval("SELECT version FROM workspace") == 2


async def test_an_unknown_workspace_is_not_found(service: Service) -> None:
    """A malformed id is reported by its field."""
    unknown = await refusal(delete_workspace(service.operator, "nowhere"))
    assert (unknown.code, unknown.reason) == (grpc.StatusCode.NOT_FOUND, "WORKSPACE_NOT_FOUND")
    malformed = await refusal(delete_workspace(service.console, "", expected_version=-1, actor="no one "))
    assert malformed.code is grpc.StatusCode.INVALID_ARGUMENT
    assert malformed.fields == {
        "workspace_id": "is required",
        "expected_version": "is -1; 0 or more is allowed",
        "actor": "is 'no one ': character 7 is U+0020 SPACE at its end: leave it out",
    }


async def test_the_expected_version_guards_the_deletion(service: Service) -> None:
    """With another version than the current one it is refused, and nothing is deleted."""
    for wrong in (0, 2):
        refused = await refusal(delete_workspace(service.operator, expected_version=wrong))
        assert (refused.code, refused.reason) == (grpc.StatusCode.ABORTED, "VERSION_MISMATCH")
        assert refused.metadata == {"current_version": "1"}
    assert (await get_workspace(service.operator)).version == 1
    await delete_workspace(service.operator, expected_version=1)
    assert list((await list_workspaces(service.operator)).workspaces) == []


@pytest.mark.parametrize(
    ("actor", "reason"), [("bob", "ACTOR_NOT_ALLOWED"), ("cyd", "ACTOR_NOT_ALLOWED"), ("dan", "ACTOR_NOT_MEMBER")]
)
async def test_the_actor_must_be_an_admin(service: Service, actor: str, reason: str) -> None:
    """Nobody else deletes a workspace."""
    refused = await refusal(delete_workspace(service.operator, actor=actor))
    assert (refused.code, refused.reason) == (grpc.StatusCode.PERMISSION_DENIED, reason)
    assert (await get_workspace(service.operator)).version == 1
    assert (await delete_workspace(service.console, actor="ada")).HasField("deleted_at")
