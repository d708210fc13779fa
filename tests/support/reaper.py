"""Ends the processes of a test run after the run itself has ended: `python -I -S reaper.py MARK`.

Every process that a test starts inherits MARK in its environment. When pytest has ended, normally or killed, the reaper
kills every process with MARK.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path

MARK = "SKILDER_TEST_RUN"
_SECONDS = 20.0


def main(mark: str) -> None:
    """Wait for the end of the run and kill what it left behind, repeatedly while new processes appear."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    while os.read(0, 100):
        pass
    end = time.monotonic() + _SECONDS
    while (left := marked(mark)) and time.monotonic() < end:
        for pid in left:
            with suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def marked(mark: str) -> list[int]:
    """Return the process ids of all processes with this mark, except this one."""
    wanted = f"{MARK}={mark}".encode()
    found = []
    for each in Path("/proc").iterdir():
        if each.name.isdigit() and int(each.name) != os.getpid():
            with suppress(OSError):
                if wanted in (each / "environ").read_bytes().split(b"\0"):
                    found.append(int(each.name))
    return found


if __name__ == "__main__":
    main(sys.argv[1])
