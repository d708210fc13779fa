"""Commands of a page, run unchanged in one shell, with their output compared to what the page shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support import grpcurl
from tests.support.forked import lend_command
from tests.support.lengths import LONG
from tests.support.process import COMMAND, environment

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# The address of the service in the pages.
_ADDRESS = "127.0.0.1:50051"
# The end of the output of one step, with its exit code.
_MARK = "=== done"
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>[^>]*) -->\n)?```sh\n(?P<commands>.*?)```\n(?:```text\n(?P<output>.*?)```)?", re.DOTALL
)


@dataclass(frozen=True)
class Step:
    """A block of commands, and what the page says about it.

    Attributes:
        commands: The commands.
        output: The output that the page shows below, in which `…` matches anything, or None.
        mark: The text of a comment right above the block, or empty.
    """

    commands: str
    output: str | None
    mark: str

    def at(self, address: str) -> Step:
        """Return the step for a service at another address than that of the pages."""
        return replace(self, commands=self.commands.replace(_ADDRESS, address))


def steps(text: str) -> list[Step]:
    """Return the blocks of commands in a page."""
    return [Step(each["commands"], each["output"], each["mark"] or "") for each in _BLOCK.finditer(text)]


def pattern(output: str) -> re.Pattern[str]:
    """Return a pattern for an output: `…` matches any text in a line or, alone, any lines; spaces also match tabs."""
    lines = []
    for line in output.splitlines():
        if line == "…":
            lines.append(r"(?:.*\n)*?")
        else:
            words = re.escape(re.sub(r" +", " ", line)).replace(re.escape("…"), ".*")
            lines.append(words.replace(r"\ ", "[ \t]+") + "[ \t]*\n")
    return re.compile("".join(lines))


def reader_variables(address: str) -> dict[str, str]:
    """Return the environment of a reader whose commands call a service at an address."""
    path = os.pathsep.join([str(COMMAND.parent), grpcurl.PATH])
    return environment({"SKILDER_KEYS_LISTEN": address, "PATH": path})


class Shell:
    """A bash that runs steps. Make it with `shell`."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def take(self, step: Step) -> str:
        """Run a step, compare its output with what the page shows, and return it."""
        output, code = self.run(step.commands)
        assert code == 0, f"{step.commands}\nended with {code}:\n{output}"
        if step.output is not None:
            shown = f"{step.commands}\nprinted\n{output}\ninstead of\n{step.output}"
            assert pattern(step.output).fullmatch(output), shown
        return output

    def run(self, commands: str) -> tuple[str, int]:
        """Run commands as if typed, and return their output and the last exit code."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{commands}\necho '{_MARK}' $?\n")
        self._process.stdin.flush()
        output = ""
        for line in self._process.stdout:
            if _MARK in line:
                before, _, code = line.partition(_MARK)
                return output + before, int(code)
            output += line
        raise AssertionError(f"the shell ended after:\n{output}")


@contextmanager
def shell(folder: Path, variables: Mapping[str, str]) -> Iterator[Shell]:
    """Lend a shell in a folder, with exactly these environment variables.

    In the short form, the command in its PATH is forked, as to load it takes most of the time of a page.
    """
    with tempfile.TemporaryDirectory(prefix="skilder-keys-command-") as place:
        inherited: list[int] = []
        env = dict(variables)
        if not LONG and shutil.which(COMMAND.name, path=env["PATH"]) == str(COMMAND):
            inherited.append(lend_command(Path(place), COMMAND, env))
            env["PATH"] = os.pathsep.join([place, env["PATH"]])
        with subprocess.Popen(
            ["/bin/bash"],
            cwd=folder,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=inherited,
        ) as process:
            yield Shell(process)
