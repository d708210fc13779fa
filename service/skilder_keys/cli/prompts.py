"""Questions before what cannot be undone."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from skilder_keys.cli.exits import Exit, fail
from skilder_keys.cli.text import visible

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def require_terminal(*, yes: bool) -> None:
    """End the command where there is a question to ask and nobody to answer it."""
    if not yes and not sys.stdin.isatty():
        raise fail("use --yes: this cannot be undone, and there is no terminal to ask on", Exit.USAGE)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal whether to go on, and end the command on a no. With `yes`, ask nothing."""
    require_terminal(yes=yes)
    while not yes:
        # On standard error, for standard output may be a file; Typer's own question writes to it all the same.
        sys.stderr.write(f"{visible(question, sys.stderr)} [y/N] ")
        sys.stderr.flush()
        answer = sys.stdin.readline().strip().lower()
        if answer in ("y", "yes"):
            return
        if answer in ("", "n", "no"):
            raise typer.Abort
