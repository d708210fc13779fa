"""Questions before what cannot be undone."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from service.cli.exits import Exit, fail

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def require_terminal(*, yes: bool) -> None:
    """End the command where there is a question to ask and nobody to answer it."""
    if not yes and not sys.stdin.isatty():
        raise fail("use --yes: this cannot be undone, and there is no terminal to ask on", Exit.USAGE)


def confirm(question: str, *, yes: bool) -> None:
    """Ask on the terminal whether to go on, and end the command on a no. With `yes`, ask nothing."""
    require_terminal(yes=yes)
    if not yes:
        # On standard error, for standard output may be a file.
        typer.confirm(question, abort=True, err=True)
