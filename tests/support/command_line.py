"""The command line as a caller of a served service."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

from tests.support.process import run_command
from tests.support.service import TOKENS
from tests.support.typist import TerminalRun, run_on_terminal

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from tests.support.service import Service


class CommandLine:
    """Runs commands against a served service, as one of its callers."""

    def __init__(self, service: Service, folder: Path) -> None:
        self._service = service
        self._folder = folder

    async def __call__(self, *arguments: str, stdin: str = "", caller: str = "operator") -> Any:
        """Run a command and return the finished process."""
        variables = self._variables(caller)
        done: subprocess.CompletedProcess[str] = await asyncio.to_thread(
            run_command, *arguments, folder=self._folder, stdin=stdin, **variables
        )
        assert "Traceback" not in done.stderr
        return done

    async def terminal(self, *arguments: str, answer: str) -> TerminalRun:
        """Run a command on a terminal with standard output in a pipe, and answer a question."""
        return await asyncio.to_thread(
            run_on_terminal, *arguments, folder=self._folder, answer=lambda: answer, **self._variables("operator")
        )

    def _variables(self, caller: str) -> dict[str, str]:
        token_file = self._folder / f"{caller}.token"
        token_file.write_text(TOKENS[caller])
        return {"SKILDER_KEYS_SERVER": self._service.address, "SKILDER_KEYS_TOKEN_FILE": str(token_file)}

    async def json(self, *arguments: str, stdin: str = "", code: int = 0) -> Any:
        """Run a command with --json and return the document that it prints."""
        done = await self(*arguments, "--json", stdin=stdin)
        assert done.returncode == code, done.stderr
        return json.loads(done.stdout)
