"""Workspace files as customers write them, through the real command, and back."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from skilder.keys.v1.workspace_pb2 import HAT_AUDIENCE_WORKSPACE, MEMBER_ROLE_ADMIN
from tests.support.calls import get_workspace
from tests.support.cases import FOLDER, MORE_IDS, MORE_TEXTS, TAKEN_TEXTS, TAKEN_TOOL_IDS, TAKEN_USER_IDS
from tests.support.process import run_command
from tests.support.service import TOKENS
from tests.support.transport import GRPCIO_IF_SHORT
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.service import Service

pytestmark = GRPCIO_IF_SHORT

FILES = sorted((FOLDER / "workspaces").iterdir())
REFUSED = {"07-hr-export.yaml"}


async def run(service: Service, folder: Path, *arguments: str, stdin: str = "") -> Any:
    """Run a command as the operator and return the finished process."""
    (folder / "token").write_text(TOKENS["operator"])
    variables = {"SKILDER_KEYS_SERVER": service.address, "SKILDER_KEYS_TOKEN_FILE": "token"}
    return await asyncio.to_thread(run_command, *arguments, folder=folder, stdin=stdin, **variables)


def test_the_case_files_are_found() -> None:
    """Those to apply, and the one to refuse."""
    assert len(FILES) >= 6
    assert {path.name for path in FILES} >= REFUSED


@pytest.mark.parametrize("path", [path for path in FILES if path.name not in REFUSED], ids=lambda path: path.stem)
async def test_files_of_customers_are_applied_and_shown(empty_service: Service, path: Path, tmp_path: Path) -> None:
    """Whatever program wrote them. Applied again, as they are or as shown, nothing differs."""
    applied = await run(empty_service, tmp_path, "workspace", "apply", str(path), "--json")
    assert (applied.returncode, applied.stderr) == (0, "")
    workspace_id = json.loads(applied.stdout)["changes"][0]["id"]
    again = await run(empty_service, tmp_path, "workspace", "apply", str(path))
    assert "nothing differed" in again.stdout, again.stderr
    shown = await run(empty_service, tmp_path, "workspace", "show", workspace_id)
    back = await run(empty_service, tmp_path, "workspace", "apply", "-", stdin=shown.stdout)
    assert "nothing differed" in back.stdout, back.stderr


async def test_a_refused_file_names_the_entries(empty_service: Service, tmp_path: Path) -> None:
    """With the file, the line, the value as written, and what to do."""
    path = FOLDER / "workspaces" / "07-hr-export.yaml"
    done = await run(empty_service, tmp_path, "workspace", "apply", str(path))
    assert done.returncode == 2
    for line, index, value in ((4, 0, "0104233"), (5, 1, "104234"), (6, 2, "204235")):
        reported = f"{path}:{line}: members[{index}] '{value}': user_id: {value} without quotes is a number in YAML"
        assert reported in done.stderr
        assert f'quote it: "{value}"' in done.stderr
    mended = path.read_text("utf-8")
    for value in ("0104233", " 104234", "204235"):
        mended = mended.replace(value.strip() if value[0] != " " else value, f' "{value.strip()}"', 1)
    done = await run(empty_service, tmp_path, "workspace", "apply", "-", stdin=mended)
    assert done.returncode == 0, done.stderr
    members = (await get_workspace(empty_service.operator, "hr")).workspace.members
    assert {each.user_id for each in members} == {"0104233", "104234", "204235", "boss"}


async def test_every_text_and_id_goes_through_show_and_apply(empty_service: Service, tmp_path: Path) -> None:
    """As YAML and as JSON, including texts that YAML would read as something else: nothing differs."""
    workspace = small_workspace()
    ids = dict.fromkeys(
        [*TAKEN_USER_IDS, *TAKEN_TOOL_IDS, *MORE_IDS, "1e3", "0899", "12:30", "0o17", "y", "2026-11-25"]
    )
    for id_ in ids:
        workspace.members.add(user_id=id_, role=MEMBER_ROLE_ADMIN)
        workspace.tools.add(id=id_, name=id_, mcp_server=id_)
    for index, text in enumerate((TAKEN_TEXTS | MORE_TEXTS).values()):
        workspace.hats.add(id=f"h{index}", name=text[:128], description=text, instructions=f"{text}\n\t{text}\u2028\n")
        workspace.hats[-1].audience = HAT_AUDIENCE_WORKSPACE
    await empty_service.operator.apply(workspace)
    for form in ([], ["--json"]):
        shown = await run(empty_service, tmp_path, "workspace", "show", "acme", *form)
        back = await run(empty_service, tmp_path, "workspace", "apply", "-", stdin=shown.stdout)
        assert "nothing differed" in back.stdout, back.stderr


async def test_a_file_of_few_bytes_stays_small(empty_service: Service, tmp_path: Path) -> None:
    """Nested aliases are refused with their line before they are expanded."""
    lines = ["a0: &a0 [" + ",".join("x" * 9) + "]"]
    lines += [f"a{at}: &a{at} [{','.join([f'*a{at - 1}'] * 9)}]" for at in range(1, 10)]
    text = "\n".join(lines)
    assert len(text) < 500
    done = await run(empty_service, tmp_path, "workspace", "apply", "-", stdin=text)
    assert done.returncode == 2
    assert "standard input:7: the file has more than 1,000,000 values" in done.stderr
