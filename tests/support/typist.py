"""The real command on a terminal of its own: the test types a person's answers and reads what they see."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.forked import Forked
from tests.support.process import COMMAND, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PATIENCE = 60


@dataclass(frozen=True)
class TerminalRun:
    """The result of a command that ran on a terminal.

    Attributes:
        stdout: What the command wrote to standard output, which is a file.
        terminal: What the terminal showed, including the answers that were typed.
    """

    returncode: int
    stdout: str
    terminal: str


def run_on_terminal(*arguments: str, folder: Path, answer: Callable[[], str], **variables: str) -> TerminalRun:
    """Run a `skilder-keys` command with its standard input and error on a terminal.

    Where the command asks a yes-or-no question, `answer` is called and its result is typed.
    """
    ours, theirs = pty.openpty()
    try:
        with Forked[bytes](
            [COMMAND, *arguments],
            cwd=folder,
            env=environment(variables) | {"TERM": "dumb"},
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=theirs,
            start_new_session=True,
        ) as process:
            os.close(theirs)
            seen: list[bytes] = []
            reader = threading.Thread(target=_read_all, args=(ours, seen, answer), daemon=True)
            reader.start()
            stdout, _ = process.communicate(timeout=_PATIENCE)
            reader.join(_PATIENCE)
            text = b"".join(seen).decode().replace("\r\n", "\n")
            return TerminalRun(process.returncode, stdout.decode(), text)
    finally:
        os.close(ours)


def _read_all(terminal: int, seen: list[bytes], answer: Callable[[], str]) -> None:
    asked = False
    while True:
        try:
            chunk = os.read(terminal, 65536)
        except OSError as error:
            if error.errno == errno.EIO:  # the other end is closed
                return
            raise
        if not chunk:
            return
        seen.append(chunk)
        if not asked and b"[y/N]" in b"".join(seen):
            asked = True
            os.write(terminal, answer().encode())
