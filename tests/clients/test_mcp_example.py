"""The README of the example of an MCP server, as a reader follows it."""

from __future__ import annotations

import socket
import sys
from typing import TYPE_CHECKING

import pytest

from tests.support.clients import PYTHON_SOURCES
from tests.support.lengths import LONG
from tests.support.process import serving_process
from tests.support.stubs import ROOT
from tests.support.walk import reader_variables, shell, steps

if TYPE_CHECKING:
    from pathlib import Path

README = ROOT / "examples" / "mcp_server" / "README.md"


@pytest.mark.skipif(not LONG, reason="`make test-clients` runs it")
@pytest.mark.usefixtures("with_postgres_files")
def test_the_walk(tmp_path: Path) -> None:
    """A tool that is moved away is gone at once, and so is a key that is revoked."""
    install, *others = steps(README.read_text("utf-8"))
    assert "[mcp]" in install.commands
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    python = tmp_path / "build" / "mcp" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nPYTHONPATH="{PYTHON_SOURCES}" exec "{sys.executable}" "$@"\n', "utf-8")
    python.chmod(0o755)
    with serving_process(tmp_path) as server, shell(tmp_path, reader_variables(server.address)) as reader:
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = str(free.getsockname()[1])
        for step in others:
            commands = step.commands.replace("8765", port)
            reader.take(type(step)(commands, step.output, step.mark).at(server.address))
