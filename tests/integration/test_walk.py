"""The walk of the README, word for word, against a real server process."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import assert_no_token_is_kept
from tests.support.process import COMMAND, environment, serving_process
from tests.support.walk import Step, shell, steps

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
ADDRESS = "127.0.0.1:50051"
GRPCURL = shutil.which("grpcurl", path=f"{ROOT / 'build' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")


@pytest.mark.parametrize("grpcurl", [False, True], ids=["command line alone", "with grpcurl"])
async def test_the_walk_goes_as_the_readme_says(transport: str, tmp_path: Path, *, grpcurl: bool) -> None:
    """Every command runs unchanged, only on another port, and prints what the README shows."""
    walk = steps(README.read_text("utf-8").split("## A walk", 1)[1].split("\n## ", 1)[0])
    assert len(walk) >= 9, "the README has lost its walk"
    if not grpcurl:
        walk = [step for step in walk if not re.search(r"\b(grpcurl|ask)\b", step.commands)]
        assert len(walk) >= 7
    elif GRPCURL is None:
        if os.environ.get("CI"):
            pytest.fail("grpcurl is not here: run `make tools`")
        pytest.skip("grpcurl is not here: run `make tools`, which needs Go, to take its steps too")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with serving_process(tmp_path, transport=transport) as server:
        said = await asyncio.to_thread(take, walk, tmp_path, server.address)
        said += server.text()
        token = (tmp_path / "slack-bot.token").read_text("ascii").strip()
        operator_token = (tmp_path / "data" / "operator-token").read_text("ascii").strip()
        folder = (tmp_path / "data" / "postgres").resolve()
        await assert_no_token_is_kept({token}, said, f"postgresql://postgres@/postgres?host={folder}")
        assert operator_token not in said
        assert (tmp_path / "slack-bot.token").stat().st_mode & 0o077 == 0


def take(walk: list[Step], folder: Path, address: str) -> str:
    """Take the walk in one shell, step by step, and return the whole output."""
    path = os.pathsep.join([str(COMMAND.parent), str(Path(GRPCURL or "").parent), os.environ["PATH"]])
    variables = environment({"SKILDER_KEYS_LISTEN": address, "PATH": path})
    with shell(folder, variables) as session:
        return "".join(session.take(replace(step, commands=step.commands.replace(ADDRESS, address))) for step in walk)
