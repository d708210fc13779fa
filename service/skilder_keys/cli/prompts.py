"""Ask for confirmation before a change that cannot be undone."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.text import visible

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def require_terminal(*, yes: bool) -> None:
    """End the command if it has to ask a question, but standard input is not a terminal."""
    if not yes and not sys.stdin.isatty():
        raise fail("use --yes: this cannot be undone, and there is no terminal to ask on", Exit.USAGE)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal whether to continue, and end the command if not. With `yes`, do not ask."""
    require_terminal(yes=yes)
    while not yes:
        # Use standard error, because standard output may be a file. Typer's own prompt would use standard output.
        sys.stderr.write(f"{visible(question, sys.stderr)} [y/N] ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip().lower()
        if answer in ("y", "yes"):
            return
        if answer in ("", "n", "no"):
            raise typer.Abort
