"""The walk of the README, word for word, against a real server process."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.conftest import assert_no_token_is_kept
from tests.support.process import COMMAND, environment, serving_process

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
ADDRESS = "127.0.0.1:50051"
GRPCURL = shutil.which("grpcurl", path=f"{ROOT / 'build' / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}")
# Ends the output of one step, with its exit code.
MARK = "=== done"


@dataclass(frozen=True)
class Step:
    """A block of commands, and the output the README shows below it; `…` there stands for anything."""

    commands: str
    output: str


def steps(text: str) -> list[Step]:
    """Answers the steps of the section `A walk`."""
    walk = text.split("## A walk", 1)[1].split("\n## ", 1)[0]
    blocks = re.findall(r"```sh\n(.*?)```\n(?:```text\n(.*?)```)?", walk, re.DOTALL)
    return [Step(commands, output) for commands, output in blocks]


def pattern(output: str) -> re.Pattern[str]:
    """Answers what matches the output: `…` any text in a line, or any lines where it stands alone; spaces also tabs."""
    lines = []
    for line in output.splitlines():
        if line == "…":
            lines.append(r"(?:.*\n)*?")
        else:
            words = re.escape(re.sub(r" +", " ", line)).replace(re.escape("…"), ".*")
            lines.append(words.replace(r"\ ", "[ \t]+") + "[ \t]*\n")
    return re.compile("".join(lines))


@pytest.mark.parametrize("grpcurl", [False, True], ids=["command line alone", "with grpcurl"])
async def test_the_walk_goes_as_the_readme_says(transport: str, tmp_path: Path, *, grpcurl: bool) -> None:
    """Every command is run as it stands, only on another port, and answers what the README shows."""
    walk = steps(README.read_text("utf-8"))
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
    """Takes the walk in one shell, step by step, and answers all that was said."""
    path = os.pathsep.join([str(COMMAND.parent), str(Path(GRPCURL or "").parent), os.environ["PATH"]])
    variables = environment({"SKILDER_KEYS_LISTEN": address, "PATH": path})
    said = ""
    with subprocess.Popen(
        ["/bin/bash"],
        cwd=folder,
        env=variables,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as shell:
        for step in walk:
            output, code = run(shell, step.commands.replace(ADDRESS, address))
            assert code == 0, f"{step.commands}\nended with {code}:\n{output}"
            shown = f"{step.commands}\nanswered\n{output}\ninstead of\n{step.output}"
            assert pattern(step.output).fullmatch(output), shown
            said += output
    return said


def run(shell: subprocess.Popen[str], commands: str) -> tuple[str, int]:
    """Runs commands in the shell, as if typed, and answers their output and exit code."""
    assert shell.stdin is not None
    assert shell.stdout is not None
    shell.stdin.write(f"{commands}\necho '{MARK}' $?\n")
    shell.stdin.flush()
    output = ""
    for line in shell.stdout:
        if line.startswith(MARK):
            return output, int(line.split()[-1])
        output += line
    raise AssertionError(f"the shell ended after:\n{output}")
