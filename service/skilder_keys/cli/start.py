"""The first code of the command: where the rest cannot be loaded, that is a failure, not Python's 1 for "denied"."""

from __future__ import annotations

import sys

_FAILED, _STOPPED = 70, 130  # as in `exits`, which is not loaded yet


def start() -> None:
    """Load the command and run it."""
    try:
        from skilder_keys.cli.main import entry  # noqa: PLC0415 - loading it is what may fail
    except KeyboardInterrupt:
        sys.exit(_STOPPED)
    except Exception as error:  # noqa: BLE001 - the last resort
        print(f"Error: skilder-keys cannot start, {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - nothing else is there yet
        sys.exit(_FAILED)
    entry()
