"""A served service with keys as people name them, and the real command run against it in odd environments."""

from __future__ import annotations

import asyncio
import os
import subprocess
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.forked import Forked, lend_command
from tests.support.lengths import LONG
from tests.support.postgres import new_database
from tests.support.process import COMMAND, environment
from tests.support.screen import run_in_terminal
from tests.support.service import TOKENS, serving
from tests.support.workspaces import small_workspace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence
    from pathlib import Path

    from skilder.keys.v1.key_pb2 import Key
    from tests.support.service import Service

# Every version of the service accepts all of them.
DESCRIPTIONS = ("Bot für Köln", "東京支店のボット", "Café and 日本語", "x" * 120, "many short words " * 9 + "end")


@dataclass(frozen=True)
class Surroundings:
    """Runs commands against the service.

    Attributes:
        keys: The service's keys, newest first.
        token: The token of the newest key.
        forks: Whether commands with variables are forked, too, from a process that was started with these variables.
    """

    service: Service
    folder: Path
    keys: list[Key]
    token: str
    forks: bool = False

    def variables(self, more: dict[str, str]) -> dict[str, str]:
        """Return the environment of a command."""
        own = {"SKILDER_KEYS_SERVER": self.service.address, "SKILDER_KEYS_TOKEN_FILE": str(self.folder / "token")}
        return own | more

    async def run(
        self, *arguments: str, stdin: str | bytes = b"", **variables: str
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a command with pipes for its standard streams; with variables, in a new interpreter, which reads them."""
        kind: type[subprocess.Popen[bytes]] = subprocess.Popen if variables and not self.forks else Forked
        pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)

        def run() -> subprocess.CompletedProcess[bytes]:
            env = environment(self.variables(variables))
            with kind([COMMAND, *arguments], cwd=self.folder, env=env, **pipes) as process:
                try:
                    output = process.communicate(stdin.encode() if isinstance(stdin, str) else stdin, 60)
                except BaseException:
                    process.kill()
                    raise
            return subprocess.CompletedProcess(process.args, process.returncode, *output)

        return await asyncio.to_thread(run)

    async def shell(self, script: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a bash script in which `skilder-keys` is the command.

        Without variables, the short form forks it where all its streams are open.
        """
        folders, inherited = [str(COMMAND.parent), os.environ["PATH"]], []
        if not (LONG or variables):
            place = self.folder / "command"
            place.mkdir(exist_ok=True)
            inherited.append(lend_command(place, COMMAND, environment({})))
            folders.insert(0, str(place))
        return await asyncio.to_thread(
            subprocess.run,
            ["/bin/bash", "-c", script],
            cwd=self.folder,
            env=environment(self.variables({"PATH": os.pathsep.join(folders), **variables})),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            pass_fds=inherited,
        )

    async def terminal(
        self,
        *arguments: str,
        width: int,
        answers: Sequence[tuple[str, str]] = (),
        **variables: str,
    ) -> tuple[int, str]:
        """Run a command on a terminal; see `run_in_terminal`."""
        run = partial(run_in_terminal, folder=self.folder, width=width, answers=answers, forks=self.forks)
        return await asyncio.to_thread(run, *arguments, **self.variables(variables))


@pytest.fixture(scope="module")
async def surroundings(
    postgres_url: str, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Surroundings]:
    """The command, and a service that the tests of a module share."""
    folder = tmp_path_factory.mktemp("environment")
    (folder / "token").write_text(TOKENS["operator"])
    async with new_database(postgres_url, template) as url, serving(url, folder, transport="grpcio") as service:
        await service.operator.apply(small_workspace())
        issued = [await service.operator.issue(description=each) for each in DESCRIPTIONS]
        (folder / "key.token").write_text(issued[-1].token)
        yield Surroundings(service, folder, [each.key for each in reversed(issued)], issued[-1].token)
