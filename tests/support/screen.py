"""Terminals for commands: a pseudo-terminal of a given width."""

from __future__ import annotations

import fcntl
import os
import re
import struct
import subprocess
import termios
from contextlib import suppress
from typing import TYPE_CHECKING

from tests.support.forked import Forked
from tests.support.process import COMMAND, environment

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_PATIENCE = 60
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


def run_in_terminal(
    *arguments: str,
    folder: Path,
    width: int,
    answers: Sequence[tuple[str, str]] = (),
    forks: bool = False,
    **variables: str,
) -> tuple[int, str]:
    """Run a `skilder-keys` command on a terminal, and return its exit code and what the terminal received.

    Variables may be read where a module is loaded, so a command with some is not forked, unless `forks` is set.

    Args:
        arguments: The arguments of the command.
        folder: Where it runs.
        width: The number of columns of the terminal.
        answers: The prompts in order, each with what is typed once it is on the terminal.
        forks: Whether to fork it from a process that was started with the variables; see `Forked`.
        variables: Variables for the command.
    """
    ours, theirs = os.openpty()
    try:
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, width, 0, 0))
        names = {"TERM": "xterm-256color", **variables}
        kind: type[subprocess.Popen[bytes]] = Forked if forks or all(map(_is_own, variables)) else subprocess.Popen
        with kind(
            [COMMAND, *arguments],
            cwd=folder,
            env=environment(names),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,  # so that the command cannot open the terminal of the person who runs the tests
        ) as process:
            os.close(theirs)
            theirs = -1
            shown, waiting = b"", list(answers)
            with suppress(OSError):  # Linux reports so that nobody has the terminal open any more
                while data := os.read(ours, 65536):
                    shown += data
                    if waiting and waiting[0][0].encode() in shown:
                        os.write(ours, f"{waiting.pop(0)[1]}\n".encode())
            return process.wait(_PATIENCE), shown.decode().replace("\r\n", "\n")
    finally:
        os.close(ours)
        if theirs >= 0:
            os.close(theirs)


def _is_own(variable: str) -> bool:
    return variable.startswith("SKILDER_KEYS_")


def without_colours(text: str) -> str:
    """Return a text without its colour codes."""
    return _COLOURS.sub("", text)
