"""Ids of workspaces fit into URLs. A workspace of an older version keeps an id that does not, and stays usable."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import grpc
import pytest

from tests.support.calls import delete_workspace, get_key, get_workspace, list_keys, list_workspaces
from tests.support.rows import insert
from tests.support.service import refusal
from tests.support.shapes import canonical
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    import asyncpg

    from tests.support.service import Service

pytestmark = GRPCIO_IF_SHORT


@pytest.mark.parametrize("workspace_id", ["a", "0", "Acme_1.eu-west", "a" * 64])
async def test_a_new_id_has_letters_digits_and_three_signs(empty_service: Service, workspace_id: str) -> None:
    """And starts with a letter or digit."""
    assert (await empty_service.operator.apply(small_workspace(workspace_id))).version == 1
    assert (await get_workspace(empty_service.operator, workspace_id)).workspace.id == workspace_id


@pytest.mark.parametrize("character", "/:@+|")
async def test_another_sign_is_refused_where_a_workspace_is_made(empty_service: Service, character: str) -> None:
    """Also in a dry run; the error names the character. Nothing is made."""
    for dry_run in (True, False):
        refused = await refusal(empty_service.operator.apply(small_workspace(f"ac{character}me"), dry_run=dry_run))
        assert (refused.code, refused.reason) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_REQUEST")
        assert list(refused.fields) == ["workspace.id"]
        assert refused.fields["workspace.id"].startswith(f"is 'ac{character}me': character 3 is ")
        assert refused.fields["workspace.id"].endswith("; letters, digits and ._- are allowed, a letter or digit first")
    assert not (await list_workspaces(empty_service.operator)).workspaces


@pytest.mark.parametrize("character", "/:@+|")
async def test_the_other_ids_may_have_these_signs(empty_service: Service, character: str) -> None:
    """Those of teams, hats and skills."""
    workspace = small_workspace()
    id_ = f"a{character}b"
    workspace.teams.add(id=id_, name="T")
    workspace.skills.add(id=id_, name="S")
    workspace.hats.add(id=id_, name="H", team_ids=[id_], skill_ids=[id_])
    await empty_service.operator.apply(workspace)
    assert (await get_workspace(empty_service.operator)).workspace == canonical(workspace)


@pytest.mark.parametrize("workspace_id", ["team/acme", "urn:acme", "acme@eu", "a+b|c"])
async def test_an_older_workspace_stays_usable(
    empty_service: Service, sql: asyncpg.Connection[Any], workspace_id: str
) -> None:
    """It is applied, shown and listed, its keys are issued, listed and authorized, and it is deleted."""
    await insert(sql, "workspace", id=workspace_id, name="Old", version=3)
    client = empty_service.operator
    workspace = small_workspace(workspace_id)
    assert (await client.apply(workspace, dry_run=True)).version == 4
    assert (await client.apply(workspace)).version == 4
    assert (await client.apply(workspace)).version == 4
    assert (await get_workspace(client, workspace_id, actor="ada")).workspace == canonical(workspace)
    for actor in ("", "ada"):
        assert [each.id for each in (await list_workspaces(client, actor=actor)).workspaces] == [workspace_id]
    issued = await client.issue(workspace_id=workspace_id)
    assert (await get_key(client, issued.key.id)).workspace_id == workspace_id
    assert [each.id for each in (await list_keys(client, workspace_id=workspace_id)).keys] == [issued.key.id]
    granted = (await empty_service.service.authorize(issued.token)).granted
    assert (granted.key.workspace_id, len(granted.tool_set.hats)) == (workspace_id, 4)
    await delete_workspace(client, workspace_id)
    assert await empty_service.service.denial(issued.token) == "WORKSPACE_GONE"
    assert (await refusal(client.apply(workspace))).reason == "WORKSPACE_DELETED"
