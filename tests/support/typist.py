"""The real command on a terminal of its own: a person's answers go in, what they see comes out."""

from __future__ import annotations

import errno
import os
import pty
import subprocess
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.support.process import COMMAND, environment

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

_PATIENCE = 60


@dataclass(frozen=True)
class TerminalRun:
    """What became of a command.

    Attributes:
        stdout: What it wrote to standard output, which is a file.
        terminal: What it showed on the terminal, with the answers that were typed.
    """

    returncode: int
    stdout: str
    terminal: str


def run_on_terminal(*arguments: str, folder: Path, answer: Callable[[], str], **variables: str) -> TerminalRun:
    """Run a `skilder-keys` command with its standard input and error on a terminal.

    Where it asks a yes-or-no question, `answer` is called for what to type.
    """
    ours, theirs = pty.openpty()
    try:
        with subprocess.Popen(
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
            if error.errno == errno.EIO:  # nobody has the other end open any more
                return
            raise
        if not chunk:
            return
        seen.append(chunk)
        if not asked and b"[y/N]" in b"".join(seen):
            asked = True
            os.write(terminal, answer().encode())
