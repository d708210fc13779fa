"""The entry point of the command. If the rest cannot be imported, exit with 70: Python's 1 would mean "denied"."""

from __future__ import annotations

import gc
import sys

_FAILED, _STOPPED = 70, 130  # as in `exits`, which is not loaded yet


def start() -> None:
    """Load the command and run it."""
    gc.disable()  # to load leaves no garbage, and the search for it takes a sixth of the time
    try:
        from skilder_keys.cli.main import entry  # noqa: PLC0415 - loading it is what may fail
    except KeyboardInterrupt:
        sys.exit(_STOPPED)
    except Exception as error:  # noqa: BLE001 - the last resort
        print(f"Error: skilder-keys cannot start, {type(error).__name__}: {error}", file=sys.stderr)  # noqa: T201 - nothing else is loaded yet
        sys.exit(_FAILED)
    gc.freeze()
    gc.enable()
    entry()
