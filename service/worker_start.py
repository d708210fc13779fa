"""What workers of either door begin with: no signal ends them, and their parent hears of them in lines of JSON."""

from __future__ import annotations

import json
import signal
from typing import Any

ONE_SIGNAL_SECONDS = 1.0
"""Signals to stop within this time of the first count as one: make, for one, passes on what its group got too."""


def hold_signals() -> None:
    """Keeps signals from ending this process: SIGTERM is waited for, those of a terminal are the parent's to answer."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def failure(error: Exception, words: str) -> bytes:
    """Answers the line that tells the parent why a worker did not start."""
    return line({"failed": {"kind": type(error).__name__, "message": words}})


def line(message: dict[str, Any]) -> bytes:
    """Answers a message as a line, for the parent or from it."""
    return json.dumps(message).encode() + b"\n"
