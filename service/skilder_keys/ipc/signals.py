"""How workers and their parent handle signals."""

from __future__ import annotations

import signal

ONE_SIGNAL_SECONDS = 1.0
"""Stop signals within this time count as one: for example, `make` sends again what its process group has received."""


def hold_signals() -> None:
    """Block the stop signals: a worker waits for SIGTERM in a thread, and the parent handles those of a terminal."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))
