"""Somebody who applies and shows workspaces, from a script or on a terminal."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tests.support.process import run_command
from tests.support.service import TOKENS
from tests.support.typist import TerminalRun, run_on_terminal
from tests.support.workspaces import yaml_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Awaitable, Callable
    from pathlib import Path

    from skilder.keys.v1.workspace_pb2 import Workspace
    from tests.support.service import Service


class Person:
    """Somebody who applies workspaces, from a script or on a terminal."""

    def __init__(self, service: Service, folder: Path) -> None:
        self._folder = folder
        self._variables = {
            "SKILDER_KEYS_SERVER": service.address,
            "SKILDER_KEYS_TOKEN_FILE": str(folder / "operator.token"),
            "PYTHONUTF8": "1",
        }
        (folder / "operator.token").write_text(TOKENS["operator"])

    def write(self, workspace: Workspace) -> str:
        """Write a workspace file and return its name."""
        (self._folder / "workspace.yaml").write_text(yaml_of(workspace), "utf-8")
        return "workspace.yaml"

    async def script(self, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        """Run `workspace` commands without a terminal."""
        done = await asyncio.to_thread(
            run_command,
            "workspace",
            *arguments,
            folder=self._folder,
            stdin=stdin,
            **self._variables,
        )
        assert "Traceback" not in done.stderr
        return done

    async def terminal(self, *arguments: str, answer: Callable[[], Awaitable[str]] | None = None) -> TerminalRun:
        """Run `workspace` commands on a terminal with standard output in a pipe, and answer a prompt."""
        loop = asyncio.get_running_loop()

        async def asked() -> str:
            assert answer is not None, "nobody expected a question"
            return await answer()

        def type_() -> str:
            return asyncio.run_coroutine_threadsafe(asked(), loop).result()

        return await asyncio.to_thread(
            run_on_terminal, "workspace", *arguments, folder=self._folder, answer=type_, **self._variables
        )
