"""Serve with a mistake in the workers: `python -m faults.serve MUTATION`, with the variables of `serve`."""

from __future__ import annotations

import os
import sys

from skilder_keys.config import Settings
from skilder_keys.logs import make_log
from skilder_keys.supervisor.supervisor import run


def main(mutation: str) -> None:
    """Serve until stopped."""
    given = {name: os.environ.get(f"SKILDER_KEYS_{name.upper()}") for name in Settings.model_fields}
    settings = Settings.model_validate({name: value for name, value in given.items() if value is not None})
    run(settings, make_log(settings.log_format), (sys.executable, "-m", "faults.mutant", mutation))


if __name__ == "__main__":
    main(sys.argv[1])
