"""The walk of the README, word for word, against a real server process."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING

import pytest

from tests.conftest import assert_no_token_is_kept
from tests.docs.links import ROOT
from tests.support import grpcurl
from tests.support.databases import rows_of
from tests.support.lengths import LONGEST
from tests.support.process import serving_process
from tests.support.walk import reader_variables, shell, steps

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from tests.support.walk import Step

_ONE_EACH = [("grpcio", False), ("envoy", True)]


@pytest.mark.parametrize(
    ("transport", "with_grpcurl"),
    [*_ONE_EACH, ("grpcio", True), ("envoy", False)] if LONGEST else _ONE_EACH,
    indirect=["transport"],
)
@pytest.mark.usefixtures("with_postgres_files")
async def test_the_walk_goes_as_the_readme_says(transport: str, tmp_path: Path, *, with_grpcurl: bool) -> None:
    """Every command is run as it stands, only on another port, and prints what the README shows."""
    walk = steps((ROOT / "README.md").read_text("utf-8").split("## A walk", 1)[1].split("\n## ", 1)[0])
    assert len(walk) >= 9, "the README has no walk"
    if with_grpcurl:
        grpcurl.required()
    else:
        walk = [step for step in walk if not re.search(r"\b(grpcurl|ask)\b", step.commands)]
        assert len(walk) >= 7
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    with serving_process(tmp_path, transport=transport) as server:
        transcript = await asyncio.to_thread(take, walk, tmp_path, server.address)
        transcript += server.text()
        files = [tmp_path / name for name in ("slack-bot.token", "slack-bot.new", "visitor.token")]
        tokens = {file.read_text("ascii").strip() for file in files}
        operator_token = (tmp_path / "data" / "operator-token").read_text("ascii").strip()
        folder = (tmp_path / "data" / "postgres").resolve()
        rows = await rows_of(f"postgresql://postgres@/postgres?host={folder}")
        assert_no_token_is_kept(tokens, transcript, rows)
        assert operator_token not in transcript
        for file in files:
            assert file.stat().st_mode & 0o077 == 0


def take(walk: Iterable[Step], folder: Path, address: str) -> str:
    """Take the walk in one shell, step by step, and return all output."""
    with shell(folder, reader_variables(address)) as session:
        return "".join(session.take(step.at(address)) for step in walk)
