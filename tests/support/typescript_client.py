"""The client for TypeScript, its programs and its own tests, built from what `make stubs-typescript` fetched."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.lengths import LONG
from tests.support.stubs import ROOT, Language

if TYPE_CHECKING:
    from pathlib import Path

NODE_MODULES = ROOT / "build" / "clients" / "typescript" / "node_modules"


def compile_with(folder: Path, project: str) -> None:
    """Compile a project of TypeScript in a folder that has `node_modules`."""
    command = ["node", str(NODE_MODULES / "typescript" / "bin" / "tsc"), "--project", project]
    subprocess.run(command, cwd=folder, check=True)


def _build(folder: Path) -> None:
    (folder / "node_modules").symlink_to(NODE_MODULES)
    compile_with(folder, "tsconfig.test.json")


TYPESCRIPT_CLIENT = Language(
    "typescript-client",
    ROOT / "clients" / "typescript",
    ["node", NODE_MODULES / ".ready"],
    "install Node 20 and npm, and run `make stubs`",
    _build,
    lambda folder, program: ["node", str(folder / "out" / "programs" / f"{program}.js")],
)


def conformance_driver() -> list[str]:
    """Return the command of the program that makes the calls of the conformance cases."""
    if not LONG:
        pytest.skip("`make test-clients` runs it")
    return TYPESCRIPT_CLIENT.run(TYPESCRIPT_CLIENT.built(), "conformance")
