"""The largest workspace through every method and the command line; one byte more is refused.

In the short form, it has all of its bytes in fewer parts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from skilder.keys.v1 import catalog_service_pb2 as pb
from skilder_keys.domain.workspace_checks import MAX_BYTES
from tests.support.calls import call, delete_workspace, get_workspace, list_workspaces
from tests.support.largest import full_workspace, largest_workspace
from tests.support.lengths import by_form
from tests.support.person import Person
from tests.support.service import TOKENS, refusal
from tests.support.shapes import canonical
from tests.support.transport import GRPCIO_IF_SHORT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Service

pytestmark = [GRPCIO_IF_SHORT, pytest.mark.long]

WHOLE = [("grpc.max_receive_message_length", 16 * 2**20)]
"""What a client of GetWorkspace needs. All other responses fit into the default, 4 MiB."""


async def test_the_largest_workspace_goes_through_every_method(patient: Service, tmp_path: Path) -> None:
    """Checked, applied, shown, changed in every part, listed, shown and applied by the command line, and deleted."""
    whole = await patient.client(TOKENS["operator"], options=WHOLE)
    share = by_form(10, 1)
    first, second = (largest_workspace("largest", version, share=share) for version in (0, 1))
    parts = 1_000 + (10_000 + 1_000 + 5_000 + 20_000) // share
    steps = (
        (first, True, 1, parts + 1),
        (first, False, 1, parts + 1),
        (first, False, 1, 0),
        (second, True, 2, parts),
        (second, False, 2, parts),
    )
    for workspace, dry_run, version, count in by_form((steps[1], steps[4]), steps):
        request = pb.ApplyWorkspaceRequest(workspace=workspace, dry_run=dry_run, actor="user-000000")
        response = pb.ApplyWorkspaceResponse.FromString(
            await call(patient.operator, "CatalogService/ApplyWorkspace", request)
        )
        assert (response.version, response.change_count) == (version, count)
        assert len(response.changes) == min(count, 10_000)
    shown = await get_workspace(whole, "largest", actor="user-000000")
    assert (shown.workspace.ByteSize(), shown.workspace) == (MAX_BYTES, canonical(second))
    listed = await list_workspaces(patient.operator, actor="user-000000")
    assert [each.id for each in listed.workspaces] == ["largest"]
    person = Person(patient, tmp_path)
    forms: tuple[tuple[tuple[str, ...], tuple[str, ...]], ...] = (((), ()), (("--json",), ("--dry-run",)))
    for form, options in by_form(forms[1:], forms):
        printed = await person.script("show", "largest", *form)
        assert printed.returncode == 0, printed.stderr
        back = await person.script("apply", "-", *options, stdin=printed.stdout)
        assert (back.returncode, back.stderr) == (0, "")
        assert back.stdout.endswith("at version 2: nothing differed.\n")
    await delete_workspace(patient.operator, "largest", actor="user-000000")


async def test_one_byte_more_is_refused(patient: Service) -> None:
    """Also in a dry run, with both numbers; what there is stays as it is."""
    workspace = full_workspace("largest")
    workspace.name += "!"
    for dry_run in by_form((True,), (True, False)):
        refused = await refusal(patient.operator.apply(workspace, dry_run=dry_run))
        assert (refused.code, refused.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "WORKSPACE_TOO_LARGE")
        assert refused.metadata == {"bytes": str(MAX_BYTES + 1), "limit": str(MAX_BYTES)}
    assert not (await list_workspaces(patient.operator)).workspaces
    workspace.name = "Ful"
    await patient.operator.apply(workspace)
    workspace.name = "Full!"
    assert (await refusal(patient.operator.apply(workspace))).reason == "WORKSPACE_TOO_LARGE"
    shown = await get_workspace(await patient.client(TOKENS["operator"], options=WHOLE), "largest")
    assert (shown.version, shown.workspace.name) == (1, "Ful")


async def test_what_is_left_out_counts_too(patient: Service) -> None:
    """The bytes are those that GetWorkspace would return, with the audience of each hat."""
    workspace = full_workspace("largest")
    for hat in workspace.hats:
        hat.ClearField("audience")
    workspace.hats[0].instructions += "i" * 20
    assert workspace.ByteSize() < MAX_BYTES
    refused = await refusal(patient.operator.apply(workspace))
    assert (refused.reason, refused.metadata["bytes"]) == ("WORKSPACE_TOO_LARGE", str(MAX_BYTES + 20))
