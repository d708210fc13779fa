"""How workers and their parent treat signals."""

from __future__ import annotations

import signal

ONE_SIGNAL_SECONDS = 1.0
"""Signals to stop within this time of the first count as one: `make`, for example, repeats what its group received."""


def hold_signals() -> None:
    """Keep signals from ending this process: a worker waits for SIGTERM, and a terminal's signals are its parent's."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
