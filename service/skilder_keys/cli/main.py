"""skilder-keys: the entry point of the command."""

from __future__ import annotations

import os
import sys
import traceback
from contextlib import suppress
from typing import Annotated

import typer
from typer.exceptions import TyperException

from skilder_keys import __version__
from skilder_keys.cli import stdio
from skilder_keys.cli.commands import Commands
from skilder_keys.cli.exits import Exit, fail, reason, say
from skilder_keys.cli.variables import variable

app = typer.Typer(
    cls=Commands,
    epilog="Exit codes: 0 done or granted, 1 denied or found, 2 malformed or too large, 3 not allowed, 4 not found, "
    "5 conflict, 6 unavailable, 70 failed, 74 output not written, 130 stopped, 141 output pipe closed.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,  # its frames show local variables, and one may be a token
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:  # noqa: FBT001 - as Typer calls it
    if wanted:
        typer.echo(f"skilder-keys {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Skilder Keys: the service that owns Skilder's API keys."""


def entry() -> None:
    """Run the command and exit. An error ends in a message and in an exit code that does not mean granted or denied."""
    stdio.prepare()
    try:
        code = run_app()
        stdio.flush()
    except stdio.OutputError as error:
        code = error.exit_code
        if not error.pipe_closed:
            with suppress(stdio.OutputError):
                fail(str(error), error.exit_code)
    sys.exit(code)


def run_app() -> int:
    """Run the command and return its exit code. Report all errors, except those of the output streams."""
    try:
        return app(standalone_mode=False) or Exit.OK
    except stdio.OutputError:
        raise
    except TyperException as error:
        if type(error).__name__ == "NoSuchOption":
            say("Hint: put `--` before ids that begin with a dash, and options before the `--`.")
        error.show()  # type: ignore[attr-defined]  # every usage error has it; Typer keeps their class to itself
        return error.exit_code
    except (typer.Abort, KeyboardInterrupt):
        say("stopped")
        return Exit.STOPPED
    except Exception as error:  # noqa: BLE001 - the last resort
        if os.environ.get(variable("traceback")):
            traceback.print_exc()
        return fail(
            f"the command failed unexpectedly: {reason(error)}; {variable('traceback')}=1 shows where", Exit.FAILED
        ).exit_code
