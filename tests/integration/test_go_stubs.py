"""A client in another language: Go stubs generated from protos/, compiled, and used in a call."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.service import TOKENS

if TYPE_CHECKING:
    from tests.support.service import Service

ROOT = Path(__file__).parents[2]
PROGRAM = ROOT / "tests" / "support" / "go"
TOOLS = ROOT / "build" / "bin"
PLUGINS = {"go": TOOLS / "protoc-gen-go", "go-grpc": TOOLS / "protoc-gen-go-grpc"}


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Go program that authorizes a token, built on stubs for the import path that the protos name."""
    go = shutil.which("go")
    if go is None or not all(plugin.exists() for plugin in PLUGINS.values()):
        if os.environ.get("CI"):
            pytest.fail("the makers of Go stubs are not here: run `make tools`")
        pytest.skip("the makers of Go stubs are needed, and were not found: run `make tools`, which needs Go")
    module = shutil.copytree(PROGRAM, tmp_path_factory.mktemp("go") / "module")
    protos = sorted((ROOT / "protos").rglob("*.proto"))
    command = [sys.executable, "-m", "grpc_tools.protoc", f"--proto_path={ROOT / 'protos'}", *map(str, protos)]
    for name, plugin in PLUGINS.items():
        command += [
            f"--plugin=protoc-gen-{name}={plugin}",
            f"--{name}_out={module}",
            f"--{name}_opt=module=skilder.dev",
        ]
    subprocess.run(command, check=True)
    variables = {**os.environ, "GOFLAGS": "-mod=mod"}
    subprocess.run([go, "build", "-o", "authorize", "."], cwd=module, env=variables, check=True)
    return module / "authorize"


async def test_a_go_program_authorizes(client: Path, service: Service, tmp_path: Path) -> None:
    """With both transports; it reads the same decision as Python does."""
    (tmp_path / "service.token").write_text(TOKENS["service"])
    token = (await service.operator.issue()).token
    tools = (await service.operator.authorize(token)).granted.tool_set.tools
    for presented, decision in (
        (token, f"granted KEY_TYPE_WORKSPACE {len(tools)}\n"),
        (token[:-1], "denied DENIAL_REASON_MALFORMED\n"),
    ):
        command = [str(client), service.address, str(tmp_path / "service.token")]
        done = await asyncio.to_thread(
            subprocess.run, command, input=presented, capture_output=True, text=True, check=False
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, decision, "")
