"""The process that kills workers which outlive their parent: `python -I -S watchdog.py`.

A worker ends by itself when its parent has ended, but a frozen worker cannot. This process needs only the standard
library and does nothing else. It reads from standard input the process id of each worker that starts, one per line.
The input ends when the parent ends, even if the parent was killed. Then the workers get a few seconds to finish their
calls, and those that still run are killed.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import suppress

_GRACE_SECONDS = 3.0


def main() -> None:
    """Wait until the parent has ended, and then kill the workers that do not end in time."""
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    os.chdir("/")
    # These are file descriptors, because a process id can be used again by another process.
    workers: list[int] = []
    for line in sys.stdin:
        workers = _running(workers, 0.0)
        with suppress(ProcessLookupError):
            workers.append(os.pidfd_open(int(line)))
    end = time.monotonic() + _GRACE_SECONDS
    while workers and (left := end - time.monotonic()) > 0:
        workers = _running(workers, left)
    for worker in workers:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(worker, signal.SIGKILL)


def _running(workers: list[int], seconds: float) -> list[int]:
    """Wait until a worker ends, at most this many seconds, and return the workers that still run."""
    ended, _, _ = select.select(workers, [], [], seconds)
    for worker in ended:
        os.close(worker)
    return [each for each in workers if each not in ended]


if __name__ == "__main__":
    main()
