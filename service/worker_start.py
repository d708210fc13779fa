"""What a worker of either door does before it serves, and says where it cannot."""

from __future__ import annotations

import json
import signal


def hold_signals() -> None:
    """Keeps signals from ending this process: SIGTERM is waited for, those of a terminal are the parent's to answer."""
    signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT, signal.SIGHUP))


def failure(error: Exception, words: str) -> bytes:
    """Answers the line that tells the parent why a worker did not start."""
    return json.dumps({"failed": {"kind": type(error).__name__, "message": words}}).encode() + b"\n"
