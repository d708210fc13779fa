"""The client for Go and its programs, built once."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.lengths import LONG
from tests.support.stubs import ROOT, Language

if TYPE_CHECKING:
    from pathlib import Path

PROGRAMS = ("conformance", "walk")


def _build(folder: Path) -> None:
    (folder / "programs").mkdir()
    command = ["go", "build", "-trimpath", "-o", "programs", *(f"./internal/{each}" for each in PROGRAMS)]
    subprocess.run(command, cwd=folder, check=True)


GO_CLIENT = Language(
    "go-client",
    ROOT / "clients" / "go",
    ["go"],
    "install Go 1.26",
    _build,
    lambda folder, program: [str(folder / "programs" / program)],
)


def conformance_driver() -> list[str]:
    """Return the command of the program that makes the calls of the conformance cases."""
    if not LONG:
        pytest.skip("`make test-clients` runs it")
    return GO_CLIENT.run(GO_CLIENT.built(), "conformance")
