"""GetWorkspace with a mask: it returns, and reads, what the mask names and nothing else."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from skilder.keys.v1.workspace_pb2 import Workspace
from skilder_keys.domain.workspace import FIELDS
from tests.support.calls import delete_workspace, get_workspace
from tests.support.effects import whole_workspace
from tests.support.service import refusal
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    from skilder.keys.v1.catalog_service_pb2 import GetWorkspaceResponse
    from tests.support.service import Client, Service

pytestmark = GRPCIO_IF_SHORT


async def masked(client: Client, *names: str, **fields: Any) -> GetWorkspaceResponse:
    """Return the workspace `acme` by a mask."""
    return await get_workspace(client, read_mask=FieldMask(paths=names), **fields)


def test_a_mask_can_name_each_field_of_a_workspace() -> None:
    """And nothing else."""
    assert set(FIELDS) == set(Workspace.DESCRIPTOR.fields_by_name)


async def test_a_mask_chooses_the_fields(service: Service) -> None:
    """Each alone, some, and all of them; the version and the times always come."""
    workspace = whole_workspace()
    workspace.key_policy.require_hat_limit = True
    await service.operator.apply(workspace)
    whole = await get_workspace(service.operator)
    assert {field.name for field, _ in whole.workspace.ListFields()} == set(FIELDS)
    for names in (*((name,) for name in FIELDS), ("tools", "id"), ("hats", "teams", "hats"), FIELDS):
        expected: Any = deepcopy(whole)
        for name in set(FIELDS) - set(names):
            expected.workspace.ClearField(name)
        found = await masked(service.operator, *names)
        assert found == expected
        assert found.HasField("workspace")
        assert await masked(service.console, *names, actor="cyd") == expected


async def test_a_workspace_by_a_mask_is_not_applied_by_mistake(service: Service) -> None:
    """Without its id it is no workspace, so what the mask left out is not removed."""
    found = await masked(service.operator, "name", "members", "tools")
    refused = await refusal(service.operator.apply(found.workspace))
    assert "workspace.id" in refused.fields
    assert (await get_workspace(service.operator)).version == 1


@pytest.mark.parametrize(
    "wrong", ["*", "", "Members", "member", "members.user_id", "members.*", "version", "policy", "o'brien", "a b"]
)
async def test_what_is_no_field_is_refused(service: Service, wrong: str) -> None:
    """Even beside a name that is right; the error names it, and those that are allowed."""
    refused = await refusal(masked(service.operator, "members", wrong))
    assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
    assert list(refused.fields) == ["read_mask.paths[1]"]
    text = refused.fields["read_mask.paths[1]"]
    assert wrong in text
    assert text.endswith("allowed are id, name, members, teams, hats, skills, tools, key_policy")


async def test_a_mask_without_names_is_refused(service: Service) -> None:
    """It may have been computed, so it means neither everything nor nothing."""
    refused = await refusal(masked(service.operator))
    assert list(refused.fields) == ["read_mask"]
    assert "leave it out for all fields" in refused.fields["read_mask"]


async def test_a_mask_with_very_many_names_is_refused(service: Service) -> None:
    """Before any name is looked at."""
    assert (await masked(service.operator, *["id"] * 100)).workspace == Workspace(id="acme")
    refused = await refusal(masked(service.operator, *["id"] * 101))
    assert list(refused.fields) == ["read_mask.paths"]


async def test_a_mask_opens_nothing(service: Service) -> None:
    """Who may not see the workspace does not see its name either, and a deleted one is not found."""
    assert (await refusal(masked(service.console, "name", actor="mallory"))).reason == "ACTOR_NOT_MEMBER"
    assert (await refusal(masked(service.console, "name"))).reason == "ACTOR_REQUIRED"
    await delete_workspace(service.operator)
    assert (await refusal(masked(service.operator, "name"))).reason == "WORKSPACE_NOT_FOUND"
