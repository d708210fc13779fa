"""Serve with a mistake in the workers: `python -m faults.serve MUTATION`, with the variables of `serve`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import typer

from skilder_keys.cli.options import takes_settings
from skilder_keys.logs import make_log
from skilder_keys.supervisor.supervisor import run

if TYPE_CHECKING:
    from skilder_keys.config import Settings


def main(mutation: str) -> None:
    """Serve until stopped."""

    @takes_settings()
    def serve(settings: Settings) -> None:
        run(settings, make_log(settings.log_format), (sys.executable, "-m", "faults.mutant", mutation))

    command = typer.Typer()
    command.command()(serve)
    command(args=[])


if __name__ == "__main__":
    main(sys.argv[1])
